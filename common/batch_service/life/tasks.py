"""The life of a task: added, placed, ended, tried again; and what its end means for other tasks and for its job.

https://learn.microsoft.com/azure/batch/batch-job-task-error-checking
"""

from __future__ import annotations

from typing import Any, Iterator

from ..errors import BatchError
from ..store import Store
from ..values import clock, duration, entity_tag, now, timestamp_of
from . import jobs, nodes
from .moves import move, wish
from .outcome import ENDED, Outcome

Document = dict[str, Any]

ON_NODE = ('preparing', 'running')


def add(store: Store, job: Document, task: Document) -> Document:
    """Takes in a new task of a job that accepts tasks; returns its whole document.

    Raises:
        BatchError: TaskExists, or what is wrong between this task and its job.
    """
    _check_against_job(task, job)
    task['constraints'].setdefault('maxTaskRetryCount', job['constraints']['maxTaskRetryCount'])
    moment_added = now()
    task |= {'eTag': entity_tag(), 'lastModified': moment_added, 'creationTime': moment_added, 'state': 'active',
             'stateTransitionTime': moment_added, 'executionInfo': {'retryCount': 0, 'requeueCount': 0}}
    if not store.add('task', job['id'], task['id'], task, waits_for=_missing_parent(store, job['id'], task)):
        raise BatchError('TaskExists')
    return task


def update(store: Store, job_id: str, task: Document, constraints: Document) -> None:
    """Replaces the constraints of a task that is not completed; what is left out gets its default."""
    if task['state'] == 'completed':
        raise BatchError('TaskCompleted')
    job = store.get('job', '', job_id)
    task['constraints'] = {'maxTaskRetryCount': job['constraints']['maxTaskRetryCount'], **constraints}
    task |= {'eTag': entity_tag(), 'lastModified': now()}
    store.save('task', job_id, task)


def reactivate(store: Store, job_id: str, task: Document) -> None:
    """Makes a completed task that failed active again, as if it had just been added.

    Raises:
        BatchError: TaskNotCompleted, TaskSucceeded, or the job's state.
    """
    if task['state'] != 'completed':
        raise BatchError('TaskNotCompleted')
    if task['executionInfo'].get('result') == 'success':
        raise BatchError('TaskSucceeded')
    jobs.refuse_unless_open(store.get('job', '', job_id))
    task['executionInfo'] = {'retryCount': 0, 'requeueCount': task['executionInfo']['requeueCount']}
    task |= {'eTag': entity_tag(), 'lastModified': now()}
    for name in ('_due', '_satisfies'):
        task.pop(name, None)
    move('task', task, 'active')
    store.save('task', job_id, task)


def terminate(store: Store, job_id: str, task: Document) -> None:
    """Has a task end; one that is on a node is completed when its processes are gone.

    Raises:
        BatchError: TaskCompleted.
    """
    if task['state'] == 'completed':
        raise BatchError('TaskCompleted')
    end(store, job_id, task, 'terminate')


def end(store: Store, job_id: str, task: Document, how: str) -> None:
    """Has a task leave its node; one that is on none is completed or forgotten at once, or left as it is.

    Args:
        how: See moves.wish.
    """
    if task['state'] in ON_NODE:
        if wish(task, how):
            task['_due'] = 0.0
            store.save('task', job_id, task)
    elif how == 'forget':
        _forget(store, job_id, task)
    elif how == 'terminate' and task['state'] == 'active':
        _complete(store, job_id, task, ENDED)


def place(store: Store, job: Document, task: Document, node: Document, state: str) -> None:
    """Puts an active task on a node, where it waits for the job's preparation or runs.

    Args:
        state: ``preparing`` or ``running``.
    """
    before = task.get('nodeInfo')
    if before and before['nodeId'] != node['id']:
        # Its files there stay for as long as it does.
        task['_nodes'] = [*(info for info in task.get('_nodes', ()) if info['nodeId'] != before['nodeId']), before]
    task['nodeInfo'] = {'affinityId': node['affinityId'], 'poolId': node['_pool'], 'nodeId': node['id'],
                        'taskRootDirectory': f'workitems/{job["id"]}/job-1/{task["id"]}'}
    if state == 'running':
        task['executionInfo']['startTime'] = now()
    move('task', task, state)
    store.save('task', job['id'], task)
    nodes.task_came(store, node, task)


def start(store: Store, job_id: str, task: Document) -> None:
    """Has a task run that has waited on its node for the job's preparation."""
    task['executionInfo']['startTime'] = now()
    move('task', task, 'running')
    store.save('task', job_id, task)


def left(store: Store, job_id: str, task_id: str, outcome: Outcome | None) -> None:
    """A task has left its node: it is completed, tried again, put back or forgotten, as was wished meanwhile.

    Args:
        outcome: How its command ended; None if it was not run, or if that is not known.
    """
    task = store.find('task', job_id, task_id)
    if task is None or task['state'] not in ON_NODE:
        return
    node_id, slots, how = task['nodeInfo']['nodeId'], task['requiredSlots'], task.pop('_end', 'wait')
    task.pop('_due', None)
    if how == 'forget':
        _forget(store, job_id, task)
    elif again := _again(task, how, outcome):
        task['executionInfo'][f'{again}Count'] += 1
        task['executionInfo'][f'last{again.title()}Time'] = now()
        move('task', task, 'active')
        store.save('task', job_id, task)
    else:
        _complete(store, job_id, task, outcome or ENDED)
    nodes.task_left(store, task['nodeInfo']['poolId'], node_id, job_id, task, slots)
    jobs.look_if_ending(store, job_id)


