"""The life cycle's own fixtures: they work where the conftest files above cannot be imported, with another SDK.

A process that runs the life cycle with another SDK is told in a file which services to use; in the process of the
project's other tests, the services are theirs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .client import GENERATION, TOLD_FILE, VERSION, Account, Client, Refused
from .workbench import Workbench


def pytest_report_header() -> str:
    return f'azure-batch {VERSION}'


def _told(name: str) -> Any:
    """What another process told this one; None if there is no such process."""
    file = os.environ.get(TOLD_FILE)
    return json.loads(Path(file).read_text())[name] if file else None


def _account(request: pytest.FixtureRequest, name: str) -> Account:
    told = _told(name)
    return Account(**told) if told else request.getfixturevalue(name)


def _client(account: Account) -> Client:
    if GENERATION == 'v14':
        from .v14 import V14
        return V14(account)
    from .v15 import V15
    return V15(account)


@pytest.fixture(scope='session')
def client(request: pytest.FixtureRequest) -> Client:
    """A client of a service that is neither slow nor in trouble."""
    return _client(_account(request, 'account'))


@pytest.fixture(scope='session')
def slow_client(request: pytest.FixtureRequest) -> Client:
    """A client of a service whose pools resize, and whose deleted pools and jobs keep their ids, for an hour."""
    return _client(_account(request, 'slow_account'))


@pytest.fixture(scope='session')
def wrong_key_client(request: pytest.FixtureRequest) -> Client:
    """A client that signs with another key than the account's."""
    return _client(dataclasses.replace(_account(request, 'account'), key='d3Jvbmc='))


@pytest.fixture(scope='session')
def container_url(request: pytest.FixtureRequest) -> str:
    """The URL of a container, with a SAS to list, read and write its blobs."""
    return _told('container') or request.getfixturevalue('container')


@pytest.fixture
def new_id() -> Callable[[str], str]:
    """Makes an id that no other test uses."""
    return lambda prefix: f'{prefix}-{secrets.token_hex(4)}'


@pytest.fixture
def empty_bench(client: Client, new_id: Callable[[str], str]) -> Iterator[Workbench]:
    """A workbench whose pool and job the test adds itself; both are deleted afterwards."""
    bench = Workbench(client, new_id('pool'), new_id('job'))
    yield bench
    for delete, id in ((client.delete_job, bench.job_id), (client.delete_pool, bench.pool_id)):
        try:
            delete(id)
        except Refused as refusal:
            assert refusal.code in ('JobNotFound', 'PoolNotFound', 'JobBeingDeleted', 'PoolBeingDeleted')


@pytest.fixture
def bench(empty_bench: Workbench) -> Workbench:
    """A workbench with a pool of one node with four slots, and a job."""
    empty_bench.add_pool()
    empty_bench.add_job()
    return empty_bench
