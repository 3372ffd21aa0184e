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
        pool = self._store.find('pool', '', next(iter(free)).pool_id)
        pack = pool is not None and pool['taskSchedulingPolicy']['nodeFillType'] == 'Pack'
        placed = []
        for task in self._store.queue(job['id'], most, max(free.values())):
            slots = task['requiredSlots']
            worker = self._worker_for(job, task, free, slots, pack)
            if worker is None:
                continue
            node = self._store.get('node', worker.pool_id, worker.node_id)
            prepared = jobs.preparation_state(job, self._row(job, worker)) == 'done'
            tasks.place(self._store, job, task, node, 'running' if prepared else 'preparing')
            placed.append((task, worker))
            free[worker] -= slots
            if not free[worker]:
                del free[worker]
        return placed

    def _worker_for(self, job: Document, task: Document, free: dict[Worker, int], slots: int,
                    pack: bool) -> Worker | None:
        wanted = task.get('affinityInfo', {}).get('affinityId', '').removeprefix('TVM:')
        fitting = [worker for worker, free_slots in free.items() if free_slots >= slots]
        fitting.sort(key=lambda worker: (worker.node_id != wanted, free[worker] * (1 if pack else -1)))
        for worker in fitting:
            node = self._store.find('node', worker.pool_id, worker.node_id)
            if node is not None and nodes.takes_tasks(node) and (
                    jobs.preparation_state(job, self._row(job, worker)) != 'failed'):
                return worker
        return None

    def _row(self, job: Document, worker: Worker) -> Document | None:
        if 'jobPreparationTask' not in job:
            return None
        return self._store.find('preparation', job['id'], worker.node_id)
