"""The life of a pool: added, brought to its size and to another, deleted with its nodes.

https://learn.microsoft.com/azure/batch/nodes-and-pools
"""

from __future__ import annotations

import re
from typing import Any

from ..errors import BatchError
from ..store import Store
from ..values import entity_tag, now
from . import nodes
from .images import NODE_AGENT_SKU_IDS, offers
from .moves import move

Document = dict[str, Any]

_KINDS = (  # the pool's target, its current number, and what a core quota is called when it is used up
    (True, 'targetDedicatedNodes', 'currentDedicatedNodes', 'AccountCoreQuotaReached'),
    (False, 'targetLowPriorityNodes', 'currentLowPriorityNodes', 'AccountLowPriorityCoreQuotaReached'))


def add(store: Store, pool: Document, due: float) -> None:
    """Takes in a new pool, whose nodes are allocated when it is due.

    Raises:
        BatchError: PoolExists, PoolBeingDeleted, or an image that is not offered.
    """
    _check_machine(pool)
    moment_added = now()
    pool |= {'vmSize': pool['vmSize'].lower(), 'eTag': entity_tag(), 'lastModified': moment_added,
             'creationTime': moment_added, 'state': 'active', 'stateTransitionTime': moment_added,
             'allocationState': 'resizing', 'allocationStateTransitionTime': moment_added,
             'currentDedicatedNodes': 0, 'currentLowPriorityNodes': 0, '_resize': {'runs': 'requeue', 'leaving': []},
             '_due': due}
    if not store.add('pool', '', pool['id'], pool):
        existing = store.get('pool', '', pool['id'])
        raise BatchError('PoolBeingDeleted' if existing['state'] == 'deleting' else 'PoolExists')


def change(store: Store, pool: Document, changes: Document, *, removed: tuple[str, ...] = ()) -> None:
    """Changes some properties, and removes others; nodes see it when they boot."""
    _refuse_if_deleting(pool)
    for name in removed:
        pool.pop(name, None)
    pool |= {**changes, 'eTag': entity_tag(), 'lastModified': now()}
    _check_machine(pool)
    pool['vmSize'] = pool['vmSize'].lower()
    store.save('pool', '', pool)


def resize(store: Store, pool: Document, targets: Document, due: float) -> None:
    """Brings the pool to another number of nodes, when it is due.

    Args:
        targets: Of the shape of a resize request.

    Raises:
        BatchError: PoolBeingDeleted or PoolBeingResized.
    """
    _refuse_unless_steady(pool)
    pool |= {name: targets[name] for _, name, _, _ in _KINDS if name in targets}
    pool['resizeTimeout'] = targets['resizeTimeout']
    _begin_resize(store, pool, targets['nodeDeallocationOption'], [], due)


def remove_nodes(store: Store, pool: Document, node_ids: list[str], running_tasks: str, due: float) -> None:
    """Takes some nodes out of the pool when it is due; it then asks for as many fewer.

    Raises:
        BatchError: PoolBeingDeleted, PoolBeingResized or NodeNotFound.
    """
    _refuse_unless_steady(pool)
    leaving = [store.get('node', pool['id'], node_id) for node_id in dict.fromkeys(node_ids)]
    for dedicated, target, _, _ in _KINDS:
        pool[target] = max(0, pool[target] - sum(node['isDedicated'] == dedicated for node in leaving))
    _begin_resize(store, pool, running_tasks, [node['id'] for node in leaving], due)


def stop_resize(store: Store, pool: Document) -> None:
    """Ends a resize where it is; the pool says in ``resizeErrors`` that it fell short."""
    _refuse_if_deleting(pool)
    if pool['allocationState'] != 'resizing':
        raise BatchError('OperationInvalidForCurrentState', PropertyName='allocationState',
                         PropertyValue=pool['allocationState'], Reason='The pool is not being resized')
    _move_allocation(pool, 'stopping')
    pool['_due'] = 0.0
    store.save('pool', '', pool)


def delete(store: Store, pool: Document) -> None:
    """Ends the pool and its nodes; its id is free when they are gone."""
    _refuse_if_deleting(pool)
    move('pool', pool, 'deleting')
    pool['_due'] = 0.0
    store.save('pool', '', pool)


def look_if_waiting(store: Store, pool_id: str) -> None:
    """Has the engine look at a pool that waits for nodes to be gone, of which one just is."""
    pool = store.find('pool', '', pool_id)
    if pool is not None and (pool['state'] == 'deleting' or '_resize' in pool) and pool.get('_due') != 0.0:
        pool['_due'] = 0.0
        store.save('pool', '', pool)


def take_nodes_down(store: Store, pool: Document) -> bool:
    """Has those nodes leave that a resize does away with; returns whether none of them is there any more.

    Which ones is decided once, and written down: a task that ends meanwhile changes nothing.
    """
    resize = pool['_resize']
    if 'decided' not in resize:
        for dedicated, target, _, _ in _KINDS:
            present = _present(store, pool, dedicated)
            if present > pool[target]:
                staying = sorted((node for node in store.all('node', pool['id'])
                                  if node['isDedicated'] == dedicated and node['id'] not in resize['leaving']),
                                 key=lambda node: node['runningTasksCount'])
                resize['leaving'] += [node['id'] for node in staying[:max(0, len(staying) - pool[target])]]
        resize['decided'] = True
        for node_id in resize['leaving']:
            if node := store.find('node', pool['id'], node_id):
                nodes.leave(store, node, resize['runs'])
    return not any(store.find('node', pool['id'], node_id) for node_id in resize['leaving'])


