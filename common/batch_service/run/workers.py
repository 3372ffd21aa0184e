"""The nodes that are up, the tasks that are on them, and what their commands are told: all that is only in memory.

After a restart of the service it is made anew from the documents.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterable

from ..values import duration
from .node import Command, Node, Stop

Document = dict[str, Any]


@dataclass(eq=False)
class Run:
    """A task that holds slots of a node.

    Attributes:
        stop: Set to end its processes.
        work: Its command; None while it waits for the job's preparation.
    """

    job_id: str
    task_id: str
    worker: Worker
    slots: int
    stop: Stop = field(default_factory=Stop)
    work: asyncio.Task[None] | None = None


@dataclass(eq=False)
class Worker:
    """A node that is up.

    Attributes:
        free_slots: How many slots no task has.
        packs: Whether its pool fills one node after another.
        runs: The tasks on it.
        beside: What ends each start, preparation and release task that runs there, by kind and job.
        used: Whether it may have run anything, this service or one before.
    """

    pool_id: str
    node_id: str
    node: Node
    free_slots: int
    packs: bool
    runs: set[Run] = field(default_factory=set)
    beside: dict[tuple[str, str], Stop] = field(default_factory=dict)
    used: bool = True


class Workers:
    """All nodes that are up.

    Args:
        make_node: Makes a node of its root directory and the variables of its commands.
        nodes: The directory of all nodes.
        environment: The variables that are the same for every command of the service.
    """

    def __init__(self, make_node: Callable[[Path, dict[str, str]], Node], nodes: Path,
                 environment: dict[str, str]) -> None:
        self._make_node = make_node
        self._nodes = nodes
        self._environment = environment
        self._workers: dict[str, Worker] = {}
        self._by_pool: dict[str, dict[str, Worker]] = {}
        self._runs: dict[tuple[str, str], Run] = {}

    def add(self, pool: Document, node: Document, *, used: bool) -> Worker:
        """A node has come up. Raises OSError when its directories cannot be made."""
        environment = {
            **self._environment, 'AZ_BATCH_POOL_ID': pool['id'], 'AZ_BATCH_NODE_ID': node['id'],
            'AZ_BATCH_NODE_IS_DEDICATED': 'true' if node['isDedicated'] else 'false'}
        worker = Worker(pool['id'], node['id'], self._make_node(self.root(pool['id'], node['id']), environment),
                        pool['taskSlotsPerNode'], pool['taskSchedulingPolicy']['nodeFillType'] == 'Pack', used=used)
        self._workers[node['id']] = worker
        self._by_pool.setdefault(pool['id'].lower(), {})[node['id']] = worker
        return worker

    def remove(self, node_id: str) -> None:
        """A node has gone down; nothing runs on it."""
        worker = self._workers.pop(node_id, None)
        if worker:
            del self._by_pool[worker.pool_id.lower()][node_id]

    def root(self, pool_id: str, node_id: str) -> Path:
        """Where the files of a node are, or would be."""
        return self._nodes / pool_id / node_id

    def directories(self, pattern: str) -> list[Path]:
        """The directories below that of all nodes that fit a pattern, also of nodes that are not up."""
        return list(self._nodes.glob(pattern))

    def find(self, node_id: str) -> Worker | None:
        return self._workers.get(node_id)

    def all(self) -> list[Worker]:
        return list(self._workers.values())

    def of_pool(self, pool_id: str) -> Iterable[Worker]:
        return self._by_pool.get(pool_id.lower(), {}).values()

    def pools(self) -> list[str]:
        return [pool_id for pool_id, workers in self._by_pool.items() if workers]

    def hold(self, job_id: str, task_id: str, worker: Worker, slots: int) -> Run:
        """A task has come to a node."""
        run = Run(job_id, task_id, worker, slots)
        self._runs[job_id.lower(), task_id.lower()] = run
        worker.runs.add(run)
        worker.free_slots -= slots
        worker.used = True
        return run

    def free(self, run: Run) -> None:
        """A task has left its node."""
        del self._runs[run.job_id.lower(), run.task_id.lower()]
        run.worker.runs.discard(run)
        run.worker.free_slots += run.slots

    def run_of(self, job_id: str, task_id: str) -> Run | None:
        return self._runs.get((job_id.lower(), task_id.lower()))

    def runs_of_job(self, job_id: str) -> list[Run]:
        return [run for (job, _), run in self._runs.items() if job == job_id.lower()]


def task_command(job: Document, task: Document, worker: Worker) -> Command:
    """Returns what a node is asked to run for a task."""
    return Command(task['commandLine'], worker.node.task_directory(job['id'], task['id']),
                   _environment(job, task, worker), task.get('resourceFiles', []), task.get('outputFiles', []),
                   duration(task['constraints']['maxWallClockTime']))


def preparation_command(job: Document, worker: Worker) -> Command:
    """Returns what a node is asked to run before the first task of a job."""
    task = job['jobPreparationTask']
    return _command_beside(job, task, worker, task['constraints']['maxWallClockTime'])


def release_command(job: Document, worker: Worker) -> Command:
    """Returns what a node is asked to run after the last task of a job."""
    return _command_beside(job, job['jobReleaseTask'], worker, job['jobReleaseTask']['maxWallClockTime'])


def start_command(start_task: Document, worker: Worker) -> Command:
    """Returns what a node is asked to run when it has booted."""
    return Command(start_task['commandLine'], worker.node.startup,
                   _of_settings(start_task.get('environmentSettings', ())), start_task.get('resourceFiles', []))


def _command_beside(job: Document, task: Document, worker: Worker, limit: str) -> Command:
    return Command(task['commandLine'], worker.node.task_directory(job['id'], task['id']),
                   _environment(job, task, worker), task.get('resourceFiles', []), time_limit=duration(limit))


def _environment(job: Document, task: Document, worker: Worker) -> dict[str, str]:
    """The variables that a task of the job gets beyond those of its node; the task's own come last."""
    environment = {'AZ_BATCH_JOB_ID': job['id'], 'AZ_BATCH_TASK_ID': task['id']}
    preparation = job.get('jobPreparationTask', task)
    if preparation['id'] != task['id']:
        directory = worker.node.task_directory(job['id'], preparation['id'])
        environment |= {'AZ_BATCH_JOB_PREP_DIR': str(directory),
                        'AZ_BATCH_JOB_PREP_WORKING_DIR': str(directory / 'wd')}
    return environment | _of_settings([*job.get('commonEnvironmentSettings', ()), *task.get('environmentSettings', ())])


def _of_settings(settings: Iterable[Document]) -> dict[str, str]:
    return {setting['name']: setting['value'] for setting in settings}
