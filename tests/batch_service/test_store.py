from __future__ import annotations

import os
import resource
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.batch_service.errors import BatchError
from common.batch_service.store import Store, StoreError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / 'batch.db')
    yield store
    store.close()


def test_failed_transaction_changes_nothing(store: Store) -> None:
    store.add('pool', '', 'kept', {'id': 'kept', 'state': 'active'})
    with pytest.raises(ZeroDivisionError), store.transaction():
        with store.transaction():
            store.add('pool', '', 'new', {'id': 'new'})
            store.save('pool', '', {'id': 'kept', 'state': 'deleting'})
        1 / 0
    assert store.find('pool', '', 'new') is None
    assert store.get('pool', '', 'kept')['state'] == 'active'


def test_what_was_committed_is_there_for_the_next_store(store: Store, tmp_path: Path) -> None:
    with store.transaction():
        store.add('job', '', 'j', {'id': 'j', 'state': 'active'})
    other = Store(tmp_path / 'batch.db')
    assert other.get('job', '', 'j') == {'id': 'j', 'state': 'active'}
    other.close()


def test_ids_are_unique_without_regard_to_case(store: Store) -> None:
    assert store.add('pool', '', 'Pool', {'id': 'Pool'})
    assert not store.add('pool', '', 'POOL', {'id': 'POOL'})
    assert store.find('pool', '', 'pOOL') == {'id': 'Pool'}


@pytest.mark.parametrize(('kind', 'code'), [
    ('pool', 'PoolNotFound'), ('node', 'NodeNotFound'), ('job', 'JobNotFound'), ('task', 'TaskNotFound')])
def test_what_is_not_there_is_said_by_its_kind(store: Store, kind: str, code: str) -> None:
    with pytest.raises(BatchError, match=code):
        store.get(kind, 'parent', 'id')


def test_queue_has_the_oldest_tasks_that_wait_for_none_and_fit(store: Store) -> None:
    for number, (state, slots, waits_for) in enumerate([
            ('completed', 1, None), ('active', 3, None), ('active', 1, 'T7'), ('active', 2, None),
            ('active', 1, None), ('active', 1, None)]):
        task = {'id': f't{9 - number}', 'state': state, 'requiredSlots': slots}
        store.add('task', 'job', task['id'], task, waits_for=waits_for)
    assert [task['id'] for task in store.queue('job', 2, 2)] == ['t6', 't5']
    assert [task['id'] for task in store.waiting('job', 't7')] == ['t7']
    store.set_waits_for('job', 't7', None)
    assert [task['id'] for task in store.queue('job', 1, 2)] == ['t7']
    assert store.waiting('job', 't7') == []


@pytest.mark.parametrize(('satisfying', 'others', 'missing'), [
    (['2', '3', '10', '4', '5', '6', '7', '8', '9'], ['1', '11', '2a', '-2', '٢', '9' * 20], None),
    (['2', '3', '5', '6', '7', '8', '9', '10'], ['4'], 4), (['3', '4', '5', '6', '7', '8', '9', '10'], [], 2),
    (['2', '3', '4', '5', '6', '7', '8'], ['9'], 9), (['2', '3', '4', '6', '7', '8', '9', '10'], [], 5),
    ([], [], 10), (['2', '3', '4', '5', '6', '7', '8', '9', '10'], ['002'], 2)])
def test_what_is_missing_in_a_range(store: Store, satisfying: list[str], others: list[str],
                                    missing: int | None) -> None:
    for id in others:
        store.add('task', 'job', id, {'id': id, 'state': 'active'})
    for id in satisfying:
        store.add('task', 'job', id, {'id': id, 'state': 'completed', '_satisfies': True})
    assert store.missing_in_range('job', 2, 10) == missing


def test_a_task_that_is_missing_in_a_range_is_found_in_few_steps_however_large_it_is(store: Store) -> None:
    for number in range(2_000):
        more = {} if number == 1_000 else {'_satisfies': True}
        store.add('task', 'job', str(number), {'id': str(number), 'state': 'completed', **more})
    assert steps(store, lambda: store.missing_in_range('job', 0, 1_999)) < 50


@pytest.mark.parametrize('kind', ['task', 'node'])
def test_a_page_of_a_state_is_found_in_few_steps_however_many_are_in_another(store: Store, kind: str) -> None:
    for number in range(2_000):
        document = {'id': f'{number:04}', 'state': 'active' if number > 1_990 else 'completed'}
        store.add(kind, 'p', document['id'], document)
    for where in ('state <> ?1', "state <> ?1 AND json_extract(doc, '$.x') IS NULL"):
        assert [found['id'] for found in store.page(kind, 'p', '1995', 3, (where, ['completed']))] == [
            '1996', '1997', '1998']
        assert steps(store, lambda: store.page(kind, 'p', '', 5, (where, ['completed']))) < 1_000