def allocate(store: Store, pool: Document, core_quota: int, most: int, due: float) -> None:
    """Adds the nodes that a resize asks for, as far as the quota allows, and ends the resize.

    Args:
        most: How many to add at once; the engine looks again for the others.
        due: When the new nodes boot.
    """
    errors, stopped = [], pool['allocationState'] == 'stopping'
    for dedicated, target, current, quota_reached in _KINDS:
        present = _present(store, pool, dedicated)
        wanted = pool[target] - present
        possible = wanted
        if wanted > 0:
            possible = 0 if stopped else min(wanted, _nodes_within_quota(store, pool, core_quota))
        for _ in range(min(possible, most)):
            nodes.add(store, pool, dedicated, due)
        if possible > most:
            pool['_due'] = 0.0
            store.save('pool', '', pool)
            return
        pool[current] = present + max(0, possible)
        if possible < wanted:
            errors.append({'code': 'ResizeStopped', 'message': 'The resize was stopped by a request'} if stopped
                          else {'code': quota_reached, 'message': 'The specified account has reached core quota'})
    if errors:
        pool['resizeErrors'] = errors
    del pool['_resize']
    _move_allocation(pool, 'steady')
    store.save('pool', '', pool)


def node_counts(store: Store) -> list[Document]:
    """How many nodes of each pool are in which state; as the wire has it."""
    counts = []
    for pool in store.all('pool'):
        rows = store.counts('node', pool['id'])
        entry: Document = {'poolId': pool['id']}
        for dedicated, name in ((True, 'dedicated'), (False, 'lowPriority')):
            numbers = {state: number for state, sort, number, _ in rows if sort == _sort(dedicated)}
            entry[name] = {**{state: numbers.get(state.lower(), 0) for state in nodes.STATES},
                           'total': sum(numbers.values())}
        counts.append(entry)
    return counts


def _present(store: Store, pool: Document, dedicated: bool) -> int:
    return sum(number for _, sort, number, _ in store.counts('node', pool['id']) if sort == _sort(dedicated))


def _sort(dedicated: bool) -> str:
    return '1' if dedicated else '0'


def _begin_resize(store: Store, pool: Document, running_tasks: str, leaving: list[str], due: float) -> None:
    pool.pop('resizeErrors', None)
    pool |= {'_resize': {'runs': running_tasks, 'leaving': leaving}, '_due': due}
    _move_allocation(pool, 'resizing')
    store.save('pool', '', pool)


def _nodes_within_quota(store: Store, pool: Document, core_quota: int) -> int:
    used = sum(_cores(other['vmSize']) * number for other in store.all('pool')
               for _, _, number, _ in store.counts('node', other['id']))
    return max(0, (core_quota - used) // _cores(pool['vmSize']))


def _refuse_unless_steady(pool: Document) -> None:
    _refuse_if_deleting(pool)
    if pool['allocationState'] != 'steady':
        raise BatchError('PoolBeingResized')


def _refuse_if_deleting(pool: Document) -> None:
    if pool['state'] == 'deleting':
        raise BatchError('PoolBeingDeleted')


def _move_allocation(pool: Document, state: str) -> None:
    pool |= {'allocationState': state, 'allocationStateTransitionTime': now()}


def _cores(vm_size: str) -> int:
    """The cores that a size's name tells, ``standard_d2s_v5`` for instance 2."""
    match = re.search(r'_[a-z]+(\d+)', vm_size.lower())
    return int(match[1]) if match else 1


def _check_machine(pool: Document) -> None:
    if not re.fullmatch('(standard|basic)_[a-z]+[1-9][0-9]{0,3}[a-z0-9_-]{0,60}', pool['vmSize'].lower()):
        raise BatchError('InvalidPropertyValue', PropertyName='vmSize', PropertyValue=pool['vmSize'],
                         Reason='Expected the name of a VM size such as Standard_D2s_v5')
    machine = pool['virtualMachineConfiguration']
    if machine['nodeAgentSKUId'] not in NODE_AGENT_SKU_IDS:
        raise BatchError('NodeAgentSKUNotFound', PropertyName='virtualMachineConfiguration.nodeAgentSKUId',
                         PropertyValue=machine['nodeAgentSKUId'])
    if not offers(machine['imageReference'], machine['nodeAgentSKUId']):
        raise BatchError('InvalidPropertyValue', PropertyName='virtualMachineConfiguration.imageReference',
                         PropertyValue=machine['imageReference'],
                         Reason='This image is not among the supported images, or goes with another node agent')
    most = min(4 * _cores(pool['vmSize']), 256)
    if pool['taskSlotsPerNode'] > most:
        raise BatchError('InvalidPropertyValue', PropertyName='taskSlotsPerNode',
                         PropertyValue=pool['taskSlotsPerNode'],
                         Reason=f'At most four task slots for each core of the VM size, here {most}')
