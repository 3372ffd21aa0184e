from __future__ import annotations

from typing import Any

import pytest

from common.batch_service.errors import BatchError
from common.batch_service.life import pools
from common.batch_service.store import Store

from .bench import Document, pool_document


def add(store: Store, id: str = 'p', **properties: Any) -> Document:
    pools.add(store, pool := pool_document(id, **properties), 7.0)
    return pool


def read(store: Store) -> Document:
    return store.get('pool', '', 'p')


def allocate(store: Store, quota: int = 1_000, most: int = 100) -> Document:
    """What the engine does with a pool that is resizing, once."""
    pool = read(store)
    pool.pop('_due', None)
    if pools.take_nodes_down(store, pool):
        pools.allocate(store, pool, quota, most, 9.0)
    else:
        store.save('pool', '', pool)
    return read(store)


def forget_leaving(store: Store) -> list[str]:
    leaving = [node['id'] for node in store.all('node', 'p', 'leavingpool')]
    for node_id in leaving:
        store.remove('node', 'p', node_id)
    return leaving


def resize(store: Store, dedicated: int, low_priority: int = 0, option: str = 'requeue') -> None:
    pools.resize(store, read(store), {'targetDedicatedNodes': dedicated, 'targetLowPriorityNodes': low_priority,
                                      'resizeTimeout': 'PT20M', 'nodeDeallocationOption': option}, 8.0)


def test_added_pool_is_resizing_until_it_has_its_nodes(store: Store) -> None:
    add(store, targetDedicatedNodes=2, targetLowPriorityNodes=1)
    pool = read(store)
    assert (pool['state'], pool['allocationState'], pool['_due'], pool['vmSize']) == (
        'active', 'resizing', 7.0, 'standard_d2s_v5')
    pool = allocate(store)
    assert (pool['allocationState'], pool['currentDedicatedNodes'], pool['currentLowPriorityNodes']) == ('steady', 2, 1)
    assert '_resize' not in pool and 'resizeErrors' not in pool
    assert [(node['isDedicated'], node['_due']) for node in store.all('node', 'p')] == [
        (True, 9.0), (True, 9.0), (False, 9.0)]


def test_many_nodes_are_added_some_at_a_time(store: Store) -> None:
    add(store, targetDedicatedNodes=5)
    for number in (2, 4):
        assert allocate(store, most=2)['_due'] == 0.0
        assert len(store.all('node', 'p')) == number
    assert allocate(store, most=2)['allocationState'] == 'steady'
    assert len(store.all('node', 'p')) == 5


@pytest.mark.parametrize(('state', 'code'), [('active', 'PoolExists'), ('deleting', 'PoolBeingDeleted')])
def test_id_of_another_pool_is_refused(store: Store, state: str, code: str) -> None:
    store.save('pool', '', add(store) | {'state': state})
    with pytest.raises(BatchError, match=code):
        add(store, 'P')


@pytest.mark.parametrize(('kind', 'code'), [('targetDedicatedNodes', 'AccountCoreQuotaReached'),
                                            ('targetLowPriorityNodes', 'AccountLowPriorityCoreQuotaReached')])
def test_quota_of_cores_bounds_the_nodes_of_all_pools(store: Store, kind: str, code: str) -> None:
    add(store, **{kind: 3})
    pool = allocate(store, quota=5)
    assert [error['code'] for error in pool['resizeErrors']] == [code]
    assert (pool['allocationState'], len(store.all('node', 'p'))) == ('steady', 2)
    assert pool[kind.replace('target', 'current')] == 2


def test_nodes_of_other_pools_use_up_the_quota(store: Store) -> None:
    add(store, targetDedicatedNodes=1)
    allocate(store)
    other = add(store, 'q', targetDedicatedNodes=1)
    pools.allocate(store, other, 3, 100, 9.0)
    assert store.all('node', 'q') == []


REQUESTS = {
    'resize': lambda store, pool: pools.resize(store, pool, {
        'targetDedicatedNodes': 1, 'resizeTimeout': 'PT15M', 'nodeDeallocationOption': 'requeue'}, 0.0),
    'remove': lambda store, pool: pools.remove_nodes(store, pool, ['n'], 'requeue', 0.0),
    'stop': pools.stop_resize, 'delete': pools.delete, 'change': lambda store, pool: pools.change(store, pool, {})}


@pytest.mark.parametrize('request_name', REQUESTS)
def test_pool_being_deleted_refuses(store: Store, request_name: str) -> None:
    add(store)
    pools.delete(store, read(store))
    assert (read(store)['state'], read(store)['_due']) == ('deleting', 0.0)
    with pytest.raises(BatchError, match='PoolBeingDeleted'):
        REQUESTS[request_name](store, read(store))


@pytest.mark.parametrize('request_name', ['resize', 'remove'])
def test_pool_being_resized_refuses(store: Store, request_name: str) -> None:
    with pytest.raises(BatchError, match='PoolBeingResized'):
        REQUESTS[request_name](store, add(store))


