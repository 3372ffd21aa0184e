"""Filters as SQL conditions, evaluated on a real store."""

from __future__ import annotations

import itertools
import operator
import tempfile
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.batch_service.wire import odata
from common.batch_service.errors import BatchError
from common.batch_service.store import Store
from common.batch_service.values import moment, timestamp

TASKS = [
    {'id': 'a1', 'state': 'active', 'creationTime': '2026-01-31T08:00:00Z'},
    {'id': 'A2', 'state': 'running', 'creationTime': '2026-01-31T08:00:00.5Z',
     'executionInfo': {'startTime': '2026-01-31T09:00:00Z'}},
    {'id': 'b1', 'state': 'completed', 'creationTime': '2026-02-01T00:00:00Z',
     'executionInfo': {'exitCode': 0, 'result': 'success'}},
    {'id': "b'2", 'state': 'completed', 'creationTime': '2026-02-02T00:00:00Z', 'lastModified': '2026-02-03T00:00:00Z',
     'executionInfo': {'exitCode': 10, 'result': 'failure'}},
]


def let_through(text: str, documents: list[dict[str, Any]], filterable: odata.Filterable = odata.TASKS) -> list[str]:
    """The ids of the documents that a filter lets through, in the order of a store that has only them."""
    with tempfile.TemporaryDirectory() as directory, closing(Store(Path(directory) / 'batch.db')) as store:
        for document in documents:
            assert store.add('kind', 'parent', document['id'], document)
        return [document['id'] for document in
                store.page('kind', 'parent', '', 100, odata.condition(text, filterable))]


@pytest.mark.parametrize(('text', 'ids'), [
    ("state eq 'active'", ['a1']),
    ("state eq 'ACTIVE'", ['a1']),
    ("state ne 'completed'", ['a1', 'A2']),
    ("id eq 'A1'", ['a1']),
    ("startswith(id,'a')", ['a1', 'A2']),
    ("startswith(id, 'b''')", ["b'2"]),
    ("startswith ( id , 'B' ) eq true", ["b'2", 'b1']),
    ("startswith(id,'a') ne true", ["b'2", 'b1']),
    ("startswith(id,'a') ne false and id ne 'a1'", ['A2']),
    ("not startswith(id,'a')", ["b'2", 'b1']),
    ("not startswith(id,'a') eq false and id ne 'a1'", ['A2']),
    ("id gt 'a1' and id lt 'b1'", ['A2', "b'2"]),
    ("state eq 'active' or executionInfo/exitCode gt 9", ['a1', "b'2"]),
    ("(state eq 'active' or state eq 'running') and id ne 'a1'", ['A2']),
    ("id eq 'a1' or id eq 'a2' and id eq 'b1'", ['a1']),
    ("not (state eq 'completed')", ['a1', 'A2']),
    ("not(state eq 'completed')", ['a1', 'A2']),
    ("not state eq 'completed' and id ne 'a1'", ['A2']),
    ("not (not state eq 'completed')", ['b1', "b'2"]),
    ('executionInfo/exitCode eq 0', ['b1']),
    ('executionInfo/exitCode ne 0', ["b'2"]),
    ('not (executionInfo/exitCode eq 0)', ["b'2"]),
    ('0 eq executionInfo/exitCode', ['b1']),
    ('5 lt executionInfo/exitCode', ["b'2"]),
    ('10 le executionInfo/exitCode', ["b'2"]),
    ('0 ge executionInfo/exitCode', ['b1']),
    ('executionInfo/exitCode gt -1', ['b1', "b'2"]),
    (f'executionInfo/exitCode eq {"0" * 5000}10', ["b'2"]),
    (f'executionInfo/exitCode gt {-2 ** 63} and executionInfo/exitCode lt {2 ** 63 - 1}', ['b1', "b'2"]),
    ("executionInfo/result eq 'Success'", ['b1']),
    ("creationTime gt DateTime'2026-01-31T08:00:00Z'", ['A2', 'b1', "b'2"]),
    ("creationTime le datetime'2026-01-31T08:00:00.5Z'", ['a1', 'A2']),
    ("creationTime eq DateTime'2026-01-31T08:00:00.5000000Z'", ['A2']),
    ("creationTime eq DateTime'2026-01-31T08:00:00.000Z'", ['a1']),
    ("creationTime gt DateTime'2026-01-31T08:00:00.4999999Z'", ['A2', 'b1', "b'2"]),
    ("creationTime eq DateTime'2026-01-31T10:30:00+02:30'", ['a1']),
    ('creationTime lt 2026-02-01T00:00:00Z', ['a1', 'A2']),
    ('creationTime eq 2026-01-31T08:00', ['a1']),
    ('2026-02-01T00:00:00-01:00 lt creationTime', ["b'2"]),
    ("creationTime ge DateTime'Sun, 01 Feb 2026 00:00:00 GMT'", ['b1', "b'2"]),
    ("creationTime eq DateTime'Sun, 1 Feb 2026 02:00:00 +0200'", ['b1']),
    ("lastModifiedTime gt DateTime'2026-01-31T08:00:00Z'", ["b'2"]),
    ("id eq 'a1\0'", []),
    ("startswith(id, 'a1\0')", []),
])
def test_filter_lets_the_right_tasks_through(text: str, ids: list[str]) -> None:
    assert sorted(let_through(text, TASKS)) == sorted(ids)


