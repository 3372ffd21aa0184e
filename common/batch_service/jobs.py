"""The life of a job: added, disabled, terminated, deleted; and the tasks that prepare nodes for it and clean up."""

from __future__ import annotations

import asyncio
import shutil
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from .errors import BatchError, invalid_property
from .node import Command, Outcome
from .scheduler import Worker
from .tasks import UNFINISHED
from .values import duration, entity_tag, moment, now

if TYPE_CHECKING:
    from .service import BatchService

Document = dict[str, Any]

_REFUSALS = {'completed': 'JobCompleted', 'terminating': 'JobBeingTerminated', 'deleting': 'JobBeingDeleted'}


class Jobs:
    """Every change of a job's state.

    https://learn.microsoft.com/azure/batch/jobs-and-tasks
    """

    def __init__(self, service: BatchService) -> None:
        self._service = service
        self._store = service.store

    def resume(self) -> None:
        """Goes on with what an earlier run of the service had begun."""
        for job in self._store.all('job'):
            if job['state'] in ('disabling', 'terminating', 'deleting'):
                self._service.spawn(self._settle(job['id']))
            self._watch_the_clock(job)

    def refuse_unless_open(self, job: Document) -> None:
        """Raises what says why a job takes no new tasks, if it takes none."""
        if job['state'] in _REFUSALS:
            raise BatchError(_REFUSALS[job['state']])

    def add(self, job: Document) -> None:
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
        if not self._store.add('job', '', job['id'], job):
            existing = self._store.get('job', '', job['id'])
            raise BatchError('JobBeingDeleted' if existing['state'] == 'deleting' else 'JobExists')
        self._watch_the_clock(job)
        self.terminate_if_all_tasks_are_complete(job)

    def update(self, job: Document, changes: Document, *, removed: tuple[str, ...] = ()) -> None:
        """Changes some properties of a job, and removes others.

        Raises:
            BatchError: The job's state, or a change that it does not allow.
        """
        self.refuse_unless_open(job)
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
        self._store.save('job', '', job)
        self._watch_the_clock(job)
        self.terminate_if_all_tasks_are_complete(job)
        self._service.scheduler.wake()

    def disable(self, job: Document, running_tasks: str) -> None:
        """Stops the job's scheduling; its running tasks are requeued, terminated or waited for."""
        self.refuse_unless_open(job)
        self._move(job, 'disabling')
        then = {'requeue': 'requeue', 'terminate': 'terminate', 'wait': None}[running_tasks]
        self._service.spawn(self._settle(job['id'], then))

    def enable(self, job: Document) -> None:
        """Takes up the scheduling of a disabled job."""
        self.refuse_unless_open(job)
        if job['state'] not in ('disabled', 'disabling'):
            raise BatchError('OperationInvalidForCurrentState', Reason='The job is not disabled')
        self._move(job, 'active')
        self._service.scheduler.wake()

    def terminate(self, job: Document, reason: str) -> None:
        """Ends the job and its running tasks; tasks still active stay so."""
        self.refuse_unless_open(job)
        job['executionInfo']['terminateReason'] = reason
        self._move(job, 'terminating')
        self._service.spawn(self._settle(job['id'], 'terminate'))

    def delete(self, job: Document) -> None:
        """Ends the job, its tasks and their files; its id is free a while later."""
        if job['state'] == 'deleting':
            raise BatchError('JobBeingDeleted')
        self._move(job, 'deleting')
        self._service.spawn(self._settle(job['id'], 'forget'))

    def terminate_if_all_tasks_are_complete(self, job: Document) -> None:
        """Does what ``onAllTasksComplete`` asks for."""
        if (job['state'] == 'active' and job['onAllTasksComplete'] == 'terminatejob'
                and not self._store.any('task', job['id'], *UNFINISHED)):
            self.terminate(job, 'AllTasksComplete')

    def act_on_task_end(self, job: Document, action: str) -> None:
        """Does what the exit options of a task ask for: ``terminate``, ``disable`` or ``none``."""
        if job['state'] == 'active' and action == 'terminate':
            self.terminate(job, 'TaskFailed')
        elif job['state'] == 'active' and action == 'disable':
            self.disable(job, 'requeue')

    async def _settle(self, job_id: str, then: str | None = None) -> None:
        """Brings a job that is on its way out to where it is going, once none of its tasks runs."""
        runs = self._service.scheduler.runs_of_job(job_id)
        if then:
            await asyncio.gather(*(run.end(then) for run in runs))
        elif runs:
            await asyncio.wait([run.work for run in runs if run.work])
        job = self._store.get('job', '', job_id)
        if job['state'] in ('terminating', 'deleting'):
            await self._release(job)
        if job['state'] == 'deleting':
            await asyncio.sleep(self._service.settings.deletion_seconds)
            await self._forget(job)
            return
        with self._store.transaction():
            job = self._store.get('job', '', job_id)
            if job['state'] == 'disabling':
                self._move(job, 'disabled')
            elif job['state'] == 'terminating':
                job['executionInfo']['endTime'] = now()
                self._move(job, 'completed')

    async def _forget(self, job: Document) -> None:
        for worker in list(self._service.scheduler.workers.values()):
            worker.preparations.pop(job['id'], None)
            await asyncio.to_thread(shutil.rmtree, worker.node.job_directory(job['id']), ignore_errors=True)
        with self._store.transaction():
            self._store.remove('task', job['id'])
            self._store.remove('preparation', job['id'])
            self._store.remove('job', '', job['id'])

    def _move(self, job: Document, state: str) -> None:
        job |= {'previousState': job['state'], 'previousStateTransitionTime': job['stateTransitionTime'],
                'state': state, 'stateTransitionTime': now()}
        self._store.save('job', '', job)

    def _watch_the_clock(self, job: Document) -> None:
        limit = duration(job['constraints']['maxWallClockTime'])
        if limit is not None and job['state'] not in _REFUSALS:
            self._service.spawn(self._terminate_after(limit, job))

    async def _terminate_after(self, limit: timedelta, job: Document) -> None:
        age = datetime.now(timezone.utc) - moment(job['creationTime'])
        await asyncio.sleep(max(0.0, (limit - age).total_seconds()))
        now_there = self._store.find('job', '', job['id'])
        if (now_there and now_there['state'] not in _REFUSALS and now_there['creationTime'] == job['creationTime']
                and duration(now_there['constraints']['maxWallClockTime']) == limit):
            with self._store.transaction():
                self.terminate(now_there, 'MaxWallClockTimeExpiry')

    def environment(self, job: Document, task: Document, worker: Worker) -> dict[str, str]:
        """The variables that a task of the job gets beyond those of its node; the task's own come last."""
        environment = {'AZ_BATCH_JOB_ID': job['id'], 'AZ_BATCH_TASK_ID': task['id']}
        preparation = job.get('jobPreparationTask', task)
        if preparation['id'] != task['id']:
            directory = worker.node.task_directory(job['id'], preparation['id'])
            environment |= {'AZ_BATCH_JOB_PREP_DIR': str(directory),
                            'AZ_BATCH_JOB_PREP_WORKING_DIR': str(directory / 'wd')}
        settings = [*job.get('commonEnvironmentSettings', ()), *task.get('environmentSettings', ())]
        return environment | {setting['name']: setting['value'] for setting in settings}

    async def prepare(self, job: Document, worker: Worker) -> bool:
        """Runs the job preparation task on a node; says whether the job's tasks may run there."""
        task = job['jobPreparationTask']
        status = {'id': worker.node_id, 'poolId': worker.pool_id, 'nodeId': worker.node_id}
        information: Document = {'state': 'running', 'startTime': now(), 'retryCount': 0}
        status['jobPreparationTaskExecutionInfo'] = information
        if not self._store.add('preparation', job['id'], worker.node_id, status):
            self._store.save('preparation', job['id'], status)
        most = task['constraints']['maxTaskRetryCount']
        while True:
            outcome = await self._run_beside(job, task, worker, task['constraints']['maxWallClockTime'])
            if (worker.stop.is_set() or outcome.succeeded or outcome.exit_code is None
                    or 0 <= most <= information['retryCount']):
                break
            information |= {'retryCount': information['retryCount'] + 1, 'lastRetryTime': now()}
        information |= how_it_ended(outcome)
        self._store.save('preparation', job['id'], status)
        return outcome.succeeded or not task['waitForSuccess']

    async def _release(self, job: Document) -> None:
        """Runs the job release task on every node that ran the preparation task."""
        if 'jobReleaseTask' in job:
            workers = [worker for worker in self._service.scheduler.workers.values()
                       if job['id'] in worker.preparations]
            await asyncio.gather(*(self._release_on(job, worker) for worker in workers))

    async def _release_on(self, job: Document, worker: Worker) -> None:
        task = job['jobReleaseTask']
        information = {'state': 'running', 'startTime': now()}
        outcome = await self._run_beside(job, task, worker, task['maxWallClockTime'])
        status = self._store.find('preparation', job['id'], worker.node_id)
        if status:
            status['jobReleaseTaskExecutionInfo'] = information | how_it_ended(outcome)
            self._store.save('preparation', job['id'], status)

    async def _run_beside(self, job: Document, task: Document, worker: Worker, limit: str) -> Outcome:
        command = Command(task['commandLine'], worker.node.task_directory(job['id'], task['id']),
                          self.environment(job, task, worker), task.get('resourceFiles', []),
                          time_limit=duration(limit))
        return await worker.node.run(command, worker.stop)


def how_it_ended(outcome: Outcome) -> Document:
    """The fields that a start, preparation or release task's information gets when its command has ended."""
    information: Document = {'state': 'completed', 'endTime': now(),
                             'result': 'success' if outcome.succeeded else 'failure'}
    if outcome.exit_code is not None:
        information['exitCode'] = outcome.exit_code
    if outcome.failure_info:
        information['failureInfo'] = outcome.failure_info
    return information
