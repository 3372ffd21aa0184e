"""The life of a node: booted, made ready by the start task, taken off the schedule, rebooted, taken down."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BatchError
from .jobs import how_it_ended
from .node import Command, Node
from .scheduler import Worker
from .settings import slow
from .values import now

if TYPE_CHECKING:
    from .service import BatchService

Document = dict[str, Any]

STATES = ('creating', 'idle', 'leavingpool', 'offline', 'preempted', 'rebooting', 'reimaging', 'running', 'starting',
          'startTaskFailed', 'unknown', 'unusable', 'waitingForStartTask')
"""As node counts name them."""

_NOT_UP = {'creating': 'NodeBeingCreated', 'starting': 'NodeBeingStarted', 'rebooting': 'NodeBeingRebooted',
           'reimaging': 'NodeBeingReimaged', 'unusable': 'NodeStateUnusable'}
_READY = ('idle', 'running', 'offline')
_MOST_RECENT_TASKS = 10
_NODE_AGENT_VERSION = '1.12.39'
_UNUSABLE = {'code': 'NodeUnusable', 'message': 'The service was asked to make this node unusable.',
             'errorDetails': []}


@dataclass(eq=False)
class _Boot:
    """A node's way up. Once ``stop`` is set it ends, and the start task with it."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    work: asyncio.Task[None] | None = None