def steps(store: Store, question: Callable[[], object]) -> int:
    """How many instructions of its virtual machine SQLite has taken for a question."""
    taken = []
    store._connection.set_progress_handler(lambda: taken.append(1), 1)
    question()
    store._connection.set_progress_handler(None, 1)
    return len(taken)


def test_what_has_the_same_number_is_waited_for_alike(store: Store) -> None:
    store.add('task', 'job', 't', {'id': 't', 'state': 'active'}, waits_for='007')
    assert [task['id'] for task in store.waiting('job', '7')] == ['t']


def test_what_is_due_comes_by_its_moment(store: Store) -> None:
    for id, due in (('late', 3.0), ('none', None), ('early', 1.0), ('middle', 2.0)):
        store.add('job', '', id, {'id': id} if due is None else {'id': id, '_due': due})
    assert [id for _, _, id in store.due(2.0, 9)] == ['early', 'middle']
    assert [id for _, _, id in store.due(2.0, 1)] == ['early']
    assert store.next_due() == 1.0


def test_some_are_removed_and_it_is_said_whether_those_were_all(store: Store) -> None:
    for number in range(3):
        store.add('task', 'job', str(number), {'id': str(number), 'state': 'active'})
    assert not store.remove_some('task', 'job', 2)
    assert store.remove_some('task', 'job', 2)
    assert store.all('task') == []


def test_whoever_listens_is_told_of_each_transaction_that_changed_something(tmp_path: Path) -> None:
    told: list[int] = []
    store = Store(tmp_path / 'batch.db', lambda: told.append(1))
    told.clear()
    with store.transaction():
        store.find('job', '', 'j')
    assert told == []
    with store.transaction():
        with store.transaction():
            store.add('job', '', 'j', {'id': 'j'})
        assert told == []
    assert told == [1]
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.remove('job', '', 'j')
        1 / 0
    assert told == [1]
    store.close()


# Counts

_STATES = st.sampled_from(['active', 'running', 'completed'])
_CHANGES = st.lists(st.tuples(st.sampled_from(['add', 'save', 'remove']), st.sampled_from(['j', 'J', 'k']),
                              st.sampled_from(['a', 'A', 'b']), _STATES, st.sampled_from(['', 'success', 'failure']),
                              st.integers(1, 3), st.booleans()), max_size=30)


@given(_CHANGES)
@settings(max_examples=50, deadline=None)
def test_counts_are_the_truth_after_any_changes(changes: list[tuple[str, str, str, str, str, int, bool]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory) / 'batch.db')
        for what, job, id, state, result, slots, fails in changes:
            document = {'id': id, 'state': state, 'requiredSlots': slots,
                        'executionInfo': {'result': result} if result else {}}
            with suppress(ZeroDivisionError), store.transaction():
                if what == 'add':
                    store.add('task', job, id, document)
                elif what == 'save':
                    store.save('task', job, document)
                else:
                    store.remove('task', job, id)
                1 / (not fails)
            for parent in ('j', 'k'):
                truth = [(task['state'], task['executionInfo'].get('result', ''), task['requiredSlots'])
                         for task in store.all('task', parent)]
                numbers, slot_numbers = Counter(row[:2] for row in truth), Counter[tuple[str, str]]()
                for row in truth:
                    slot_numbers[row[:2]] += row[2]
                assert {(row[0], row[1]): row[2] for row in store.counts('task', parent)} == numbers
                assert {(row[0], row[1]): row[3] for row in store.counts('task', parent)} == slot_numbers
        store.close()


# A database that cannot be used

def refusal(path: Path) -> str:
    with pytest.raises(StoreError) as error:
        Store(path)
    assert str(path) in str(error.value)
    assert '\n' not in str(error.value)
    return str(error.value)


