from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.batch_service.errors import BatchError
from common.batch_service.store import Store


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


def test_queue_has_the_oldest_tasks_that_are_ready_and_fit(store: Store) -> None:
    for number, (state, slots, ready) in enumerate([
            ('completed', 1, True), ('active', 3, True), ('active', 1, False), ('active', 2, True),
            ('active', 1, True), ('active', 1, True)]):
        task = {'id': f't{9 - number}', 'state': state, 'requiredSlots': slots}
        store.add('task', 'job', task['id'], task, ready=ready)
    assert [task['id'] for task in store.queue('job', 2, 2)] == ['t6', 't5']
    assert [task['id'] for task in store.waiting('job')] == ['t7']
