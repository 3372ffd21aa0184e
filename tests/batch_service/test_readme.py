"""The README of the service lists what it serves."""
from __future__ import annotations

import re
from pathlib import Path

from common.batch_service.api import ROUTES, Missing, NoneOf, Refused, Route
from tests.batch_service.clients.life_cycle.client import OPERATIONS
from tests.readme import broken_links

README = Path(__file__).resolve().parents[2] / 'common' / 'batch_service' / 'README.md'
TEXT = README.read_text(encoding='utf-8')


def test_operations_are_those_of_the_routes() -> None:
    rows = re.findall(r'^\| [^|]+ \| [^|]+ \| `([A-Z]+) (/[^`]*)` \| (.*) \|$', TEXT, re.MULTILINE)

    assert rows == [(route.method, route.path, answer_of(route)) for route in ROUTES]


def answer_of(route: Route) -> str:
    if isinstance(route.handler, NoneOf):
        return 'empty list'
    if isinstance(route.handler, Missing):
        return f'answers `{route.handler.code}`'
    return f'refused: {route.handler.what}' if isinstance(route.handler, Refused) else 'served'


def test_operations_have_the_names_that_the_clients_tests_call_them_by() -> None:
    named = re.findall(r'^\| ([^|]+) \| ([^|]+) \| `[A-Z]+ /', TEXT, re.MULTILINE)

    for generation, cells in zip(('v14', 'v15'), zip(*named)):
        tested = {getattr(operation, generation) for operation in OPERATIONS.values()} - {''}
        # The tests call the first, which sends the second for each hundred tasks.
        tested |= {'create_task_collection'} if 'create_tasks' in tested else set()
        assert {name for cell in cells for name in re.findall('`(.+?)`', cell)} == tested


def test_links_lead_somewhere() -> None:
    assert broken_links(README) == []
