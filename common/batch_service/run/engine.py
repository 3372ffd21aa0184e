"""Makes true what the documents say: it looks at what is due, places tasks, and starts, ends, boots and removes.

A look decides what has to happen now for one document, in one transaction, and never waits. A work waits for one
command or one removal, and never decides: when it is done it reports, in one transaction that reads its documents anew.
Nobody calls back: each end is a commit, and a commit is followed by a look. After a kill (see recovery) it just looks
again; what is only in memory (see workers) is made anew from the documents.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import needs_trace
from ..life import jobs, nodes, pools, tasks
from ..life.outcome import Outcome
from ..settings import Settings
from ..store import Store
from ..values import clock
from . import workers as commands
from .node import Command, Stop
from .reaper import end_processes_below
from .scheduler import Scheduler
from .trash import Trash
from .workers import Run, Worker, Workers

_LOG = logging.getLogger(__name__)

Document = dict[str, Any]
Step = Callable[[], object]

# More at once would keep requests waiting: starting a process takes a millisecond or two, so do a node's directories.
_MOST_LOOKS_AT_ONCE = 20
_MOST_PLACED_AT_ONCE = 5
_LONGEST_LOOKS_SECONDS = 0.005
_TURNS_OF_A_REQUEST = 6
_MOST_CHANGES_AT_ONCE = 50
_PAUSE_AFTER_TROUBLE = 1.0


class Engine:
    """What really happens.

    Args:
        store: What should be.
        settings: Which troubles of the cloud it imitates.
        workers: The nodes that are up.
        trash: Takes what is to be removed.
    """

    def __init__(self, store: Store, settings: Settings, workers: Workers, trash: Trash) -> None:
        self._store = store
        self._settings = settings
        self._workers = workers
        self._trash = trash
        self._scheduler = Scheduler(store, workers)
        self._told = asyncio.Event()
        self._waiting: set[asyncio.Future[None]] = set()
        self._works: set[asyncio.Task[Any]] = set()
        self._put_off: dict[tuple[str, ...], float] = {}
        self._going_down: set[str] = set()
        self._to_sweep: set[Path] = set()
        self._sweeping = asyncio.Lock()

    def tell(self) -> None:
        """Something has changed: the engine looks, and whoever waits for a change looks too."""
        self._told.set()
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns when a condition on the documents holds."""
        while not holds():
            changed = asyncio.get_running_loop().create_future()
            self._waiting.add(changed)
            try:
                await changed
            finally:
                self._waiting.discard(changed)

    async def run(self) -> None:
        """Looks and places, for as long as the service runs."""
        while True:
            self._told.clear()
            more, pause = False, _PAUSE_AFTER_TROUBLE
            with self._putting_off('the documents'):
                more = self._look_at_what_is_due()
                more |= self._place()
                pause = self._seconds_to_next_look()
            if more:
                for _ in range(_TURNS_OF_A_REQUEST):  # requests come in between
                    await asyncio.sleep(0)
                continue
            # Not asyncio.wait_for: up to Python 3.11 it loses a cancellation that comes with what it waits for.
            timer = pause is not None and asyncio.get_running_loop().call_later(pause, self._told.set)
            await self._told.wait()
            if timer:
                timer.cancel()

    async def stop(self) -> None:
        """Forgets all works; what they were about is looked at after the next start."""
        for work in self._works:
            work.cancel()
        await asyncio.gather(*self._works, return_exceptions=True)

    @contextmanager
    def _putting_off(self, *what: str) -> Iterator[None]:
        """What fails here is logged, once, and tried again later: it must not keep the others back."""
        try:
            yield
        except Exception as error:
            if what not in self._put_off:
                _log_new_try(' '.join(what), error)
            self._put_off[what] = time.monotonic() + _PAUSE_AFTER_TROUBLE
        else:
            self._put_off.pop(what, None)

    def _is_put_off(self, *what: str) -> bool:
        return self._put_off.get(what, 0.0) > time.monotonic()

    def _seconds_to_next_look(self) -> float | None:
        # What has not been tried again is gone meanwhile.
        self._put_off = {what: moment for what, moment in self._put_off.items()
                         if moment + _PAUSE_AFTER_TROUBLE > time.monotonic()}
        if self._put_off:
            return _PAUSE_AFTER_TROUBLE
        due = self._store.next_due()
        # An hour at the most: the clock on the wall may have been set before the service was started.
        return None if due is None else min(max(0.0, due - clock()), 3600.0)

    # Looks

    def _look_at_what_is_due(self) -> bool:
        """Looks at some documents; returns whether there may be more to look at."""
        due = [(kind, parent, id) for kind, parent, id
               in self._store.due(clock(), _MOST_LOOKS_AT_ONCE + len(self._put_off))
               if not self._is_put_off(kind, parent, id)]
        end = time.monotonic() + _LONGEST_LOOKS_SECONDS
        for what in due[:_MOST_LOOKS_AT_ONCE]:
            with self._putting_off(*what):
                self._look(*what)
            if time.monotonic() > end:
                break
        return bool(due)

    def _look(self, kind: str, parent: str, id: str) -> None:
        steps: list[Step] = []
        with self._store.transaction():
            document = self._store.find(kind, parent, id)
            if document is not None and document.get('_due', clock() + 1) <= clock():
                del document['_due']
                self._store.save(kind, parent, document)
                look = {'task': self._look_at_task, 'job': self._look_at_job, 'node': self._look_at_node,
                        'pool': self._look_at_pool}[kind]
                steps = look(parent, document)
        for step in steps:
            step()

    def _look_at_task(self, job_id: str, task: Document) -> list[Step]:
        if task['state'] == 'completed':
            return [lambda: self.remove_files_of(task)]  # retained for long enough
        if task['state'] not in tasks.ON_NODE:
            return []
        run = self._workers.run_of(job_id, task['id'])
        if run is not None and run.work is not None:
            return [run.stop.set] if task.get('_end', 'wait') != 'wait' else []
        if run is not None and task.get('_end', 'wait') == 'wait':
            job = self._store.get('job', '', job_id)
            prepared = jobs.preparation_state(job, self._store.find('preparation', job_id, run.worker.node_id))
            if prepared in ('none', 'running'):
                return [] if prepared == 'running' else [lambda: self._begin_preparation(job, run.worker)]
            if prepared == 'done':
                tasks.start(self._store, job_id, task)
                return [lambda: self._begin_run(run, job, task)]
        tasks.left(self._store, job_id, task['id'], None)
        return [lambda: self._workers.free(run)] if run is not None else []

    def _look_at_job(self, _: str, job: Document) -> list[Step]:
        job_id = job['id']
        if jobs.is_past_deadline(job, clock()):
            jobs.terminate(self._store, job, 'MaxWallClockTimeExpiry')
            return []
        jobs.look_at_deadline(job)
        self._store.save('job', '', job)
        if job['state'] not in ('disabling', 'terminating', 'deleting'):
            return []
        if runs := self._workers.runs_of_job(job_id):
            self._end_runs(runs, job['_end'])
            return []
        # A release that began once the files are on their way out would leave a directory of its own.
        if job['state'] in ('terminating', 'deleting') and '_files' not in job:
            if preparing := [worker.beside['preparation', job_id] for worker in self._workers.all()
                             if ('preparation', job_id) in worker.beside]:
                return [stop.set for stop in preparing]
            if steps := self._release(job):
                return steps
            if any(('release', job_id) in worker.beside for worker in self._workers.all()):
                return []
        if job['state'] == 'deleting':
            return self._forget_job(job)
        jobs.settle(self._store, job)
        return []

    def _release(self, job: Document) -> list[Step]:
        """Begins the job's release task on some nodes that are up and have run its preparation, once on each."""
        steps: list[Step] = []
        for row in self._store.all('preparation', job['id']) if 'jobReleaseTask' in job else ():
            worker = None if row['nodeId'] in self._going_down else self._workers.find(row['nodeId'])
            if worker is not None and 'jobReleaseTaskExecutionInfo' not in row:
                if len(steps) == _MOST_LOOKS_AT_ONCE:
                    self._look_again('job', '', job['id'])
                    break
                jobs.begin_release(self._store, job['id'], row)
                steps.append(lambda worker=worker: self._begin_release(job, worker))
        return steps

    def _forget_job(self, job: Document) -> list[Step]:
        if self._settings.deletion_seconds and '_gone' not in job:
            job |= {'_gone': True, '_due': clock() + self._settings.deletion_seconds}
            self._store.save('job', '', job)
            return []
        if '_files' not in job:
            job['_files'] = 'leaving'
            self._store.save('job', '', job)
            return [lambda: self._work(self._remove_files_of_job(job['id']))]
        if job['_files'] == 'leaving':
            return []
        if (self._store.remove_some('task', job['id'], _MOST_CHANGES_AT_ONCE)
                and self._store.remove_some('preparation', job['id'], _MOST_CHANGES_AT_ONCE)):
            self._store.remove('job', '', job['id'])
        else:
            self._look_again('job', '', job['id'])
        return []

    def _look_at_node(self, pool_id: str, node: Document) -> list[Step]:
        if node.get('_booting') and node['state'] != 'leavingpool':
            return self._boot(pool_id, node)
        worker = self._workers.find(node['id'])
        if worker is not None and '_end' in node:
            self._end_runs(list(worker.runs), node['_end'])
        if node['state'] not in nodes.ENDING_WORK or node['id'] in self._going_down or worker and worker.runs:
            return []
        if worker is not None and worker.beside:
            return [stop.set for stop in worker.beside.values()]
        return [lambda: self._begin_taking_down(pool_id, node['id'], worker)]

    def _boot(self, pool_id: str, node: Document) -> list[Step]:
        pool = self._store.get('pool', '', pool_id)
        unusable = nodes.is_to_be_unusable(self._store, node, self._settings.unusable_nodes)
        try:
            worker = self._workers.add(pool, node, used=False)
        except OSError as error:
            unusable, worker = f'The directories of the node cannot be made: {error.strerror}', None
        runs_start_task = nodes.come_up(self._store, pool, node, unusable)
        return [lambda: self._begin_start_task(worker, node['startTask'])] if runs_start_task else []

    def _look_at_pool(self, _: str, pool: Document) -> list[Step]:
        if pool['state'] == 'deleting':
            states = {state for state, *_ in self._store.counts('node', pool['id'])}
            if states - {'leavingpool'}:
                for node in self._store.page('node', pool['id'], '', _MOST_CHANGES_AT_ONCE,
                                             ('state <> ?1', ['leavingpool'])):
                    nodes.leave(self._store, node, 'requeue')
                self._look_again('pool', '', pool['id'])
            elif states:
                return []
            elif self._settings.deletion_seconds and '_gone' not in pool:
                pool |= {'_gone': True, '_due': clock() + self._settings.deletion_seconds}
                self._store.save('pool', '', pool)
            else:
                self._store.remove('pool', '', pool['id'])
                return [lambda: self._trash.throw(self._workers.root(pool['id'], ''))]
        elif '_resize' in pool:
            if not pools.take_nodes_down(self._store, pool):
                self._store.save('pool', '', pool)
            else:
                pools.allocate(self._store, pool, self._settings.core_quota, _MOST_CHANGES_AT_ONCE,
                               clock() + self._settings.node_boot_seconds)
        return []

    def _end_runs(self, runs: list[Run], how: str) -> None:
        for run in runs:
            if task := self._store.find('task', run.job_id, run.task_id):
                tasks.end(self._store, run.job_id, task, how)

    def _look_again(self, kind: str, parent: str, id: str) -> None:
        document = self._store.find(kind, parent, id)
        if document is not None:
            document['_due'] = 0.0
            self._store.save(kind, parent, document)

    # Placing

    def _place(self) -> bool:
        """Puts some active tasks on free slots; returns whether there may be more to place."""
        left = _MOST_PLACED_AT_ONCE
        for job, free in self._scheduler.jobs_to_place():
            if left and not self._is_put_off('placing', job['id']):
                with self._putting_off('placing', job['id']):
                    left -= self._place_tasks_of(job, free, left)
        return not left

    def _place_tasks_of(self, job: Document, free: dict[Worker, int], most: int) -> int:
        with self._store.transaction():
            placed = self._scheduler.place(job, free, most)
        for task, worker in placed:
            run = self._workers.hold(job['id'], task['id'], worker, task['requiredSlots'])
            if task['state'] == 'running':
                self._begin_run(run, job, task)
            else:
                self._begin_preparation(job, worker)
        return len(placed)

    # Works

    def _work(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._works.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, work: asyncio.Task[None]) -> None:
        self._works.discard(work)
        if not work.cancelled() and work.exception():
            _LOG.error('The service failed at %s', work.get_coro(), exc_info=work.exception())

    async def _again(self, action: Callable[[], Any]) -> Any:
        """Does something, and does it again until it succeeds: when a disk is full, for instance."""
        logged = False
        while True:
            try:
                result = action()
                return await result if inspect.isawaitable(result) else result
            except Exception as error:
                if not logged:
                    _log_new_try(action.__qualname__, error)
                logged = True
                await asyncio.sleep(_PAUSE_AFTER_TROUBLE)

    async def _report(self, change: Callable[[], Any]) -> Any:
        """Makes a change to documents; it suspends only until the store takes it."""
        def commit() -> Any:
            with self._store.transaction():
                return change()
        return await self._again(commit)

    def _begin_run(self, run: Run, job: Document, task: Document) -> None:
        run.work = self._work(self._run_task(run, commands.task_command(job, task, run.worker)))

    async def _run_task(self, run: Run, command: Command) -> None:
        outcome = await run.worker.node.run(command, run.stop)
        await self._report(lambda: tasks.left(self._store, run.job_id, run.task_id, outcome))
        self._workers.free(run)
        self.tell()

    def _begin_beside(self, worker: Worker, kind: str, job_id: str,
                      run: Callable[[Stop], Coroutine[Any, Any, None]]) -> None:
        """Runs a start, preparation or release task beside the tasks of a node, unless it runs already.

        Args:
            run: Is given what ends it.
        """
        if (kind, job_id) not in worker.beside:
            worker.beside[kind, job_id] = stop = Stop()
            worker.used = True
            self._work(self._run_beside(worker, kind, job_id, run(stop)))

    async def _run_beside(self, worker: Worker, kind: str, job_id: str, work: Coroutine[Any, Any, None]) -> None:
        await work
        del worker.beside[kind, job_id]
        await self._report(lambda: self._ended_beside(worker, job_id))

    def _ended_beside(self, worker: Worker, job_id: str) -> None:
        """Whoever waits for the end of what ran beside the tasks is looked at."""
        node = self._store.find('node', worker.pool_id, worker.node_id)
        if node is not None and node['state'] in nodes.ENDING_WORK:
            self._look_again('node', worker.pool_id, worker.node_id)
        jobs.look_if_ending(self._store, job_id)

    def _begin_preparation(self, job: Document, worker: Worker) -> None:
        self._begin_beside(worker, 'preparation', job['id'], lambda stop: self._run_preparation(job, worker, stop))

    async def _run_preparation(self, job: Document, worker: Worker, stop: Stop) -> None:
        await self._report(lambda: jobs.begin_preparation(self._store, job['id'], worker.pool_id, worker.node_id))
        again = True
        while again:
            outcome = await worker.node.run(commands.preparation_command(job, worker), stop)
            again = await self._report(lambda: self._end_preparation(job, worker, outcome, stop.done()))

    def _end_preparation(self, job: Document, worker: Worker, outcome: Outcome, stopped: bool) -> bool:
        again = jobs.end_preparation(self._store, job, worker.node_id, outcome, stopped)
        if not again:
            for run in worker.runs:
                if run.job_id == job['id'] and run.work is None:
                    self._look_again('task', run.job_id, run.task_id)
        return again

    def _begin_release(self, job: Document, worker: Worker) -> None:
        self._begin_beside(worker, 'release', job['id'], lambda stop: self._run_release(job, worker, stop))

    async def _run_release(self, job: Document, worker: Worker, stop: Stop) -> None:
        outcome = await worker.node.run(commands.release_command(job, worker), stop)
        await self._report(lambda: jobs.end_release(self._store, job['id'], worker.node_id, outcome))

    def _begin_start_task(self, worker: Worker, start_task: Document) -> None:
        self._begin_beside(worker, 'start', '', lambda stop: self._run_start_task(worker, start_task, stop))

    async def _run_start_task(self, worker: Worker, start_task: Document, stop: Stop) -> None:
        again = True
        while again and not stop.done():
            outcome = await worker.node.run(commands.start_command(start_task, worker), stop)
            if not stop.done():
                again = await self._report(lambda: nodes.end_start_task(
                    self._store, worker.pool_id, worker.node_id, outcome))

    def _begin_taking_down(self, pool_id: str, node_id: str, worker: Worker | None) -> None:
        self._going_down.add(node_id)
        self._work(self._take_down(pool_id, node_id, worker))

    async def _take_down(self, pool_id: str, node_id: str, worker: Worker | None) -> None:
        """Ends what a node has left behind, and its files if they go; then it boots anew or is forgotten."""
        if worker is None or worker.used:
            await self._again(lambda: self._end_processes_below(self._workers.root(pool_id, node_id)))
        self._workers.remove(node_id)
        await self._report(lambda: self._taken_down(pool_id, node_id))
        self._going_down.discard(node_id)

    async def _end_processes_below(self, root: Path) -> None:
        """Looks at all processes once for all nodes that go down at the same time."""
        self._to_sweep.add(root)
        async with self._sweeping:
            if root in self._to_sweep:
                await asyncio.to_thread(end_processes_below, *(roots := frozenset(self._to_sweep)))
                self._to_sweep -= roots

    def _taken_down(self, pool_id: str, node_id: str) -> None:
        node = self._store.get('node', pool_id, node_id)
        if node['state'] != 'rebooting':
            self._trash.throw(self._workers.root(pool_id, node_id))
        if node['state'] == 'leavingpool':
            self._store.remove('node', pool_id, node_id)
            pools.look_if_waiting(self._store, pool_id)
            return
        jobs.forget_preparations(self._store, node_id, reimaged=node['state'] == 'reimaging')
        nodes.reboot(self._store, node, clock() + self._settings.node_boot_seconds)

    def remove_files_of(self, task: Document) -> None:
        """Removes the files of a task that nobody will look at any more, from each node that it was on."""
        for info in filter(None, [task.get('nodeInfo'), *task.get('_nodes', ())]):
            self._trash.throw(self._workers.root(info['poolId'], info['nodeId']) / info['taskRootDirectory'])

    async def _remove_files_of_job(self, job_id: str) -> None:
        def gone() -> None:
            job = self._store.get('job', '', job_id)
            job |= {'_files': 'gone', '_due': 0.0}
            self._store.save('job', '', job)

        await self._again(lambda: asyncio.to_thread(self._throw_all, f'*/*/workitems/{job_id}'))
        await self._report(gone)

    def _throw_all(self, pattern: str) -> None:
        for directory in self._workers.directories(pattern):
            self._trash.throw(directory)


def _log_new_try(what: str, error: Exception) -> None:
    _LOG.error('The service failed at %s; it tries again: %s', what, error, exc_info=needs_trace(error))
