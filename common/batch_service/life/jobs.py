"""The life of a job: added, disabled, terminated, deleted; and the tasks that prepare nodes for it and clean up.

A job on its way out says in its document how its running tasks are to end. The engine ends them, runs the release
tasks, and then settles the job. https://learn.microsoft.com/azure/batch/jobs-and-tasks
"""

from __future__ import annotations

from typing import Any

from ..errors import BatchError, invalid_property
from ..store import Store
from ..values import duration, entity_tag, moment, now
from .moves import ENDING, move, wish
from .outcome import Outcome, began, ended, is_tried_again

Document = dict[str, Any]

_REFUSALS = {'completed': 'JobCompleted', 'terminating': 'JobBeingTerminated', 'deleting': 'JobBeingDeleted'}
_LEAVING = ('disabling', 'terminating', 'deleting')


def refuse_unless_open(job: Document) -> None:
    """Raises what says why a job takes no new tasks, if it takes none."""
    if job['state'] in ENDING:
        raise BatchError(_REFUSALS[job['state']])


def add(store: Store, job: Document) -> None:
    """Takes in a new job.

    Raises:
        BatchError: JobExists or JobBeingDeleted.
    """
    if 'jobReleaseTask' in job and 'jobPreparationTask' not in job:
        raise invalid_property('jobReleaseTask', job['jobReleaseTask']['id'], 'It needs a jobPreparationTask')
    moment_added = now()
    job |= {'eTag': entity_tag(), 'lastModified': moment_added, 'creationTime': moment_added, 'state': 'active',
            'stateTransitionTime': moment_added,
            'executionInfo': {'startTime': moment_added, 'poolId': job['poolInfo']['poolId']}}
    look_at_deadline(job)
    if not store.add('job', '', job['id'], job):
        existing = store.get('job', '', job['id'])
        raise BatchError('JobBeingDeleted' if existing['state'] == 'deleting' else 'JobExists')
    terminate_if_all_tasks_are_complete(store, job)


def update(store: Store, job: Document, changes: Document, *, removed: tuple[str, ...] = ()) -> None:
    """Changes some properties of a job, and removes others.

    Raises:
        BatchError: The job's state, or a change that it does not allow.
    """
    refuse_unless_open(job)
    if 'poolInfo' in changes and changes['poolInfo'] != job['poolInfo'] and job['state'] != 'disabled':
        raise BatchError('OperationInvalidForCurrentState', PropertyName='poolInfo',
                         Reason='The pool of a job can be changed only while the job is disabled')
    if job['onAllTasksComplete'] == 'terminatejob' and changes.get('onAllTasksComplete') == 'noaction':
        raise BatchError('InvalidPropertyValue', PropertyName='onAllTasksComplete', PropertyValue='noaction',
                         Reason='It cannot be changed back to noaction')
    for name in removed:
        job.pop(name, None)
    job |= changes
    job['executionInfo']['poolId'] = job['poolInfo']['poolId']
    job |= {'eTag': entity_tag(), 'lastModified': now()}
    look_at_deadline(job)
    store.save('job', '', job)
    terminate_if_all_tasks_are_complete(store, job)


def disable(store: Store, job: Document, how: str) -> None:
    """Stops the job's scheduling; its running tasks are requeued, terminated or waited for.

    Args:
        how: ``requeue``, ``terminate`` or ``wait``.
    """
    refuse_unless_open(job)
    _leave(store, job, 'disabling', how)


def enable(store: Store, job: Document) -> None:
    """Takes up the scheduling of a disabled job; tasks that are ending for that reason still do."""
    refuse_unless_open(job)
    if job['state'] not in ('disabled', 'disabling'):
        raise BatchError('OperationInvalidForCurrentState', Reason='The job is not disabled')
    job.pop('_end', None)
    move('job', job, 'active')
    look_at_deadline(job)
    store.save('job', '', job)
    terminate_if_all_tasks_are_complete(store, job)


def terminate(store: Store, job: Document, reason: str) -> None:
    """Ends the job and its running tasks; tasks still active stay so."""
    refuse_unless_open(job)
    job['executionInfo']['terminateReason'] = reason
    _leave(store, job, 'terminating', 'terminate')


def delete(store: Store, job: Document) -> None:
    """Ends the job, its tasks and their files; its id is free a while later."""
    if job['state'] == 'deleting':
        raise BatchError('JobBeingDeleted')
    _leave(store, job, 'deleting', 'forget')


def _leave(store: Store, job: Document, state: str, how: str) -> None:
    move('job', job, state)
    wish(job, how)
    job['_due'] = 0.0
    store.save('job', '', job)


def terminate_if_all_tasks_are_complete(store: Store, job: Document) -> None:
    """Does what ``onAllTasksComplete`` asks for."""
    if (job['state'] == 'active' and job['onAllTasksComplete'] == 'terminatejob'
            and all(state == 'completed' for state, *_ in store.counts('task', job['id']))):
        terminate(store, job, 'AllTasksComplete')