@pytest.mark.parametrize(('text', 'ids'), [
    ('enableAutoScale eq true', ['on']), ('enableAutoScale eq false', ['off']), ('true ne enableAutoScale', ['off'])])
def test_pools_are_filtered_by_what_is_true_or_false(text: str, ids: list[str]) -> None:
    pools = [{'id': 'on', 'enableAutoScale': True}, {'id': 'off', 'enableAutoScale': False}, {'id': 'unknown'}]
    assert let_through(text, pools, odata.POOLS) == ids


@pytest.mark.parametrize(('text', 'reason'), [
    ('', 'Expected a property or a value at the end'),
    (' ', 'Expected a property or a value at the end'),
    ('nonsense', 'Expected eq, ne, gt, ge, lt or le at the end'),
    ('not', 'Expected a property or a value at the end'),
    ('id eq', 'Expected a value (a string in quotes, a number, a date, true or false) at the end'),
    ('id eq state', "Expected a value (a string in quotes, a number, a date, true or false) at 'state', position 7"),
    ('executionInfo/exitCode eq \u0663', "Expected a value (a string in quotes, a number, a date, true or false) at "
                                         "'\u0663', position 27"),
    ('1 eq 2', "Expected a property at '2', position 6"),
    ("id eq 'x' xyz", "Expected and, or, or the end at 'xyz', position 11"),
    ("id eq 'x')", "Expected and, or, or the end at ')', position 10"),
    ("(id eq 'x'", 'Expected and, or, or ) at the end'),
    ("( ) id eq 'x'", "Expected a property or a value at ')', position 3"),
    ("id eq 'x' and", 'Expected a property or a value at the end'),
    ("id eq 'x' and or", "Expected a property or a value at 'or', position 15"),
    ("id EQ 'x'", "Expected eq, ne, gt, ge, lt or le at 'EQ', position 4"),
    ("startswith(id)", "Expected , at ')', position 14"),
    ("startswith('a',id)", "Expected a property at \"'a'\", position 12"),
    ("startswith(id,5)", "Expected a string in quotes at '5', position 15"),
    ("startswith(id,'a') eq 1", "Expected true or false at '1', position 23"),
    ("startswith(id,'a'", 'Expected ) at the end'),
    ("id eq 'never closed", 'The quote at position 7 is never closed'),
    ("contains(id,'a')", "The function 'contains' is not supported; startswith is"),
    ("STATE eq 'active'", "The property 'STATE' cannot be filtered by; possible: "
                          f'{", ".join(sorted(odata.TASKS))}'),
    ("state gt 'active'", "The property 'state' cannot be compared with 'gt'"),
    ("startswith(state,'a')", "The property 'state' cannot be compared with 'startswith'"),
    ('id eq 5', "The property 'id' can be compared with a string in quotes only"),
    ('state ne true', "The property 'state' can be compared with a string in quotes only"),
    *((f'creationTime gt {date}', f'{date!r} is neither a whole number nor a date such as 2026-01-31T08:00:00Z')
      for date in ('2026-01-31', '2026-13-31T08:00:00Z', '2026-01-31T08:00.5Z', '0001-01-01T00:00:00+14:00', '1_000',
                   '1.5', '1' + '\u0663')),
    *((f"creationTime gt DateTime'{date}'", f'{date!r} is neither a whole number nor a date such as '
       '2026-01-31T08:00:00Z')
      for date in ('soon', '', 'Sun, 01 Feb 2026 00:00:00', 'Sun, 01 Feb 202\u0666 00:00:00 GMT',
                   '202\u0666-01-31T08:00:00Z', 'Mon, 01 Jan 0001 00:00:00 +2359')),
    (f'executionInfo/exitCode eq {2 ** 63}', f'The number {2 ** 63} is too large'),
    (f'executionInfo/exitCode eq {-2 ** 63 - 1}', f'The number {-2 ** 63 - 1} is too large'),
    (f'executionInfo/exitCode eq {"9" * 5000}', f'The number {"9" * 60} is too large'),
    ("id eq 'a\ud800'", 'Half of a character (a lone surrogate) at position 9'),
    (' or '.join(["id eq 'x'"] * 201), 'The filter has more than 200 comparisons'),
    ('not (' * 3000 + "id eq 'x'" + ')' * 3000, 'The filter is nested too deeply at position 76: more than 30 '
                                                'parentheses and words such as not are open'),
])
def test_filter_that_is_not_allowed_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(BatchError, match='InvalidQueryParameterValue') as error:
        odata.condition(text, odata.TASKS)
    assert error.value.values == {'QueryParameterName': '$filter', 'QueryParameterValue': text, 'Reason': reason}


