"""The life of a pool: added, brought to its size and to another, deleted with its nodes."""

from __future__ import annotations

import asyncio
import re
import shutil
from typing import TYPE_CHECKING, Any

from .errors import BatchError
from .images import NODE_AGENT_SKU_IDS, offers
from .nodes import STATES
from .settings import slow
from .values import entity_tag, now

if TYPE_CHECKING:
    from .service import BatchService

Document = dict[str, Any]

_KINDS = (  # the pool's target, its current number, and what a core quota is called when it is used up
    (True, 'targetDedicatedNodes', 'currentDedicatedNodes', 'AccountCoreQuotaReached'),
    (False, 'targetLowPriorityNodes', 'currentLowPriorityNodes', 'AccountLowPriorityCoreQuotaReached'))


class Pools:
    """Every change of a pool's state.

    https://learn.microsoft.com/azure/batch/nodes-and-pools
    """

    def __init__(self, service: BatchService) -> None:
        self._service = service
        self._store = service.store
        self._resizes: dict[str, asyncio.Event] = {}

    def resume(self) -> None:
        """Boots the nodes of an earlier run of the service, and goes on with what it had begun."""
        for pool in self._store.all('pool'):
            self._service.nodes.resume(pool['id'])
            if pool['state'] == 'deleting':
                self._service.spawn(self._delete(pool['id']))
            elif pool['allocationState'] != 'steady':
                self._begin_resize(pool, 'resizing')

    def add(self, pool: Document) -> None:
        """Takes in a new pool and begins to allocate its nodes.

        Raises:
            BatchError: PoolExists, PoolBeingDeleted, or an image that is not offered.
        """
        _check_machine(pool)
        moment_added = now()
        pool |= {'vmSize': pool['vmSize'].lower(), 'eTag': entity_tag(), 'lastModified': moment_added,
                 'creationTime': moment_added, 'state': 'active', 'stateTransitionTime': moment_added,
                 'allocationState': 'resizing', 'allocationStateTransitionTime': moment_added,
                 'currentDedicatedNodes': 0, 'currentLowPriorityNodes': 0}
        if not self._store.add('pool', '', pool['id'], pool):
            existing = self._store.get('pool', '', pool['id'])
            raise BatchError('PoolBeingDeleted' if existing['state'] == 'deleting' else 'PoolExists')
        self._begin_resize(pool, 'resizing')

    def change(self, pool: Document, changes: Document, *, removed: tuple[str, ...] = ()) -> None:
        """Changes some properties, and removes others; nodes see it when they boot."""
        _refuse_if_deleting(pool)
        for name in removed:
            pool.pop(name, None)
        pool |= {**changes, 'eTag': entity_tag(), 'lastModified': now()}
        _check_machine(pool)
        pool['vmSize'] = pool['vmSize'].lower()
        self._store.save('pool', '', pool)

    def resize(self, pool: Document, targets: Document) -> None:
        """Brings the pool to another number of nodes.

        Args:
            targets: Of the shape of a resize request.

        Raises:
            BatchError: PoolBeingDeleted or PoolBeingResized.
        """
        self._refuse_unless_steady(pool)
        pool |= {name: targets[name] for _, name, _, _ in _KINDS if name in targets}
        pool['resizeTimeout'] = targets['resizeTimeout']
        self._begin_resize(pool, 'resizing', targets['nodeDeallocationOption'])

    def remove_nodes(self, pool: Document, node_ids: list[str], running_tasks: str) -> None:
        """Takes some nodes out of the pool, which then asks for as many fewer.

        Raises:
            BatchError: PoolBeingDeleted, PoolBeingResized or NodeNotFound.
        """
        self._refuse_unless_steady(pool)
        nodes = [self._store.get('node', pool['id'], node_id) for node_id in dict.fromkeys(node_ids)]
        for dedicated, target, _, _ in _KINDS:
            pool[target] = max(0, pool[target] - sum(node['isDedicated'] == dedicated for node in nodes))
        self._begin_resize(pool, 'resizing', running_tasks, [node['id'] for node in nodes])

    def stop_resize(self, pool: Document) -> None:
        """Ends a resize where it is; the pool says in ``resizeErrors`` that it fell short."""
        _refuse_if_deleting(pool)
        resize = self._resizes.get(pool['id'])
        if pool['allocationState'] != 'resizing' or resize is None:
            raise BatchError('OperationInvalidForCurrentState', PropertyName='allocationState',
                             PropertyValue=pool['allocationState'], Reason='The pool is not being resized')
        self._move_allocation(pool, 'stopping')
        resize.set()

    def delete(self, pool: Document) -> None:
        """Ends the pool and its nodes; its id is free when they are gone."""
        _refuse_if_deleting(pool)
        pool |= {'state': 'deleting', 'stateTransitionTime': now()}
        self._store.save('pool', '', pool)
        self._service.spawn(self._delete(pool['id']))

    async def _delete(self, pool_id: str) -> None:
        if pool_id in self._resizes:
            self._resizes[pool_id].set()
        await asyncio.gather(*(self._service.nodes.take_down(pool_id, node['id'], 'requeue')
                               for node in self._store.all('node', pool_id)))
        await asyncio.sleep(self._service.settings.deletion_seconds)
        shutil.rmtree(self._service.workspace / 'nodes' / pool_id, ignore_errors=True)  # empty by now
        with self._store.transaction():
            self._store.remove('node', pool_id)
            self._store.remove('pool', '', pool_id)

    def node_counts(self) -> list[Document]:
        """How many nodes of each pool are in which state; as the wire has it."""
        counts = []
        for pool in self._store.all('pool'):
            entry: Document = {'poolId': pool['id']}
            for dedicated, name in ((True, 'dedicated'), (False, 'lowPriority')):
                states = [node['state'] for node in self._store.all('node', pool['id'])
                          if node['isDedicated'] == dedicated]
                entry[name] = {state: states.count(state.lower()) for state in STATES} | {'total': len(states)}
            counts.append(entry)
        return counts

    def _refuse_unless_steady(self, pool: Document) -> None:
        _refuse_if_deleting(pool)
        if pool['allocationState'] != 'steady':
            raise BatchError('PoolBeingResized')

    def _begin_resize(self, pool: Document, state: str, running_tasks: str = 'requeue',
                      leaving: list[str] | None = None) -> None:
        pool.pop('resizeErrors', None)
        self._move_allocation(pool, state)
        stop = self._resizes[pool['id']] = asyncio.Event()
        self._service.spawn(self._resize(pool['id'], stop, running_tasks, leaving or []))

    async def _resize(self, pool_id: str, stop: asyncio.Event, running_tasks: str, leaving: list[str]) -> None:
        """Takes down and adds nodes until the pool has as many as it asks for, or may have."""
        await slow(self._service.settings.allocation_seconds, stop)
        pool = self._store.get('pool', '', pool_id)
        for dedicated, target, _, _ in _KINDS:
            nodes = sorted((node for node in self._store.all('node', pool_id)
                            if node['isDedicated'] == dedicated and node['id'] not in leaving),
                           key=lambda node: node['runningTasksCount'])
            leaving += [node['id'] for node in nodes[:max(0, len(nodes) - pool[target])]]
        await asyncio.gather(*(self._service.nodes.take_down(pool_id, node_id, running_tasks) for node_id in leaving))
        with self._store.transaction():
            pool = self._store.find('pool', '', pool_id)
            if pool and pool['state'] == 'active':
                self._add_nodes(pool, stop.is_set())

    def _add_nodes(self, pool: Document, stopped: bool) -> None:
        errors = []
        for dedicated, target, current, quota_reached in _KINDS:
            present = sum(node['isDedicated'] == dedicated for node in self._store.all('node', pool['id']))
            wanted = pool[target] - present
            possible = 0 if stopped else min(wanted, self._nodes_within_quota(pool))
            for _ in range(possible):
                self._service.nodes.add(pool, dedicated)
            pool[current] = present + max(0, possible)
            if possible < wanted:
                errors.append({'code': 'ResizeStopped', 'message': 'The resize was stopped by a request'} if stopped
                              else {'code': quota_reached,
                                    'message': 'The specified account has reached core quota'})
        if errors:
            pool['resizeErrors'] = errors
        self._resizes.pop(pool['id'], None)
        self._move_allocation(pool, 'steady')

    def _nodes_within_quota(self, pool: Document) -> int:
        used = sum(_cores(node['vmSize']) for other in self._store.all('pool')
                   for node in self._store.all('node', other['id']))
        return max(0, (self._service.settings.core_quota - used) // _cores(pool['vmSize']))

    def _move_allocation(self, pool: Document, state: str) -> None:
        pool |= {'allocationState': state, 'allocationStateTransitionTime': now()}
        self._store.save('pool', '', pool)


def _refuse_if_deleting(pool: Document) -> None:
    if pool['state'] == 'deleting':
        raise BatchError('PoolBeingDeleted')


def _cores(vm_size: str) -> int:
    """The cores that a size's name tells, ``standard_d2s_v5`` for instance 2."""
    match = re.search(r'_[a-z]+(\d+)', vm_size.lower())
    return int(match[1]) if match else 1


def _check_machine(pool: Document) -> None:
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