def _again(task: Document, how: str, outcome: Outcome | None) -> str:
    """Why a task that has left its node is to run again: ``requeue`` or ``retry``; empty if it is not."""
    if how == 'requeue' and not (outcome and outcome.succeeded) or how == 'wait' and outcome is None:
        return 'requeue'
    return 'retry' if how == 'wait' and _is_tried_again(task, outcome) else ''


def _complete(store: Store, job_id: str, task: Document, outcome: Outcome) -> None:
    execution, failed = task['executionInfo'], outcome.failure_info
    execution |= {'endTime': now(), 'result': 'failure' if failed else 'success'}
    execution.setdefault('startTime', execution['endTime'])
    if outcome.exit_code is not None:
        execution['exitCode'] = outcome.exit_code
    if failed:
        execution['failureInfo'] = failed
    if exit_options(task).get('dependencyAction', 'block' if failed else 'satisfy') == 'satisfy':
        task['_satisfies'] = True
    move('task', task, 'completed')
    retention = duration(task['constraints']['retentionTime'])
    if retention is not None and 'nodeInfo' in task:
        # Then the engine removes its files.
        task['_due'] = clock() + retention.total_seconds()
    store.save('task', job_id, task)
    job = store.get('job', '', job_id)
    if job['usesTaskDependencies']:
        _look_at_dependents(store, job_id, task['id'])
    if job['onTaskFailure'] == 'performexitoptionsjobaction':
        jobs.act_on_task_end(store, job, exit_options(task).get('jobAction', 'terminate' if failed else 'none'))
    jobs.terminate_if_all_tasks_are_complete(store, job)


def _forget(store: Store, job_id: str, task: Document) -> None:
    store.remove('task', job_id, task['id'])
    jobs.terminate_if_all_tasks_are_complete(store, store.get('job', '', job_id))


def counts(store: Store, job_id: str, lag_seconds: float) -> Document:
    """How many tasks, and how many of their slots, are in which state; as the wire has it.

    Args:
        lag_seconds: How old the counts are to be.
    """
    numbers, slots = ({'active': 0, 'running': 0, 'completed': 0, 'succeeded': 0, 'failed': 0} for _ in range(2))
    rows = (store.count_tasks_then(job_id, timestamp_of(clock() - lag_seconds)) if lag_seconds
            else store.counts('task', job_id))
    for state, result, number, slot_number in rows:
        names = ['running' if state == 'preparing' else state]
        if state == 'completed':
            names.append('succeeded' if result == 'success' else 'failed')
        for name in names:
            numbers[name] += number
            slots[name] += slot_number
    return {'taskCounts': numbers, 'taskSlotCounts': slots}


def _look_at_dependents(store: Store, job_id: str, parent_id: str) -> None:
    for task in store.waiting(job_id, parent_id):
        store.set_waits_for(job_id, task['id'], _missing_parent(store, job_id, task))


def _missing_parent(store: Store, job_id: str, task: Document) -> str | None:
    """One of the tasks that a task has to wait for, and that it need not be looked at before the end of."""
    depends_on = task.get('dependsOn', {})
    for id in reversed(depends_on.get('taskIds', ())):
        parent = store.find('task', job_id, id)
        if parent is None or '_satisfies' not in parent:
            return id
    for range in depends_on.get('taskIdRanges', ()):
        missing = store.missing_in_range(job_id, range['start'], range['end'])
        if missing is not None:
            return str(missing)
    return None


def exit_options(task: Document) -> Document:
    """What a completed task's exit conditions say about its end; empty if they say nothing.

    https://learn.microsoft.com/azure/batch/batch-task-dependencies#dependency-actions
    """
    conditions, execution = task.get('exitConditions', {}), task['executionInfo']
    code = execution.get('exitCode')
    for condition in conditions.get('exitCodes', ()):
        if condition['code'] == code:
            return condition['exitOptions']
    for condition in conditions.get('exitCodeRanges', ()):
        if code is not None and condition['start'] <= code <= condition['end']:
            return condition['exitOptions']
    if execution['result'] == 'success':
        return {}
    failed = execution['failureInfo']['code']
    special = 'fileUploadError' if failed.startswith('FileUpload') else 'preProcessingError' if code is None else ''
    return conditions.get(special) or conditions.get('default', {})


def _is_tried_again(task: Document, outcome: Outcome) -> bool:
    """Only a non-zero exit code is tried again, not a command that ran out of its time or failed to upload."""
    most = task['constraints']['maxTaskRetryCount']
    failed_by_code = outcome.failure_info is not None and outcome.failure_info['code'] == 'FailureExitCode'
    return failed_by_code and (most < 0 or task['executionInfo']['retryCount'] < most)


def _check_against_job(task: Document, job: Document) -> None:
    if 'dependsOn' in task and not job['usesTaskDependencies']:
        raise BatchError('TaskDependenciesNotSpecifiedOnJob')
    for kind, code in (('jobPreparationTask', 'TaskIdSameAsJobPreparationTask'),
                       ('jobReleaseTask', 'TaskIdSameAsJobReleaseTask')):
        if task['id'].lower() == job.get(kind, {}).get('id', '').lower():
            raise BatchError(code)
    if job['onTaskFailure'] == 'noaction' and any('jobAction' in options for options in _all_exit_options(task)):
        raise BatchError('InvalidPropertyValue', PropertyName='exitConditions',
                         Reason='A jobAction needs onTaskFailure performExitOptionsJobAction on the job')


def _all_exit_options(task: Document) -> Iterator[Document]:
    for conditions in task.get('exitConditions', {}).values():
        if isinstance(conditions, list):
            yield from (condition['exitOptions'] for condition in conditions)
        else:
            yield conditions