@pytest.mark.parametrize(('text', 'prefix'), [
    (None, ''), ('', ''), ("startswith(name,'wd/')", 'wd/'), (" startswith( name , 'it''s' ) ", "it's")])
def test_files_are_filtered_by_the_start_of_their_names(text: str | None, prefix: str) -> None:
    assert odata.name_prefix(text) == prefix


def test_node_counts_are_filtered_by_pool() -> None:
    assert odata.selects_pool(None, 'Pool') and odata.selects_pool("poolId eq 'pOOL'", 'Pool')
    assert not odata.selects_pool("poolId eq 'other'", 'Pool')


@pytest.mark.parametrize('read', [odata.name_prefix, lambda text: odata.selects_pool(text, 'Pool')])
def test_other_filters_on_files_and_node_counts_are_refused(read: Callable[[str], Any]) -> None:
    with pytest.raises(BatchError, match='InvalidQueryParameterValue') as error:
        read("name eq 'x'")
    assert error.value.values['QueryParameterName'] == '$filter' and 'only' in error.value.values['Reason']


# Any filter, together with what it means.

class Filter(NamedTuple):
    text: str
    strength: int
    holds: Callable[[dict[str, Any]], bool | None]
    """None where a property is missing: then neither the filter nor its opposite lets the task through."""


IDS = st.text("aAbB'_1é", min_size=1, max_size=3)
MOMENTS = st.builds(lambda seconds, fraction: datetime(2026, 1, 31, 23, 59, 58, tzinfo=timezone.utc) + timedelta(
    seconds=seconds, microseconds=fraction), st.integers(0, 3), st.sampled_from([0, 0, 500_000, 50_000, 123_456]))
CODES = st.integers(-2, 2)
STATES, RESULTS = st.sampled_from(['active', 'running', 'completed']), st.sampled_from(['success', 'failure'])
DOCUMENTS = st.lists(st.fixed_dictionaries(
    {'id': IDS, 'state': STATES, 'creationTime': MOMENTS.map(timestamp)},
    optional={'executionInfo': st.fixed_dictionaries({}, optional={
        'exitCode': CODES, 'result': RESULTS, 'startTime': MOMENTS.map(timestamp)})}),
    min_size=1, max_size=6, unique_by=lambda task: folded(task['id']))
BLANKS = st.sampled_from(['', '', ' ', '  ', '\t'])
GAPS = st.sampled_from([' ', '  ', '\n'])
ORDER = {'eq': operator.eq, 'ne': operator.ne, 'gt': operator.gt, 'ge': operator.ge, 'lt': operator.lt,
         'le': operator.le}
MIRRORED = {'eq': 'eq', 'ne': 'ne', 'gt': 'lt', 'lt': 'gt', 'ge': 'le', 'le': 'ge'}
EQUALITY = ['eq', 'ne']


def folded(text: str) -> str:
    """Without regard to the case of ASCII letters, as SQLite compares."""
    return ''.join(letter.lower() if letter.isascii() else letter for letter in text)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def value_of(task: dict[str, Any], name: str) -> Any:
    for part in name.split('/'):
        task = task.get(part, {})
    return None if task == {} else moment(task) if name.endswith('Time') else task


