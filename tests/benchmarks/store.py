"""What the store's questions cost: ``python -m tests.benchmarks.store [tasks]``, run by hand; prints a table."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.batch_service.life import jobs, nodes, tasks
from common.batch_service.life.outcome import Outcome
from common.batch_service.store import Store
from common.batch_service.wire import documents, odata
from common.batch_service.wire.shapes import read

_LEFT = 10
_PARENTS = 1_000


def main(number: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / 'batch.db'
        store = Store(path)
        print(f'{"tasks":>8}  {"ms":>9}  what')
        row(number, 'add them', lambda: add(store, number))
        row(number, 'open the database again', lambda: Store(path).close())
        for text in ("state ne 'completed'", "state eq 'completed'", "state eq 'active'",
                     "executionInfo/exitCode ne 0"):
            row(number, f'a page of 1,000, {text}', lambda: store.page(
                'task', 'j', '', 1_001, odata.condition(text, odata.TASKS)))
        row(number, 'a page of 1,000', lambda: store.page('task', 'j', '', 1_001))
        row(number, 'a page of 1,000 from the middle', lambda: store.page('task', 'j', f'{number // 2}', 1_001))
        row(number, 'counts', lambda: tasks.counts(store, 'j', 0))
        row(number, 'counts of a moment ago', lambda: tasks.counts(store, 'j', 60))
        row(number, 'the queue', lambda: store.queue('j', 10, 1))
        row(number, 'what is due', lambda: (store.due(time.time(), 20), store.next_due()))
        row(number, 'the tasks on nodes', lambda: store.all('task', 'j', *tasks.ON_NODE))
        row(_PARENTS, 'end those that one waits for', lambda: depend(store, range(_PARENTS)))
        row(_PARENTS, 'the same, last first', lambda: depend(store, range(_PARENTS - 1, -1, -1)))
        row(number, 'forget 100 of them', lambda: store.remove_some('task', 'j', 100))
        store.close()


def row(number: int, what: str, question: Callable[[], Any]) -> None:
    began = time.perf_counter()
    question()
    print(f'{number:>8,}  {(time.perf_counter() - began) * 1000:>9,.2f}  {what}')


def job(id: str) -> dict[str, Any]:
    return read(documents.JOB, {'id': id, 'poolInfo': {'poolId': 'p'}, 'usesTaskDependencies': True})


def task(id: str, **more: Any) -> dict[str, Any]:
    return read(documents.TASK, {'id': id, 'commandLine': 'true', **more})


def add(store: Store, number: int) -> None:
    with store.transaction():
        jobs.add(store, job('j'))
        for id in range(number):
            document = tasks.add(store, job('j'), task(f'{id:06}'))
            if id < number - _LEFT:
                document |= {'state': 'completed'}
                document['executionInfo'] |= {'result': 'success', 'exitCode': 0}
                store.save('task', 'j', document)


def depend(store: Store, order: range) -> None:
    """Ends all tasks that one waits for, each in a transaction of its own."""
    with store.transaction():
        jobs.add(store, job('d'))
        for id in order:
            tasks.add(store, job('d'), task(str(id)))
        tasks.add(store, job('d'), task('last', dependsOn={'taskIdRanges': [{'start': 0, 'end': _PARENTS - 1}]}))
        nodes.add(store, {'id': 'p', 'vmSize': 'standard_d2s_v5', 'virtualMachineConfiguration': {
            'imageReference': {}}}, True, 0.0)
        node = store.all('node', 'p')[0] | {'state': 'idle'}
        store.save('node', 'p', node)
    for id in order:
        with store.transaction():
            tasks.place(store, job('d'), store.get('task', 'd', str(id)), node, 'running')
            tasks.left(store, 'd', str(id), Outcome(0, None))
    assert [document['id'] for document in store.queue('d', 10, 1)] == ['last']
    with store.transaction():
        store.remove_some('task', 'd', 2 * _PARENTS)
        store.remove('job', '', 'd')


if __name__ == '__main__':
    main(int(sys.argv[1]) if sys.argv[1:] else 100_000)
