"""Which active task goes on which free slot."""

from __future__ import annotations

from typing import Any, Iterator

from ..life import jobs, nodes, tasks
from ..store import Store
from .workers import Worker, Workers

Document = dict[str, Any]


class Scheduler:
    """Places tasks, in the caller's transaction; nothing is started here."""

    def __init__(self, store: Store, workers: Workers) -> None:
        self._store = store
        self._workers = workers

    def jobs_to_place(self) -> Iterator[tuple[Document, dict[Worker, int]]]:
        """The jobs whose tasks may be placed, the most urgent first, each with the free slots of its nodes."""
        free = {pool_id: workers for pool_id in self._workers.pools() if (workers := self._free_workers(pool_id))}
        for job in sorted(self._store.all('job', '', 'active') if free else (), key=lambda job: -job['priority']):
            if workers := free.get(job['poolInfo']['poolId'].lower()):
                yield job, workers

    def _free_workers(self, pool_id: str) -> dict[Worker, int]:
        return {worker: worker.free_slots for worker in self._workers.of_pool(pool_id) if worker.free_slots > 0}

    def place(self, job: Document, free: dict[Worker, int], most: int) -> list[tuple[Document, Worker]]:
        """Puts active tasks of a job on free slots, in their documents; returns them, each with its node."""
        most = min(most, sum(free.values()))
        if job['maxParallelTasks'] >= 0:
            most = min(most, job['maxParallelTasks'] - len(self._workers.runs_of_job(job['id'])))
        if most <= 0:
            return []
        placed, ready = [], _ReadyNodes(self._store, job)
        for task in self._store.queue(job['id'], most, max(free.values())):
            slots = task['requiredSlots']
            worker = next((worker for worker in _fitting(task, free) if ready[worker]), None)
            if worker is None:
                continue
            node, state = ready[worker]
            tasks.place(self._store, job, task, node, state)
            placed.append((task, worker))
            free[worker] -= slots
            if not free[worker]:
                del free[worker]
        return placed


class _ReadyNodes(dict[Worker, tuple[Document, str] | None]):
    """The documents of nodes, each read once, with the state of a job's tasks there; None where none may be placed."""

    def __init__(self, store: Store, job: Document) -> None:
        self._store = store
        self._job = job

    def __missing__(self, worker: Worker) -> tuple[Document, str] | None:
        node, row = self._store.find('node', worker.pool_id, worker.node_id), None
        if 'jobPreparationTask' in self._job:
            row = self._store.find('preparation', self._job['id'], worker.node_id)
        prepared = jobs.preparation_state(self._job, row)
        takes_tasks = node is not None and nodes.takes_tasks(node) and prepared != 'failed'
        self[worker] = (node, 'running' if prepared == 'done' else 'preparing') if takes_tasks else None
        return self[worker]


def _fitting(task: Document, free: dict[Worker, int]) -> list[Worker]:
    """The nodes with room for a task, the best first."""
    wanted = task.get('affinityInfo', {}).get('affinityId', '').removeprefix('TVM:')
    return sorted((worker for worker, free_slots in free.items() if free_slots >= task['requiredSlots']),
                  key=lambda worker: (worker.node_id != wanted, free[worker] * (1 if worker.packs else -1)))