@st.composite
def dates(draw: st.DrawFn) -> tuple[str, datetime]:
    """A moment, written in one of the ways that Batch reads, and itself."""
    when = draw(MOMENTS)
    zone = draw(st.sampled_from([0, 90, -480]))
    local = when.astimezone(timezone(timedelta(minutes=zone))).isoformat()
    text = draw(st.sampled_from([local, timestamp(when), timestamp(when).rstrip('Z'),
                                 when.strftime('%Y-%m-%dT%H:%M:%S.%f0Z')]))
    if not when.microsecond and draw(st.booleans()):
        return f"DateTime'{format_datetime(when, usegmt=True)}'", when
    return draw(st.sampled_from([text, f"DateTime'{text}'", f"datetime'{text}'"])), when


@st.composite
def comparisons(draw: st.DrawFn) -> Filter:
    name, signs, values = draw(st.sampled_from([
        ('id', list(ORDER), IDS), ('state', EQUALITY, STATES), ('executionInfo/result', EQUALITY, RESULTS),
        ('executionInfo/exitCode', list(ORDER), CODES), ('creationTime', list(ORDER), dates()),
        ('executionInfo/startTime', list(ORDER), dates())]))
    sign, value = draw(st.sampled_from(signs)), draw(values)
    if isinstance(value, tuple):
        text, value = value
    elif isinstance(value, str):
        text, value = quoted(draw(st.sampled_from([value, value.upper()])) if value.isascii() else value), folded(value)
    else:
        text = str(value)

    def holds(task: dict[str, Any]) -> bool | None:
        actual = value_of(task, name)
        return None if actual is None else ORDER[sign](folded(actual) if isinstance(actual, str) else actual, value)
    words = [name, sign, text] if draw(st.booleans()) else [text, MIRRORED[sign], name]
    return Filter(f'{words[0]}{draw(GAPS)}{words[1]}{draw(GAPS)}{words[2]}', 4, holds)


@st.composite
def prefixes(draw: st.DrawFn) -> Filter:
    prefix = draw(st.text("aAbB'_1é", max_size=2))
    suffix, expected = draw(st.sampled_from([
        ('', True), (' eq true', True), (' ne false', True), (' eq false', False), (' ne  true', False)]))
    blank = [draw(BLANKS) for _ in range(4)]
    return Filter(f'startswith({blank[0]}id{blank[1]},{blank[2]}{quoted(prefix)}{blank[3]}){suffix}', 4,
                  lambda task: folded(task['id']).startswith(folded(prefix)) is expected)


