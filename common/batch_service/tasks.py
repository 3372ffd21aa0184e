"""The life of a task: added, started, ended, tried again; and what its end means for other tasks and for its job."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator

from .errors import BatchError
from .node import Outcome
from .scheduler import Run
from .values import duration, entity_tag, moment, now, timestamp

if TYPE_CHECKING:
    from .service import BatchService

Document = dict[str, Any]

UNFINISHED = ('active', 'preparing', 'running')


class Tasks:
    """Every change of a task's state.

    https://learn.microsoft.com/azure/batch/batch-job-task-error-checking
    """

    def __init__(self, service: BatchService) -> None:
        self._service = service
        self._store = service.store

    def resume(self) -> None:
        """What was running when the service ended is run again."""
        for job in self._store.all('job'):
            for task in self._store.all('task', job['id'], 'preparing', 'running'):
                self._requeue(job['id'], task)

    def add(self, job: Document, task: Document) -> Document:
        """Takes in a new task of a job that accepts tasks; returns its whole document.

        Raises:
            BatchError: TaskExists, or what is wrong between this task and its job.
        """
        _check_against_job(task, job)
        task['constraints'].setdefault('maxTaskRetryCount', job['constraints']['maxTaskRetryCount'])
        moment_added = now()
        task |= {'eTag': entity_tag(), 'lastModified': moment_added, 'creationTime': moment_added, 'state': 'active',
                 'stateTransitionTime': moment_added, 'executionInfo': {'retryCount': 0, 'requeueCount': 0}}
        if not self._store.add('task', job['id'], task['id'], task, ready=self._parents_are_done(job['id'], task)):
            raise BatchError('TaskExists')
        self._service.scheduler.wake()
        return task

    def update(self, job_id: str, task: Document, constraints: Document) -> None:
        """Replaces the constraints of a task that is not completed; what is left out gets its default."""
        if task['state'] == 'completed':
            raise BatchError('TaskCompleted')
        job = self._store.get('job', '', job_id)
        task['constraints'] = {'maxTaskRetryCount': job['constraints']['maxTaskRetryCount'], **constraints}
        task |= {'eTag': entity_tag(), 'lastModified': now()}
        self._store.save('task', job_id, task)

    async def terminate(self, job_id: str, task: Document) -> None:
        """Completes a task as ended by a user; its processes are gone when this returns."""
        if task['state'] == 'completed':
            raise BatchError('TaskCompleted')
        run = self._service.scheduler.run_of(job_id, task['id'])
        if run:
            await run.end('terminate')
            return
        with self._store.transaction():
            self._complete(job_id, task, None, ended_by_request())

    async def delete(self, job_id: str, task: Document) -> None:
        """Forgets a task and its files; its processes are gone when this returns."""
        run = self._service.scheduler.run_of(job_id, task['id'])
        if run:
            await run.end('forget')
        with self._store.transaction():
            self._store.remove('task', job_id, task['id'])
            self._after_end(job_id)
        self._remove_files(job_id, task)

    def reactivate(self, job_id: str, task: Document) -> None:
        """Makes a completed task that failed active again, as if it had just been added.

        Raises:
            BatchError: TaskNotCompleted, TaskSucceeded, or the job's state.
        """
        if task['state'] != 'completed':
            raise BatchError('TaskNotCompleted')
        if task['executionInfo'].get('result') == 'success':
            raise BatchError('TaskSucceeded')
        self._service.jobs.refuse_unless_open(self._store.get('job', '', job_id))
        task['executionInfo'] = {'retryCount': 0, 'requeueCount': task['executionInfo']['requeueCount']}
        task |= {'eTag': entity_tag(), 'lastModified': now()}
        self._move(job_id, task, 'active')
        self._service.scheduler.wake()

    def counts(self, job_id: str) -> Document:
        """How many tasks, and how many of their slots, are in which state; as the wire has it."""
        counts, slots = ({'active': 0, 'running': 0, 'completed': 0, 'succeeded': 0, 'failed': 0} for _ in range(2))
        until = timestamp(datetime.now(timezone.utc) - timedelta(seconds=self._service.settings.counts_lag_seconds))
        for state, result, number, slot_number in self._store.count_tasks(job_id, until):
            names = ['running' if state == 'preparing' else state]
            if state == 'completed':
                names.append('succeeded' if result == 'success' else 'failed')
            for name in names:
                counts[name] += number
                slots[name] += slot_number
        return {'taskCounts': counts, 'taskSlotCounts': slots}

    def directory(self, job_id: str, task: Document) -> Path:
        """Where the files of a task that is or was on a node are.

        Raises:
            BatchError: What says why there are none.
        """
        if 'nodeInfo' not in task:
            raise BatchError('OperationInvalidForCurrentState',
                             Reason=f'The state of the task is {task["state"]}, and it has not run on a node')
        worker = self._service.scheduler.workers.get(task['nodeInfo']['nodeId'])
        if worker is None:
            raise BatchError('TaskFilesUnavailable')
        directory = worker.node.task_directory(job_id, task['id'])
        if task['state'] == 'completed' and _is_past_retention(task):
            shutil.rmtree(directory, ignore_errors=True)
        if not directory.is_dir():
            raise BatchError('TaskFilesCleanedup')
        return directory

    def started(self, job_id: str, task: Document, state: str) -> None:
        """A task was placed on a node and waits for the job's preparation, or runs."""
        if state == 'running':
            task['executionInfo']['startTime'] = now()
        self._move(job_id, task, state)

    def left(self, run: Run, outcome: Outcome | None) -> None:
        """A task has left its node: it is completed, tried again, put back or forgotten.

        Args:
            run: Where it ran, and what was asked for it meanwhile.
            outcome: How its command ended; None if it was not run at all.
        """
        task = self._store.find('task', run.job_id, run.task_id)
        if task is None or run.then == 'forget':
            return
        if run.then == 'requeue' or outcome is None and run.then is None:
            self._requeue(run.job_id, task)
        elif outcome is None:
            self._complete(run.job_id, task, None, ended_by_request())
        elif outcome.exit_code and run.then is None and _may_retry(task, outcome):
            task['executionInfo']['retryCount'] += 1
            task['executionInfo']['lastRetryTime'] = now()
            self._move(run.job_id, task, 'active')
        else:
            self._complete(run.job_id, task, outcome.exit_code, outcome.failure_info)

    def _requeue(self, job_id: str, task: Document) -> None:
        task['executionInfo']['requeueCount'] += 1
        task['executionInfo']['lastRequeueTime'] = now()
        self._move(job_id, task, 'active')

    def _complete(self, job_id: str, task: Document, exit_code: int | None, failure: Document | None) -> None:
        execution = task['executionInfo']
        execution |= {'endTime': now(), 'result': 'failure' if failure else 'success'}
        execution.setdefault('startTime', execution['endTime'])
        if exit_code is not None:
            execution['exitCode'] = exit_code
        if failure:
            execution['failureInfo'] = failure
        self._move(job_id, task, 'completed')
        job = self._store.get('job', '', job_id)
        if job['usesTaskDependencies']:
            self._release_dependents(job_id)
        if job['onTaskFailure'] == 'performexitoptionsjobaction':
            action = exit_options(task).get('jobAction', 'terminate' if failure else 'none')
            self._service.jobs.act_on_task_end(job, action)
        self._after_end(job_id)

    def _after_end(self, job_id: str) -> None:
        job = self._store.find('job', '', job_id)
        if job and job['onAllTasksComplete'] == 'terminatejob':
            self._service.jobs.terminate_if_all_tasks_are_complete(job)

    def _move(self, job_id: str, task: Document, state: str) -> None:
        task |= {'previousState': task['state'], 'previousStateTransitionTime': task['stateTransitionTime'],
                 'state': state, 'stateTransitionTime': now()}
        self._store.save('task', job_id, task)

    def _release_dependents(self, job_id: str) -> None:
        for task in self._store.waiting(job_id):
            if self._parents_are_done(job_id, task):
                self._store.set_ready(job_id, task['id'], True)
        self._service.scheduler.wake()

    def _parents_are_done(self, job_id: str, task: Document) -> bool:
        depends_on = task.get('dependsOn', {})
        return (all(_satisfies(self._store.find('task', job_id, id)) for id in depends_on.get('taskIds', ()))
                and all(self._range_is_done(job_id, range['start'], range['end'])
                        for range in depends_on.get('taskIdRanges', ())))

    def _range_is_done(self, job_id: str, start: int, end: int) -> bool:
        """Whether every whole number of the range is the id of a task that satisfies those waiting for it."""
        parents = self._store.tasks_in_range(job_id, start, end)
        return len({int(parent['id']) for parent in parents}) == end - start + 1 and all(map(_satisfies, parents))

    def _remove_files(self, job_id: str, task: Document) -> None:
        worker = self._service.scheduler.workers.get(task.get('nodeInfo', {}).get('nodeId', ''))
        if worker:
            shutil.rmtree(worker.node.task_directory(job_id, task['id']), ignore_errors=True)


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


def ended_by_request() -> Document:
    return {'category': 'usererror', 'code': 'TaskEnded', 'message': 'The task was ended by a request', 'details': []}


def _satisfies(parent: Document | None) -> bool:
    if parent is None or parent['state'] != 'completed':
        return False
    succeeded = parent['executionInfo']['result'] == 'success'
    return exit_options(parent).get('dependencyAction', 'satisfy' if succeeded else 'block') == 'satisfy'


def _is_past_retention(task: Document) -> bool:
    kept = duration(task['constraints']['retentionTime'])
    return kept is not None and datetime.now(timezone.utc) - moment(task['executionInfo']['endTime']) > kept


def _may_retry(task: Document, outcome: Outcome) -> bool:
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
