"""The life of a pool and of its nodes: allocated, started, made ready by the start task, rebooted, removed."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BatchError
from .images import NODE_AGENT_SKU_IDS, offers
from .jobs import how_it_ended
from .node import Command, Node
from .scheduler import Worker
from .values import entity_tag, now

if TYPE_CHECKING:
    from .service import BatchService

Document = dict[str, Any]

_MOST_RECENT_TASKS = 10
_NODE_AGENT_VERSION = '1.12.39'


class Pools:
    """Every change of the state of a pool or a node.

    https://learn.microsoft.com/azure/batch/nodes-and-pools
    """

    def __init__(self, service: BatchService) -> None:
        self._service = service
        self._store = service.store
        self._starts: dict[str, tuple[asyncio.Event, asyncio.Task[None]]] = {}

    def resume(self) -> None:
        """Starts the nodes of an earlier run of the service anew, and goes on with what it had begun."""
        for pool in self._store.all('pool'):
            for node in self._store.all('node', pool['id']):
                node |= {'runningTasksCount': 0, 'runningTaskSlotsCount': 0}
                self._move_node(pool['id'], node, 'starting')
                self._start(pool['id'], node['id'])
            if pool['state'] == 'deleting':
                self._service.spawn(self._delete(pool['id']))
            elif pool['allocationState'] != 'steady':
                self._service.spawn(self._allocate(pool['id']))

    def get(self, pool_id: str) -> Document:
        """The pool's document.

        Raises:
            BatchError: PoolNotFound.
        """
        pool = self._store.find('pool', '', pool_id)
        if pool is None:
            raise BatchError('PoolNotFound')
        return pool

    def node(self, pool_id: str, node_id: str) -> Document:
        """The node's document.

        Raises:
            BatchError: PoolNotFound or NodeNotFound.
        """
        self.get(pool_id)
        node = self._store.find('node', pool_id, node_id)
        if node is None:
            raise BatchError('NodeNotFound')
        return node

    def worker(self, node_id: str) -> Worker:
        """The node itself, with its directories and its processes.

        Raises:
            BatchError: NodeNotReady while the node is not there.
        """
        worker = self._service.scheduler.workers.get(node_id)
        if worker is None:
            raise BatchError('NodeNotReady')
        return worker

    def add(self, pool: Document) -> None:
        """Takes in a new pool and begins to allocate its nodes.

        Raises:
            BatchError: PoolExists, PoolBeingDeleted, or an image that is not offered.
        """
        _check_image(pool['virtualMachineConfiguration'])
        moment_added = now()
        pool |= {'vmSize': pool['vmSize'].lower(), 'eTag': entity_tag(), 'lastModified': moment_added,
                 'creationTime': moment_added, 'state': 'active', 'stateTransitionTime': moment_added,
                 'allocationState': 'resizing', 'allocationStateTransitionTime': moment_added,
                 'currentDedicatedNodes': 0, 'currentLowPriorityNodes': 0}
        if not self._store.add('pool', '', pool['id'], pool):
            raise BatchError('PoolBeingDeleted' if self.get(pool['id'])['state'] == 'deleting' else 'PoolExists')
        self._service.spawn(self._allocate(pool['id']))

    def delete(self, pool: Document) -> None:
        """Ends the pool and its nodes; its id is free when they are gone."""
        self._refuse_if_deleting(pool)
        pool |= {'state': 'deleting', 'stateTransitionTime': now()}
        self._store.save('pool', '', pool)
        self._service.spawn(self._delete(pool['id']))

    @staticmethod
    def _refuse_if_deleting(pool: Document) -> None:
        if pool['state'] == 'deleting':
            raise BatchError('PoolBeingDeleted')

    async def _allocate(self, pool_id: str) -> None:
        """Adds or removes nodes until the pool has as many as it was asked for."""
        pool = self.get(pool_id)
        nodes = self._store.all('node', pool_id)
        with self._store.transaction():
            for dedicated, target in ((True, 'targetDedicatedNodes'), (False, 'targetLowPriorityNodes')):
                present = sum(node['isDedicated'] == dedicated for node in nodes)
                for _ in range(pool[target] - present):
                    node = _new_node(pool, dedicated)
                    self._store.add('node', pool_id, node['id'], node)
                    self._start(pool_id, node['id'])
            self._become_steady(pool_id)

    def _become_steady(self, pool_id: str) -> None:
        pool = self.get(pool_id)
        nodes = self._store.all('node', pool_id)
        dedicated = sum(node['isDedicated'] for node in nodes)
        pool |= {'allocationState': 'steady', 'allocationStateTransitionTime': now(),
                 'currentDedicatedNodes': dedicated, 'currentLowPriorityNodes': len(nodes) - dedicated}
        self._store.save('pool', '', pool)

    async def _delete(self, pool_id: str) -> None:
        await asyncio.gather(*(self._take_down(pool_id, node['id'], 'requeue')
                               for node in self._store.all('node', pool_id)))
        await asyncio.sleep(self._service.settings.deletion_seconds)
        with self._store.transaction():
            self._store.remove('node', pool_id)
            self._store.remove('pool', '', pool_id)
        shutil.rmtree(self._service.workspace / 'nodes' / pool_id, ignore_errors=True)

    async def _take_down(self, pool_id: str, node_id: str, then: str) -> None:
        """Ends all that a node does, and its directories."""
        stop, start = self._starts.pop(node_id)
        stop.set()
        worker = self._service.scheduler.workers.get(node_id)
        if worker:
            worker.accepts = False
            await asyncio.gather(*(run.end(then) for run in list(worker.runs)))
        await asyncio.wait([start])
        self._service.scheduler.workers.pop(node_id, None)
        with self._store.transaction():
            self._store.remove('node', pool_id, node_id)
        shutil.rmtree(self._root(pool_id, node_id), ignore_errors=True)

    def _root(self, pool_id: str, node_id: str) -> Path:
        return self._service.workspace / 'nodes' / pool_id / node_id

    def _start(self, pool_id: str, node_id: str) -> None:
        stop = asyncio.Event()
        self._starts[node_id] = stop, self._service.spawn(self._boot(pool_id, node_id, stop))

    async def _boot(self, pool_id: str, node_id: str, stop: asyncio.Event) -> None:
        """Brings a node up to where it takes tasks, or to where its start task failed."""
        await _sleep(self._service.settings.node_boot_seconds, stop)
        if stop.is_set():
            return
        worker = self._make_worker(self.get(pool_id), self.node(pool_id, node_id))
        with self._store.transaction():
            node = self.node(pool_id, node_id)
            started = now()
            node |= {'lastBootTime': started,
                     'nodeAgentInfo': {'version': _NODE_AGENT_VERSION, 'lastUpdateTime': started}}
            start_task = node.get('startTask')
            if start_task and start_task['waitForSuccess']:
                self._move_node(pool_id, node, 'waitingforstarttask')
            else:
                self._accept(worker, node)
        if start_task:
            await self._run_start_task(worker, start_task, stop)

    async def _run_start_task(self, worker: Worker, start_task: Document, stop: asyncio.Event) -> None:
        information: Document = {'state': 'running', 'startTime': now(), 'retryCount': 0}
        command = Command(start_task['commandLine'], worker.node.startup, {
            setting['name']: setting['value'] for setting in start_task.get('environmentSettings', ())},
            start_task.get('resourceFiles', []))
        most = start_task['maxTaskRetryCount']
        while True:
            self._save_start_task_info(worker, information)
            outcome = await worker.node.run(command, stop)
            if (stop.is_set() or outcome.succeeded or outcome.exit_code is None
                    or 0 <= most <= information['retryCount']):
                break
            information |= {'retryCount': information['retryCount'] + 1, 'lastRetryTime': now()}
        if stop.is_set():
            return
        with self._store.transaction():
            self._save_start_task_info(worker, information | how_it_ended(outcome))
            node = self.node(worker.pool_id, worker.node_id)
            if start_task['waitForSuccess'] and outcome.succeeded:
                self._accept(worker, node)
            elif start_task['waitForSuccess']:
                self._move_node(worker.pool_id, node, 'starttaskfailed')

    def _save_start_task_info(self, worker: Worker, information: Document) -> None:
        node = self.node(worker.pool_id, worker.node_id)
        node['startTaskInfo'] = information
        self._store.save('node', worker.pool_id, node)

    def _accept(self, worker: Worker, node: Document) -> None:
        if node['schedulingState'] == 'disabled':
            self._move_node(worker.pool_id, node, 'offline')
            return
        worker.accepts = True
        self._move_node(worker.pool_id, node, 'running' if worker.runs else 'idle')
        self._service.scheduler.wake()

    def _make_worker(self, pool: Document, node: Document) -> Worker:
        root = self._root(pool['id'], node['id'])
        environment = {
            'AZ_BATCH_ACCOUNT_NAME': self._service.account_name, 'AZ_BATCH_ACCOUNT_URL': self._service.url,
            'AZ_BATCH_POOL_ID': pool['id'], 'AZ_BATCH_NODE_ID': node['id'],
            'AZ_BATCH_NODE_IS_DEDICATED': 'true' if node['isDedicated'] else 'false'}
        worker = Worker(pool['id'], node['id'],
                        Node(root, self._service.programs, environment, self._service.transfers,
                             self._service.reaper),
                        pool['taskSlotsPerNode'])
        self._service.scheduler.workers[node['id']] = worker
        return worker

    def tasks_changed(self, worker: Worker, job_id: str, ended: Document | None = None) -> None:
        """A task of a job began or ended on a node: the node's counts and its state follow."""
        node = self._store.find('node', worker.pool_id, worker.node_id)
        if node is None:
            return
        node |= {'runningTasksCount': len(worker.runs),
                 'runningTaskSlotsCount': sum(run.slots for run in worker.runs)}
        if ended and ended['state'] == 'completed':
            node['totalTasksRun'] += 1
            node['totalTasksSucceeded'] += ended['executionInfo']['result'] == 'success'
            node['recentTasks'] = [_task_information(job_id, ended), *node.get('recentTasks', ())][:_MOST_RECENT_TASKS]
        state = 'running' if worker.runs else 'idle'
        if worker.accepts and node['state'] != state:
            self._move_node(worker.pool_id, node, state)
        else:
            self._store.save('node', worker.pool_id, node)

    def _move_node(self, pool_id: str, node: Document, state: str) -> None:
        node |= {'state': state, 'stateTransitionTime': now()}
        self._store.save('node', pool_id, node)