class Nodes:
    """Every change of a node's state.

    https://learn.microsoft.com/azure/batch/nodes-and-pools
    """

    def __init__(self, service: BatchService) -> None:
        self._service = service
        self._store = service.store
        self._boots: dict[str, _Boot] = {}

    def worker(self, node_id: str) -> Worker:
        """The node itself, with its directories and its processes.

        Raises:
            BatchError: NodeNotReady while the node is not there.
        """
        worker = self._service.scheduler.workers.get(node_id)
        if worker is None:
            raise BatchError('NodeNotReady')
        return worker

    def add(self, pool: Document, dedicated: bool) -> None:
        """Makes a new node for a pool, and boots it."""
        node_id = f'tvmps_{secrets.token_hex(32)}_{"d" if dedicated else "p"}'
        moment_added = now()
        node = {'id': node_id, 'state': 'creating', 'schedulingState': 'enabled',
                'stateTransitionTime': moment_added, 'allocationTime': moment_added, 'ipAddress': '127.0.0.1',
                'affinityId': f'TVM:{node_id}', 'vmSize': pool['vmSize'], 'totalTasksRun': 0,
                'totalTasksSucceeded': 0, 'runningTasksCount': 0, 'runningTaskSlotsCount': 0,
                'isDedicated': dedicated,
                'virtualMachineInfo': {'imageReference': pool['virtualMachineConfiguration']['imageReference']}}
        self._store.add('node', pool['id'], node_id, node)
        self._boot(pool['id'], node_id)

    def resume(self, pool_id: str) -> None:
        """Takes up the nodes that an earlier run of the service left: as they were if they were ready, else anew."""
        pool = self._store.get('pool', '', pool_id)
        for node in self._store.all('node', pool_id):
            node |= {'runningTasksCount': 0, 'runningTaskSlotsCount': 0}
            if node['state'] in _READY and node.get('startTaskInfo', {}).get('state') != 'running':
                self._accept(self._make_worker(pool, node), node)
            else:
                self._move(pool_id, node, 'starting')
                self._boot(pool_id, node['id'])

    def restart(self, pool_id: str, node: Document, state: str, running_tasks: str) -> None:
        """Reboots or reimages a node; a reimaged one has lost its files.

        Args:
            state: ``rebooting`` or ``reimaging``.
            running_tasks: ``requeue``, ``terminate``, ``taskcompletion`` or ``retaineddata``.

        Raises:
            BatchError: The node is neither idle nor running.
        """
        _refuse_unless_up(node)
        worker = self.worker(node['id'])
        worker.accepts = False
        self._move(pool_id, node, state)
        self._service.spawn(self._restart(worker, state == 'reimaging', running_tasks))

    async def _restart(self, worker: Worker, anew: bool, running_tasks: str) -> None:
        await self._end_work(worker, running_tasks)
        if anew:
            await _remove(worker.node.root)
        if self._store.find('node', worker.pool_id, worker.node_id):
            self._boot(worker.pool_id, worker.node_id)

    def disable_scheduling(self, pool_id: str, node: Document, running_tasks: str) -> None:
        """Places no more tasks on a node; it is offline once it runs none."""
        if node['schedulingState'] == 'disabled':
            raise BatchError('NodeAlreadyInTargetSchedulingState')
        worker = self.worker(node['id'])
        worker.accepts = False
        node['schedulingState'] = 'disabled'
        self._move(pool_id, node, node['state'] if worker.runs else 'offline')
        if worker.runs:
            self._service.spawn(self._go_offline(worker, running_tasks))

    async def _go_offline(self, worker: Worker, running_tasks: str) -> None:
        await self._end_runs(worker, running_tasks)
        with self._store.transaction():
            node = self._store.find('node', worker.pool_id, worker.node_id)
            if node and node['schedulingState'] == 'disabled':
                self._move(worker.pool_id, node, 'offline')

    def enable_scheduling(self, pool_id: str, node: Document) -> None:
        """Places tasks on a node again."""
        if node['schedulingState'] == 'enabled':
            raise BatchError('NodeAlreadyInTargetSchedulingState')
        node['schedulingState'] = 'enabled'
        self._accept(self.worker(node['id']), node)

    async def take_down(self, pool_id: str, node_id: str, running_tasks: str) -> None:
        """Ends all that a node does, and its directories."""
        node = self._store.find('node', pool_id, node_id)
        if node is None:  # taken down meanwhile, by a resize for instance
            return
        self._move(pool_id, node, 'leavingpool')
        worker = self._service.scheduler.workers.get(node_id)
        if worker:
            worker.accepts = False
            await self._end_work(worker, running_tasks)
        else:
            await self._end_boot(node_id)
        self._service.scheduler.workers.pop(node_id, None)
        await _remove(self._root(pool_id, node_id))
        with self._store.transaction():
            self._store.remove('node', pool_id, node_id)

    async def _end_work(self, worker: Worker, running_tasks: str) -> None:
        await self._end_runs(worker, running_tasks)
        worker.stop.set()
        if preparing := [work for work in worker.preparations.values() if not work.done()]:
            await asyncio.wait(preparing)
        await self._end_boot(worker.node_id)

    @staticmethod
    async def _end_runs(worker: Worker, running_tasks: str) -> None:
        if running_tasks in ('requeue', 'terminate'):
            await asyncio.gather(*(run.end(running_tasks) for run in list(worker.runs)))
        elif worker.runs:
            await asyncio.wait([run.work for run in worker.runs if run.work])

    async def _end_boot(self, node_id: str) -> None:
        boot = self._boots.pop(node_id, None)
        if boot and boot.work:
            boot.stop.set()
            await asyncio.wait([boot.work])

    def _root(self, pool_id: str, node_id: str) -> Path:
        return self._service.workspace / 'nodes' / pool_id / node_id

    def _boot(self, pool_id: str, node_id: str) -> None:
        boot = self._boots[node_id] = _Boot()
        boot.work = self._service.spawn(self._bring_up(pool_id, node_id, boot.stop))

    async def _bring_up(self, pool_id: str, node_id: str, stop: asyncio.Event) -> None:
        """Brings a node up to where it takes tasks, or to where its start task failed."""
        if await slow(self._service.settings.node_boot_seconds, stop):
            return
        pool, node = self._store.get('pool', '', pool_id), self._store.get('node', pool_id, node_id)
        worker = self._make_worker(pool, node)
        with self._store.transaction():
            node |= {'lastBootTime': now(), 'nodeAgentInfo': {'version': _NODE_AGENT_VERSION, 'lastUpdateTime': now()}}
            start_task = node['startTask'] = pool.get('startTask')
            if start_task is None:
                del node['startTask']
            if self._is_to_be_unusable(pool_id, node):
                node['errors'] = [_UNUSABLE]
                self._move(pool_id, node, 'unusable')
                return
            if start_task and start_task['waitForSuccess']:
                self._move(pool_id, node, 'waitingforstarttask')
            else:
                self._accept(worker, node)
        if start_task:
            await self._run_start_task(worker, start_task, stop)

    def _is_to_be_unusable(self, pool_id: str, node: Document) -> bool:
        return node['id'] in [one['id'] for one in self._store.all('node', pool_id)][
            :self._service.settings.unusable_nodes]

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
            node = self._store.get('node', worker.pool_id, worker.node_id)
            if start_task['waitForSuccess'] and outcome.succeeded:
                self._accept(worker, node)
            elif start_task['waitForSuccess']:
                self._move(worker.pool_id, node, 'starttaskfailed')

    def _save_start_task_info(self, worker: Worker, information: Document) -> None:
        node = self._store.get('node', worker.pool_id, worker.node_id)
        node['startTaskInfo'] = information
        self._store.save('node', worker.pool_id, node)

    def _accept(self, worker: Worker, node: Document) -> None:
        if node['schedulingState'] == 'disabled':
            self._move(worker.pool_id, node, 'offline')
            return
        worker.accepts = True
        self._move(worker.pool_id, node, 'running' if worker.runs else 'idle')
        self._service.scheduler.wake()

    def _make_worker(self, pool: Document, node: Document) -> Worker:
        environment = {
            **self._service.trust,
            'AZ_BATCH_ACCOUNT_NAME': self._service.account_name, 'AZ_BATCH_ACCOUNT_URL': self._service.url,
            'AZ_BATCH_POOL_ID': pool['id'], 'AZ_BATCH_NODE_ID': node['id'],
            'AZ_BATCH_NODE_IS_DEDICATED': 'true' if node['isDedicated'] else 'false'}
        root = self._root(pool['id'], node['id'])
        before = self._service.scheduler.workers.get(node['id']) if root.is_dir() else None
        worker = Worker(pool['id'], node['id'],
                        Node(root, self._service.programs, environment, self._service.transfers,
                             self._service.reaper),
                        pool['taskSlotsPerNode'])
        if before:
            worker.preparations |= {job_id: work for job_id, work in before.preparations.items()
                                    if self._stays_prepared(job_id, work)}
        self._service.scheduler.workers[node['id']] = worker
        return worker

    def _stays_prepared(self, job_id: str, preparation: asyncio.Task[bool]) -> bool:
        """Whether a job's preparation holds over a reboot of the node."""
        job = self._store.find('job', '', job_id)
        return (job is not None and not job['jobPreparationTask']['rerunOnNodeRebootAfterSuccess']
                and preparation.done() and preparation.result())

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
            information = {'jobId': job_id, 'taskId': ended['id'], 'taskState': ended['state'],
                           'executionInfo': ended['executionInfo']}
            node['recentTasks'] = [information, *node.get('recentTasks', ())][:_MOST_RECENT_TASKS]
        state = 'running' if worker.runs else 'idle'
        if worker.accepts and node['state'] != state:
            self._move(worker.pool_id, node, state)
        else:
            self._store.save('node', worker.pool_id, node)

    def _move(self, pool_id: str, node: Document, state: str) -> None:
        node |= {'state': state, 'stateTransitionTime': now()}
        self._store.save('node', pool_id, node)


async def _remove(directory: Path) -> None:
    await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


def _refuse_unless_up(node: Document) -> None:
    if node['state'] in _NOT_UP:
        raise BatchError(_NOT_UP[node['state']])
    if node['state'] not in ('idle', 'running'):
        raise BatchError('OperationInvalidForCurrentState', PropertyName='state', PropertyValue=node['state'],
                         Reason='The node must be idle or running')
