from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from common.batch_service.life import jobs, pools, tasks
from common.batch_service.run.scheduler import Scheduler
from common.batch_service.run.workers import Workers
from common.batch_service.store import Store

from ..life.bench import FakeNode, job_document, pool_document, task_document


@pytest.mark.parametrize('gone', ['node', 'pool'])
def test_nothing_is_placed_on_a_node_that_is_gone(tmp_path: Path, gone: str) -> None:
    workers = Workers(lambda root, _: FakeNode(root, []), tmp_path, {})
    workers.add(pool_document(), {'id': 'node', 'isDedicated': True}, used=False)
    with closing(Store(tmp_path / 'batch.db')) as store:
        if gone == 'node':
            pools.add(store, pool_document(), 0.0)
        jobs.add(store, job_document())
        tasks.add(store, store.get('job', '', 'j'), task_document())
        scheduler = Scheduler(store, workers)
        assert [scheduler.place(job, free, 1) for job, free in scheduler.jobs_to_place()] == [[]]
