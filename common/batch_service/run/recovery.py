"""Takes up what an earlier run of the service left, of whose processes none is there any more.

The documents are brought to what the engine can look at for the first time, the nodes that were up are up again, and
files go whose documents are gone.
"""

from __future__ import annotations

from typing import Any

from ..life import jobs, nodes, tasks
from ..life.moves import move, wish
from ..life.outcome import ENDED
from ..store import Store
from .trash import Trash
from .workers import Workers

Document = dict[str, Any]


def recover(store: Store, workers: Workers, trash: Trash) -> None:
    """To be called once, before the engine looks."""
    with store.transaction():
        for job in store.all('job'):
            _recover_tasks(store, job)
            _recover_preparations(store, job)
            _recover_job(store, job['id'])
        for pool in store.all('pool'):
            for node in store.all('node', pool['id']):
                _recover_node(store, workers, pool, node)
            if pool['state'] == 'deleting' or '_resize' in pool:
                pool.setdefault('_due', 0.0)
                store.save('pool', '', pool)
    _sweep(store, workers, trash)


def _recover_tasks(store: Store, job: Document) -> None:
    for task in store.all('task', job['id'], *tasks.ON_NODE):
        node = store.find('node', task['nodeInfo']['poolId'], task['nodeInfo']['nodeId'])
        for wished in (job, node or {}):
            # It was to end for the sake of another document, which had not told it yet.
            wish(task, wished.get('_end', 'wait'))
        store.save('task', job['id'], task)
        tasks.left(store, job['id'], task['id'], None)


def _recover_preparations(store: Store, job: Document) -> None:
    for row in store.all('preparation', job['id']):
        if row.get('jobReleaseTaskExecutionInfo', {}).get('state') == 'running':
            del row['jobReleaseTaskExecutionInfo']
            store.save('preparation', job['id'], row)
        if row['jobPreparationTaskExecutionInfo']['state'] == 'running':
            jobs.end_preparation(store, job, row['id'], ENDED, stopped=True)


def _recover_job(store: Store, job_id: str) -> None:
    job = store.get('job', '', job_id)  # the ends of its tasks may have changed it
    if job['state'] in ('disabling', 'terminating', 'deleting'):
        job.pop('_files', None)
        job.setdefault('_due', 0.0)
        store.save('job', '', job)


def _recover_node(store: Store, workers: Workers, pool: Document, node: Document) -> None:
    """A node that was ready is ready again, without its start task; any other begins anew."""
    ready, starting = node['state'] in nodes.READY, node.get('startTaskInfo', {}).get('state') == 'running'
    boots = node['state'] == 'waitingforstarttask' or ready and starting
    if not boots and (ready or node['state'] == 'starttaskfailed'):
        try:
            workers.add(pool, node, used=True)
        except OSError:
            boots = ready  # then its directories are made, or it turns unusable
    elif not boots:
        node.setdefault('_due', 0.0)
    if boots:
        move('node', node, 'starting')
        node |= {'_booting': True, '_due': 0.0}
    store.save('node', pool['id'], node)


def _sweep(store: Store, workers: Workers, trash: Trash) -> None:
    """Throws away the files of what is gone: a kill may have come between the end of a document and theirs."""
    for root in workers.directories('*'):
        if store.find('pool', '', root.name) is None:
            trash.throw(root)
    for root in workers.directories('*/*'):
        if store.find('node', root.parent.name, root.name) is None:
            trash.throw(root)
    for directory in workers.directories('*/*/workitems/*'):
        if store.find('job', '', directory.name) is None:
            trash.throw(directory)
    known: dict[str, set[str]] = {}
    for directory in workers.directories('*/*/workitems/*/job-1/*'):
        job_id = directory.parent.parent.name
        if job_id not in known:
            job = store.find('job', '', job_id) or {}
            known[job_id] = store.ids('task', job_id) | {
                job[kind]['id'] for kind in ('jobPreparationTask', 'jobReleaseTask') if kind in job}
        if directory.name not in known[job_id]:
            trash.throw(directory)
