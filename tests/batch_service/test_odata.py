"""Filters as SQL conditions, evaluated on a real store."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.batch_service import odata
from common.batch_service.errors import BatchError
from common.batch_service.store import Store

TASKS = [
    {'id': 'a1', 'state': 'active', 'creationTime': '2026-01-31T08:00:00Z'},
    {'id': 'A2', 'state': 'running', 'creationTime': '2026-01-31T08:00:00.5Z',
     'executionInfo': {'startTime': '2026-01-31T09:00:00Z'}},
    {'id': 'b1', 'state': 'completed', 'creationTime': '2026-02-01T00:00:00Z',
     'executionInfo': {'exitCode': 0, 'result': 'success'}},
    {'id': "b'2", 'state': 'completed', 'creationTime': '2026-02-02T00:00:00Z',
     'executionInfo': {'exitCode': 10, 'result': 'failure'}},
]


@pytest.fixture
def find(tmp_path: Path) -> Iterator[Callable[[str], list[str]]]:
    """The ids of the tasks that a filter lets through."""
    store = Store(tmp_path / 'batch.db')
    for task in TASKS:
        store.add('task', 'job', task['id'], task)
    yield lambda text: [task['id'] for task in store.page('task', 'job', '', 10, odata.condition(text, odata.TASKS))]
    store.close()


@pytest.mark.parametrize(('text', 'ids'), [
    ("state eq 'active'", ['a1']),
    ("state eq 'ACTIVE'", ['a1']),
    ("state ne 'completed'", ['a1', 'A2']),
    ("id eq 'A1'", ['a1']),
    ("startswith(id,'a')", ['a1', 'A2']),
    ("startswith(id, 'b''')", ["b'2"]),
    ("id gt 'a1' and id lt 'b1'", ['A2', "b'2"]),
    ("state eq 'active' or executionInfo/exitCode gt 9", ['a1', "b'2"]),
    ("(state eq 'active' or state eq 'running') and id ne 'a1'", ['A2']),
    ("not (state eq 'completed')", ['a1', 'A2']),
    ('executionInfo/exitCode eq 0', ['b1']),
    ('0 eq executionInfo/exitCode', ['b1']),
    ('5 lt executionInfo/exitCode', ["b'2"]),
    ("executionInfo/result eq 'Success'", ['b1']),
    ("creationTime gt DateTime'2026-01-31T08:00:00Z'", ['A2', 'b1', "b'2"]),
    ("creationTime le datetime'2026-01-31T08:00:00.5Z'", ['a1', 'A2']),
    ('creationTime lt 2026-02-01T00:00:00Z', ['a1', 'A2']),
    ("creationTime ge DateTime'Sun, 01 Feb 2026 00:00:00 GMT'", ['b1', "b'2"]),
    ("lastModifiedTime gt DateTime'2026-01-31T08:00:00Z'", []),
])
def test_filter_lets_the_right_tasks_through(find, text: str, ids: list[str]) -> None:
    assert sorted(find(text)) == sorted(ids)


@pytest.mark.parametrize(('text', 'reason'), [
    ('nonsense', 'Compare|parse|name|not supported'),
    ("colour eq 'red'", "'colour' cannot be filtered by"),
    ("state gt 'active'", "'state' cannot be compared with 'gt'"),
    ("startswith(state,'a')", "'state' cannot be compared with 'startswith'"),
    ("creationTime gt DateTime'soon'", '.'),
    ("id eq 'never closed", '.'),
    ('id eq executionInfo', '.'),
    ("id eq id", '.'),
    ("contains(id,'a')", 'Call is not supported'),
    ("STATE eq 'active'", "'STATE' cannot be filtered by"),
    ('not (' * 3000 + "id eq 'x'" + ')' * 3000, 'too deeply'),
    (' or '.join(["id eq 'x'"] * 300), 'more than'),
    (f'executionInfo/exitCode eq {2 ** 63}', 'too large'),
])
def test_filter_that_is_not_allowed_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(BatchError, match='InvalidQueryParameterValue') as error:
        odata.condition(text, odata.TASKS)
    assert error.value.values['QueryParameterName'] == '$filter'
    assert re.search(reason, error.value.values['Reason'])


@given(st.text())
def test_no_text_does_worse_than_be_refused(text: str) -> None:
    try:
        condition, parameters = odata.condition(text, odata.TASKS)
    except BatchError as error:
        assert error.code == 'InvalidQueryParameterValue'
    else:
        assert isinstance(condition, str) and isinstance(parameters, list)


@given(st.text(min_size=1).filter(lambda text: '\0' not in text))
def test_no_value_becomes_sql(value: str) -> None:
    quoted = value.replace("'", "''")
    condition, parameters = odata.condition(f"id eq '{quoted}'", odata.TASKS)
    assert condition == "(json_extract(doc, '$.id') = ?1 COLLATE NOCASE)"
    assert parameters == [value]