def sql(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_to_count_many_costs_no_more_than_to_count_few(store: Store) -> None:
    store.add('task', 'j', 'first', {'id': 'first', 'state': 'active'})
    few = steps(store, lambda: store.counts('task', 'j'))
    with store.transaction():
        for number in range(100):
            store.add('task', 'j', str(number), {'id': str(number), 'state': 'active'})
    assert steps(store, lambda: store.counts('task', 'j')) == few > 0


def test_many_tasks_that_do_not_fit_cost_the_queue_no_more_than_one(store: Store) -> None:
    def add(id: str, slots: int) -> None:
        store.add('task', 'j', id, {'id': id, 'state': 'active', 'requiredSlots': slots})
    add('wide', 4)
    add('narrow', 1)
    one = steps(store, lambda: store.queue('j', 5, 2))
    with store.transaction():
        for number in range(100):
            add(str(number), 4)
    assert steps(store, lambda: store.queue('j', 5, 2)) == one
    assert [task['id'] for task in store.queue('j', 5, 2)] == ['narrow']
    assert [task['id'] for task in store.queue('j', 3, 4)] == ['wide', 'narrow', '0']


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'batch.db').write_bytes(os.urandom(10_000))
    assert refusal(tmp_path / 'batch.db').endswith('file is not a database. To begin anew, delete the workspace.')


def test_damaged_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'batch.db'
    store = Store(path)
    with store.transaction():
        for number in range(200):
            store.add('job', '', f'j{number}', {'id': f'j{number}', 'text': 'x' * 500})
    store.close()
    with open(path, 'r+b') as file:
        file.seek(8_192)
        file.write(b'\xff' * (path.stat().st_size - 8_192))
    assert refusal(path).endswith('To begin anew, delete the workspace.')


@pytest.mark.parametrize('change', ['PRAGMA user_version = 1', 'PRAGMA user_version = 99'])
def test_database_of_another_version_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / 'batch.db'
    Store(path).close()
    sql(path, change)
    assert 'is of another version of this service: use another workspace' in refusal(path)


def test_database_from_before_there_were_versions_is_refused(tmp_path: Path) -> None:
    sql(tmp_path / 'batch.db', 'CREATE TABLE resource (doc TEXT)')
    assert 'is of another version of this service' in refusal(tmp_path / 'batch.db')


def test_database_of_another_program_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / 'batch.db'
    sql(path, 'PRAGMA application_id = 7', 'CREATE TABLE theirs (a)')
    assert 'is something else' in refusal(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute('SELECT name FROM sqlite_master').fetchall() == [('theirs',)]


def test_directory_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'batch.db').mkdir()
    assert refusal(tmp_path / 'batch.db').endswith('cannot be used: Is a directory.')


def test_disk_without_room_for_a_database_is_named(tmp_path: Path) -> None:
    with largest_file(100):
        text = refusal(tmp_path / 'batch.db')
    assert 'delete' not in text


def test_nobody_else_reads_the_database_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = Store(tmp_path / 'batch.db')
        with store.transaction():
            store.add('job', '', 'j', {'id': 'j'})
        assert {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == dict.fromkeys(
            ('batch.db', 'batch.db-wal', 'batch.db-shm'), 0o600)
        store.close()
    finally:
        os.umask(before)


# A disk that is full

@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process grows beyond a size: it is what a full disk is like."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_database_takes_nothing_of_a_transaction_and_goes_on_when_there_is_room(store: Store) -> None:
    store.add('task', 'job', 'kept', {'id': 'kept', 'state': 'active'})
    [pages], = store._connection.execute('PRAGMA page_count')
    store._connection.execute(f'PRAGMA max_page_count = {pages + 2}')
    with pytest.raises(sqlite3.OperationalError, match='full'), store.transaction():
        with store.transaction():
            store.save('task', 'job', {'id': 'kept', 'state': 'completed'})
        for number in range(100):
            store.add('task', 'job', f't{number}', {'id': f't{number}', 'state': 'active', 'text': 'x' * 1_000})
    assert store.all('task') == [{'id': 'kept', 'state': 'active'}]
    assert store.counts('task', 'job') == [('active', '', 1, 1)]
    store._connection.execute('PRAGMA max_page_count = 1000000')
    with store.transaction():
        store.add('task', 'job', 'new', {'id': 'new', 'state': 'active'})
    assert store.counts('task', 'job') == [('active', '', 2, 2)]


def test_transaction_that_cannot_be_committed_changes_nothing(tmp_path: Path) -> None:
    told: list[int] = []
    store = Store(tmp_path / 'batch.db', lambda: told.append(1))
    told.clear()
    reached = False
    with largest_file((tmp_path / 'batch.db-wal').stat().st_size):
        with pytest.raises(sqlite3.OperationalError), store.transaction():
            store.add('job', '', 'j', {'id': 'j'})
            reached = True
    assert reached and not told
    assert store.find('job', '', 'j') is None
    with store.transaction():
        assert store.add('job', '', 'j', {'id': 'j'})
    assert told
    store.close()
    again = Store(tmp_path / 'batch.db')
    assert again.find('job', '', 'j') == {'id': 'j'}
    again.close()