def test_steady_pool_has_no_resize_to_stop_and_no_such_node(store: Store) -> None:
    add(store)
    with pytest.raises(BatchError, match='OperationInvalidForCurrentState'):
        pools.stop_resize(store, allocate(store))
    with pytest.raises(BatchError, match='NodeNotFound'):
        pools.remove_nodes(store, read(store), ['n'], 'requeue', 0.0)
    assert read(store)['allocationState'] == 'steady'


def test_resize_that_was_stopped_says_that_it_fell_short(store: Store) -> None:
    add(store, targetDedicatedNodes=2)
    pools.stop_resize(store, read(store))
    assert (read(store)['allocationState'], read(store)['_due']) == ('stopping', 0.0)
    pool = allocate(store)
    assert [error['code'] for error in pool['resizeErrors']] == ['ResizeStopped']
    assert (pool['allocationState'], pool['currentDedicatedNodes'], store.all('node')) == ('steady', 0, [])
    resize(store, 2)
    assert 'resizeErrors' not in read(store)
    assert (read(store)['allocationState'], read(store)['_due'], read(store)['resizeTimeout']) == (
        'resizing', 8.0, 'PT20M')


def test_smaller_pool_gives_up_the_nodes_with_the_fewest_tasks_which_is_decided_once(store: Store) -> None:
    add(store, targetDedicatedNodes=3, targetLowPriorityNodes=1)
    allocate(store)
    busy = store.all('node', 'p')[0] | {'runningTasksCount': 1}
    store.save('node', 'p', busy)
    resize(store, 1, 1, 'taskcompletion')
    assert allocate(store)['allocationState'] == 'resizing'
    leaving = store.all('node', 'p', 'leavingpool')
    assert len(leaving) == 2 and busy['id'] not in [node['id'] for node in leaving]
    assert {(node['_end'], node['isDedicated']) for node in leaving} == {('wait', True)}
    store.save('node', 'p', busy | {'runningTasksCount': 0})
    store.save('node', 'p', leaving[0] | {'runningTasksCount': 5})
    allocate(store)
    assert len(store.all('node', 'p', 'leavingpool')) == 2
    forget_leaving(store)
    pool = allocate(store)
    assert (pool['allocationState'], pool['currentDedicatedNodes'], pool['currentLowPriorityNodes']) == ('steady', 1, 1)


def test_removed_nodes_leave_and_the_pool_asks_for_as_many_fewer(store: Store) -> None:
    add(store, targetDedicatedNodes=3)
    allocate(store)
    chosen = store.all('node', 'p')[1]['id']
    pools.remove_nodes(store, read(store), [chosen, chosen], 'terminate', 8.0)
    assert (read(store)['targetDedicatedNodes'], read(store)['_due']) == (2, 8.0)
    allocate(store)
    assert [node['_end'] for node in store.all('node', 'p', 'leavingpool')] == ['terminate']
    assert forget_leaving(store) == [chosen]
    assert allocate(store)['currentDedicatedNodes'] == 2


def test_pool_that_waits_for_its_nodes_is_looked_at(store: Store) -> None:
    add(store)
    allocate(store)
    pools.look_if_waiting(store, 'p')
    assert '_due' not in read(store)
    resize(store, 0)
    pools.look_if_waiting(store, 'P')
    assert read(store)['_due'] == 0.0
    pools.delete(store, read(store))
    store.save('pool', '', {name: value for name, value in read(store).items() if name not in ('_due', '_resize')})
    pools.look_if_waiting(store, 'p')
    assert read(store)['_due'] == 0.0
    pools.look_if_waiting(store, 'gone')


def test_change_changes_and_removes(store: Store) -> None:
    before = add(store, metadata=[{'name': 'a', 'value': 'b'}])['eTag']
    pools.change(store, read(store), {'vmSize': 'STANDARD_A1_v2'}, removed=('metadata',))
    pool = read(store)
    assert (pool['vmSize'], 'metadata' in pool, pool['eTag'] != before) == ('standard_a1_v2', False, True)
    with pytest.raises(BatchError, match='InvalidPropertyValue'):
        pools.change(store, read(store), {'taskSlotsPerNode': 5})
    assert read(store)['taskSlotsPerNode'] == 1


def test_node_counts_are_of_each_pool(store: Store) -> None:
    add(store, targetDedicatedNodes=2, targetLowPriorityNodes=1)
    allocate(store)
    add(store, 'q')
    store.save('node', 'p', store.all('node', 'p')[0] | {'state': 'starttaskfailed'})
    first, second = pools.node_counts(store)
    assert (first['poolId'], second['poolId']) == ('p', 'q')
    assert {name: number for name, number in first['dedicated'].items() if number} == {
        'creating': 1, 'startTaskFailed': 1, 'total': 2}
    assert {name: number for name, number in first['lowPriority'].items() if number} == {'creating': 1, 'total': 1}
    assert set(second['dedicated'].values()) == {0}


def test_nodes_are_counted_without_being_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read_all, kinds = store.all, []
    monkeypatch.setattr(store, 'all', lambda kind, *rest: kinds.append(kind) or read_all(kind, *rest))
    add(store, targetDedicatedNodes=2)
    add(store, 'q')
    allocate(store)
    pools.node_counts(store)
    assert set(kinds) == {'pool'}