def _check_image(machine: Document) -> None:
    if machine['nodeAgentSKUId'] not in NODE_AGENT_SKU_IDS:
        raise BatchError('NodeAgentSKUNotFound', PropertyName='virtualMachineConfiguration.nodeAgentSKUId',
                         PropertyValue=machine['nodeAgentSKUId'])
    if not offers(machine['imageReference'], machine['nodeAgentSKUId']):
        raise BatchError('InvalidPropertyValue', PropertyName='virtualMachineConfiguration.imageReference',
                         PropertyValue=machine['imageReference'],
                         Reason='This image is not among the supported images, or goes with another node agent')


def _new_node(pool: Document, dedicated: bool) -> Document:
    node_id = f'tvmps_{secrets.token_hex(32)}_{"d" if dedicated else "p"}'
    moment_added = now()
    node = {'id': node_id, 'state': 'creating', 'schedulingState': 'enabled', 'stateTransitionTime': moment_added,
            'allocationTime': moment_added, 'ipAddress': '127.0.0.1', 'affinityId': f'TVM:{node_id}',
            'vmSize': pool['vmSize'], 'totalTasksRun': 0, 'totalTasksSucceeded': 0, 'runningTasksCount': 0,
            'runningTaskSlotsCount': 0, 'isDedicated': dedicated,
            'virtualMachineInfo': {'imageReference': pool['virtualMachineConfiguration']['imageReference']}}
    if 'startTask' in pool:
        node['startTask'] = pool['startTask']
    return node


def _task_information(job_id: str, task: Document) -> Document:
    return {'jobId': job_id, 'taskId': task['id'], 'taskState': task['state'], 'executionInfo': task['executionInfo']}


async def _sleep(seconds: float, stop: asyncio.Event) -> None:
    if seconds:
        await asyncio.wait([asyncio.ensure_future(stop.wait())], timeout=seconds)