def act_on_task_end(store: Store, job: Document, action: str) -> None:
    """Does what the exit options of a task ask for: ``terminate``, ``disable`` or ``none``."""
    if job['state'] == 'active' and action == 'terminate':
        terminate(store, job, 'TaskFailed')
    elif job['state'] == 'active' and action == 'disable':
        disable(store, job, 'requeue')


def look_if_ending(store: Store, job_id: str) -> None:
    """Has the engine look at a job that waits for the end of its tasks, of which one has just left its node."""
    job = store.find('job', '', job_id)
    if job is not None and job['state'] in _LEAVING and job.get('_due') != 0.0:
        job['_due'] = 0.0
        store.save('job', '', job)


def settle(store: Store, job: Document) -> None:
    """Brings a job on its way out, none of whose tasks is on a node any more, to where it is going."""
    job.pop('_end', None)
    if job['state'] == 'terminating':
        job['executionInfo']['endTime'] = now()
        move('job', job, 'completed')
    elif job['state'] == 'disabling':
        move('job', job, 'disabled')
        look_at_deadline(job)
    store.save('job', '', job)


def is_past_deadline(job: Document, moment_now: float) -> bool:
    """Says whether an open job has used up its wall-clock time."""
    deadline = _deadline(job)
    return deadline is not None and job['state'] not in ENDING and deadline <= moment_now


def look_at_deadline(job: Document) -> None:
    """Has the engine look at a job when its wall-clock time is over, if not before."""
    deadline = _deadline(job) if job['state'] not in ENDING else None
    if job.get('_due') != 0.0:
        job.pop('_due', None)
        if deadline is not None:
            job['_due'] = deadline


def _deadline(job: Document) -> float | None:
    limit = duration(job['constraints']['maxWallClockTime'])
    return None if limit is None else moment(job['creationTime']).timestamp() + limit.total_seconds()


# Preparation and release: a row for each node and job, whose id is the node's

def preparation_state(job: Document, row: Document | None) -> str:
    """Returns what a job's tasks find on a node: ``none``, ``running``, ``done`` or ``failed``."""
    if 'jobPreparationTask' not in job:
        return 'done'
    if row is None or row.get('_stale'):
        return 'none'
    information = row['jobPreparationTaskExecutionInfo']
    if information['state'] == 'running':
        return 'running'
    waits = job['jobPreparationTask']['waitForSuccess']
    return 'failed' if waits and information['result'] == 'failure' else 'done'


def begin_preparation(store: Store, job_id: str, pool_id: str, node_id: str) -> None:
    """Notes that the job's preparation runs on a node, for the first time or anew."""
    row = {'id': node_id, 'poolId': pool_id, 'nodeId': node_id, 'jobPreparationTaskExecutionInfo': began()}
    if not store.add('preparation', job_id, node_id, row):
        store.save('preparation', job_id, row)


def end_preparation(store: Store, job: Document, node_id: str, outcome: Outcome, stopped: bool) -> bool:
    """Notes how the preparation ended; returns whether it is to be tried again at once.

    Args:
        stopped: Whether the service ended it: then it is no end, and it will run again if it is needed.
    """
    row = store.find('preparation', job['id'], node_id)
    if row is None:
        return False
    information = row['jobPreparationTaskExecutionInfo']
    again = not stopped and is_tried_again(information, outcome,
                                           job['jobPreparationTask']['constraints']['maxTaskRetryCount'])
    row['jobPreparationTaskExecutionInfo'] = began(information) if again else ended(information, outcome)
    if stopped:
        row['_stale'] = True
    store.save('preparation', job['id'], row)
    return again


def forget_preparations(store: Store, node_id: str, *, reimaged: bool) -> None:
    """Has a node's jobs run their preparation again after a reboot, where they want that, or after a reimage."""
    for job_id in store.parents('preparation', node_id):
        row, job = store.find('preparation', job_id, node_id), store.find('job', '', job_id)
        if row and job and (reimaged or job['jobPreparationTask']['rerunOnNodeRebootAfterSuccess']):
            row['_stale'] = True
            store.save('preparation', job_id, row)


def begin_release(store: Store, job_id: str, row: Document) -> None:
    """Notes that the job's release task runs on a node."""
    information = began()
    del information['retryCount']
    row['jobReleaseTaskExecutionInfo'] = information
    store.save('preparation', job_id, row)


def end_release(store: Store, job_id: str, node_id: str, outcome: Outcome) -> None:
    """Notes how the release task ended, and has the engine look at the job."""
    row = store.find('preparation', job_id, node_id)
    if row is not None:
        row['jobReleaseTaskExecutionInfo'] = ended(row['jobReleaseTaskExecutionInfo'], outcome)
        store.save('preparation', job_id, row)
        look_if_ending(store, job_id)
