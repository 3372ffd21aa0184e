"""Which active task runs on which free slot, and what becomes of it there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .node import Command, Node
from .values import duration

if TYPE_CHECKING:
    from .service import BatchService

Document = dict[str, Any]


@dataclass(eq=False)
class Worker:
    """A node of a pool that is up, as the scheduler sees it.

    Attributes:
        accepts: Whether new tasks may be placed on it.
        preparations: For each job that ran its preparation here, the work that tells whether it went well.
        stop: Set when the node goes down, to end the jobs' preparation and release tasks.
    """

    pool_id: str
    node_id: str
    node: Node
    slots: int
    accepts: bool = False
    runs: set[Run] = field(default_factory=set)
    preparations: dict[str, asyncio.Task[bool]] = field(default_factory=dict)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def free_slots(self) -> int:
        return self.slots - sum(run.slots for run in self.runs) if self.accepts else 0


@dataclass(eq=False)
class Run:
    """One task being run on one node.

    Attributes:
        stop: Set to end the task's processes.
        then: What becomes of the task after it was stopped: ``terminate``, ``requeue`` or ``forget``.
        work: Ends when the task has left the node.
    """

    job_id: str
    task_id: str
    worker: Worker
    slots: int
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    then: str | None = None
    work: asyncio.Task[None] | None = None

    async def end(self, then: str) -> None:
        """Ends the task's processes; the first who asks decides what becomes of the task."""
        self.then = self.then or then
        self.stop.set()
        if self.work:
            await asyncio.wait([self.work])


class Scheduler:
    """Places tasks on nodes whenever something has changed, and runs them."""

    def __init__(self, service: BatchService) -> None:
        self._service = service
        self._store = service.store
        self._awake = False
        self.workers: dict[str, Worker] = {}
        self._runs: dict[tuple[str, str], Run] = {}

    def wake(self) -> None:
        """Looks for work soon; many calls at once cost one look."""
        if not self._awake:
            self._awake = True
            asyncio.get_running_loop().call_soon(self._place)

    def run_of(self, job_id: str, task_id: str) -> Run | None:
        """The run of a task that is on a node now."""
        return self._runs.get((job_id.lower(), task_id.lower()))

    def runs_of_job(self, job_id: str) -> list[Run]:
        return [run for (job, _), run in self._runs.items() if job == job_id.lower()]

    def _place(self) -> None:
        self._awake = False
        free: dict[str, list[Worker]] = {}
        for worker in self.workers.values():
            if worker.free_slots > 0:
                free.setdefault(worker.pool_id.lower(), []).append(worker)
        if not free:
            return
        with self._store.transaction():
            jobs = self._store.all('job', '', 'active')
            for job in sorted(jobs, key=lambda job: -job['priority']):
                if workers := free.get(job['poolInfo']['poolId'].lower()):
                    self._place_tasks_of(job, workers)

    def _place_tasks_of(self, job: Document, workers: list[Worker]) -> None:
        most = sum(worker.free_slots for worker in workers)
        if job['maxParallelTasks'] >= 0:
            most = min(most, job['maxParallelTasks'] - len(self.runs_of_job(job['id'])))
        if most <= 0:
            return
        pool = self._store.get('pool', '', workers[0].pool_id)
        pack = pool['taskSchedulingPolicy']['nodeFillType'] == 'Pack'
        largest = max(worker.free_slots for worker in workers)
        for task in self._store.queue(job['id'], most, largest):
            slots = task['requiredSlots']
            fitting = [worker for worker in workers
                       if worker.free_slots >= slots and not self._is_useless(worker, job)]
            if not fitting:
                continue
            worker = (min if pack else max)(fitting, key=lambda worker: worker.free_slots)
            wanted = task.get('affinityInfo', {}).get('affinityId')
            worker = next((one for one in fitting if f'TVM:{one.node_id}' == wanted), worker)
            self._begin(job, task, worker)

    @staticmethod
    def _is_useless(worker: Worker, job: Document) -> bool:
        """A node where a job's preparation failed takes no task of that job."""
        preparation = worker.preparations.get(job['id'])
        return preparation is not None and preparation.done() and not preparation.result()

    def _begin(self, job: Document, task: Document, worker: Worker) -> None:
        run = Run(job['id'], task['id'], worker, task['requiredSlots'])
        self._runs[job['id'].lower(), task['id'].lower()] = run
        worker.runs.add(run)
        task['nodeInfo'] = {'affinityId': f'TVM:{worker.node_id}', 'poolId': worker.pool_id, 'nodeId': worker.node_id,
                            'taskRootDirectory': f'workitems/{job["id"]}/job-1/{task["id"]}'}
        prepared = 'jobPreparationTask' not in job or job['id'] in worker.preparations
        self._service.tasks.started(job['id'], task, 'running' if prepared else 'preparing')
        self._service.nodes.tasks_changed(worker, job['id'])
        run.work = self._service.spawn(self._run(job, task, run))

    async def _run(self, job: Document, task: Document, run: Run) -> None:
        worker, outcome = run.worker, None
        try:
            if 'jobPreparationTask' not in job or await self._prepare(job, task, run):
                outcome = await worker.node.run(self._command(job, task, worker), run.stop)
        finally:
            worker.runs.discard(run)
            self._runs.pop((run.job_id.lower(), run.task_id.lower()), None)
        with self._store.transaction():
            self._service.tasks.left(run, outcome)
            self._service.nodes.tasks_changed(worker, job['id'], self._store.find('task', run.job_id, run.task_id))
        self.wake()

    async def _prepare(self, job: Document, task: Document, run: Run) -> bool:
        """Runs the job's preparation on the node unless it was run there; says whether tasks may follow."""
        worker = run.worker
        if job['id'] not in worker.preparations:
            worker.preparations[job['id']] = self._service.spawn(self._service.jobs.prepare(job, worker))
        stopped = asyncio.ensure_future(run.stop.wait())
        preparation = worker.preparations[job['id']]
        await asyncio.wait({preparation, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if run.stop.is_set() or not preparation.result():
            return False
        self._service.tasks.started(job['id'], task, 'running')
        return True

    def _command(self, job: Document, task: Document, worker: Worker) -> Command:
        constraints = task['constraints']
        return Command(task['commandLine'], worker.node.task_directory(job['id'], task['id']),
                       self._service.jobs.environment(job, task, worker),
                       task.get('resourceFiles', []), task.get('outputFiles', []),
                       duration(constraints['maxWallClockTime']))