def joined(filters: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    return negations(filters) | chains(filters)


@st.composite
def negations(draw: st.DrawFn, filters: st.SearchStrategy[Filter]) -> Filter:
    inner = draw(filters)

    def holds(task: dict[str, Any]) -> bool | None:
        result = inner.holds(task)
        return None if result is None else not result
    return Filter(f'not {operand(draw, inner, 3)}', 3, holds)


@st.composite
def chains(draw: st.DrawFn, filters: st.SearchStrategy[Filter]) -> Filter:
    word, strength, decisive = draw(st.sampled_from([('or', 1, True), ('and', 2, False)]))
    inner = draw(st.lists(filters, min_size=2, max_size=4))

    def holds(task: dict[str, Any]) -> bool | None:
        results = [one.holds(task) for one in inner]
        return decisive if decisive in results else None if None in results else not decisive
    text = operand(draw, inner[0], strength)
    for one in inner[1:]:
        text += f'{draw(GAPS)}{word}{draw(GAPS)}{operand(draw, one, strength)}'
    return Filter(text, strength, holds)


def operand(draw: st.DrawFn, inner: Filter, strength: int) -> str:
    """In parentheses where they are needed, and now and then where they are not."""
    text = inner.text
    if inner.strength < strength or draw(st.integers(0, 3)) == 0:
        text = f'({draw(BLANKS)}{text}{draw(BLANKS)})'
    return text


@settings(max_examples=settings.default.max_examples * 3)
@given(chosen=st.recursive(comparisons() | prefixes(), joined, max_leaves=8), tasks=DOCUMENTS)
def test_any_filter_lets_through_what_it_means(chosen: Filter, tasks: list[dict[str, Any]]) -> None:
    assert sorted(let_through(chosen.text, tasks)) == sorted(task['id'] for task in tasks if chosen.holds(task))


# As much as is allowed, on the real parser of SQLite, whose stack has an end.

JOB = {'id': 'job', 'creationTime': '2026-01-31T08:00:00Z', 'executionInfo': {'poolId': 'pool'}}
LEAVES = {'T': "startswith(executionInfo/poolId, 'P')", 'F': 'creationTime lt 2000-01-01T00:00:00Z'}


def agrees_with_python(text: str) -> bool:
    """Whether a filter with T and F for what is true and false means what Python says that it means."""
    expected = eval(text, {'T': True, 'F': False})
    filter = ''.join(LEAVES.get(letter, letter) for letter in text)
    return let_through(filter, [JOB], odata.JOBS) == ['job'] * expected


@st.composite
def large_filters(draw: st.DrawFn) -> str:
    """200 comparisons, with up to 30 open parentheses and words."""
    openings = draw(st.lists(st.sampled_from(['(', 'not ', 'T or ', 'F or ', 'T and ', 'F and ']),
                             min_size=29, max_size=29))
    text = ''.join(openings) + 'T'
    for _ in range(openings.count('(')):
        text += draw(st.sampled_from(['', ' or F', ' or T', ' and F', ' and T'])) + ')'
    more = itertools.cycle(draw(st.lists(st.sampled_from([' or F', ' or not T', ' and T', ' and not F']), min_size=1)))
    return text + ''.join(itertools.islice(more, 200 - text.count('T') - text.count('F')))


@settings(deadline=None)
@given(large_filters())
def test_large_filter_means_what_python_says(text: str) -> None:
    assert agrees_with_python(text)


@pytest.mark.parametrize('opening', ['(', 'not ', 'not (', 'T and (', 'F or (', 'F or T and not (', 'T and (F or ('])
def test_filter_as_deep_as_is_allowed_is_evaluated(opening: str) -> None:
    opened = sum(opening.count(word) for word in ('(', 'not', 'or', 'and'))
    deep = opening * (30 // opened)
    assert agrees_with_python(f'{deep}T{")" * deep.count("(")}')
    assert agrees_with_python(f'{deep}F{")" * deep.count("(")}')


@pytest.mark.parametrize('joint', [' or ', ' and '])
@pytest.mark.parametrize('leaf', ['T', 'F', 'not T', '(F or T)', '(T and F)', 'F and T', 'not (T or F)'])
def test_200_comparisons_are_evaluated(leaf: str, joint: str) -> None:
    many = joint.join([leaf] * (200 // (leaf.count('T') + leaf.count('F'))))
    assert agrees_with_python(many)


# Whatever is sent.

TOKENS = ['and', 'or', 'not', 'eq', 'ne', 'lt', '(', ')', ',', '/', "'", "''", "'a'", '5', '-', 'true', 'id', 'state',
          'startswith', 'startswith(id', "startswith(id,'a')", "state ne 'active'", 'executionInfo/exitCode',
          'creationTime', "DateTime'", "DateTime'2026-01-31T08:00:00Z'", '2026-01-31T08:00:00', '9' * 30, '\0',
          '\ud800', '\u0663', '%', '?1', '--']
ANYTHING = st.text(st.characters(exclude_categories=()))


NEARLY = st.sampled_from([
    "id eq '{}'", "startswith(id,'{}')", "creationTime gt DateTime'{}'", 'creationTime gt 2026-01-31T{}',
    "creationTime gt DateTime'{} Feb {} GMT'", 'executionInfo/exitCode eq -{}', 'executionInfo/{} eq {}'])


@given(ANYTHING | st.lists(st.sampled_from(TOKENS) | ANYTHING, max_size=12).map(' '.join)
       | st.lists(st.sampled_from(TOKENS), max_size=8).map(''.join)
       | st.builds(lambda form, *parts: form.format(*parts), NEARLY, ANYTHING, ANYTHING))
def test_no_text_does_worse_than_be_refused(text: str) -> None:
    try:
        let_through(text, TASKS)
    except BatchError as error:
        assert error.code == 'InvalidQueryParameterValue' and error.values['Reason']


@given(st.text(min_size=1))
def test_no_value_becomes_sql(value: str) -> None:
    assert odata.condition(f'id eq {quoted(value)}', odata.TASKS) == ('(id = ?1 COLLATE NOCASE)', [value])
