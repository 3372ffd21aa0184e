from __future__ import annotations

import time
from typing import Any

import pytest

from common.batch_service.errors import BatchError
from common.batch_service.life import jobs
from common.batch_service.life.outcome import Outcome
from common.batch_service.store import Store
from common.batch_service.values import moment

from .bench import FAILURE, NOT_STARTED, STOPPED, SUCCESS, Document, job_document, task_document

PREPARATION = {'jobPreparationTask': {'commandLine': 'x', 'constraints': {'maxTaskRetryCount': 1}}}
HOUR = {'constraints': {'maxWallClockTime': 'PT1H'}}


def add(store: Store, state: str = 'active', **properties: Any) -> Document:
    """The job j in a state."""
    jobs.add(store, job := job_document(**properties))
    job['state'] = state
    store.save('job', '', job)
    return job


def read(store: Store) -> Document:
    return store.get('job', '', 'j')


def test_added_job_is_active(store: Store) -> None:
    jobs.add(store, job_document())
    job = read(store)
    assert (job['state'], job['executionInfo']['poolId'], '_due' in job) == ('active', 'p', False)


@pytest.mark.parametrize(('state', 'code'), [('active', 'JobExists'), ('completed', 'JobExists'),
                                             ('deleting', 'JobBeingDeleted')])
def test_id_of_another_job_is_refused(store: Store, state: str, code: str) -> None:
    add(store, state)
    with pytest.raises(BatchError, match=code):
        jobs.add(store, job_document('J'))


def test_release_without_preparation_is_refused(store: Store) -> None:
    with pytest.raises(BatchError, match='InvalidPropertyValue'):
        add(store, jobReleaseTask={'commandLine': 'x'})


REQUESTS = {
    'update': lambda store, job: jobs.update(store, job, {}), 'disable': lambda store, job: jobs.disable(
        store, job, 'wait'), 'enable': lambda store, job: jobs.enable(store, job),
    'terminate': lambda store, job: jobs.terminate(store, job, 'reason'),
    'add task': lambda _, job: jobs.refuse_unless_open(job)}


@pytest.mark.parametrize(('state', 'code'), [('terminating', 'JobBeingTerminated'), ('completed', 'JobCompleted'),
                                             ('deleting', 'JobBeingDeleted')])
@pytest.mark.parametrize('request_name', REQUESTS)
def test_job_that_ends_refuses(store: Store, state: str, code: str, request_name: str) -> None:
    job = add(store, state)
    with pytest.raises(BatchError, match=code):
        REQUESTS[request_name](store, job)
    assert read(store)['state'] == state


def test_active_job_is_not_enabled(store: Store) -> None:
    with pytest.raises(BatchError, match='OperationInvalidForCurrentState'):
        jobs.enable(store, add(store))


def test_job_being_deleted_is_not_deleted(store: Store) -> None:
    with pytest.raises(BatchError, match='JobBeingDeleted'):
        jobs.delete(store, add(store, 'deleting'))


@pytest.mark.parametrize('state', ['active', 'disabling', 'disabled', 'terminating', 'completed'])
def test_job_is_deleted_from_any_other_state(store: Store, state: str) -> None:
    jobs.delete(store, add(store, state))
    job = read(store)
    assert (job['state'], job['_end'], job['_due']) == ('deleting', 'forget', 0.0)


@pytest.mark.parametrize('how', ['requeue', 'terminate', 'wait'])
def test_job_is_disabled_and_enabled(store: Store, how: str) -> None:
    jobs.disable(store, add(store, **HOUR), how)
    job = read(store)
    assert (job['state'], job['_end'], job['_due']) == ('disabling', how, 0.0)
    del job['_due']
    jobs.settle(store, job)
    job = read(store)
    assert (job['state'], '_end' in job) == ('disabled', False) and job['_due'] > time.time() + 3000
    jobs.enable(store, job)
    assert read(store)['state'] == 'active'


def test_job_that_is_being_disabled_keeps_the_stronger_wish_and_forgets_it_when_enabled(store: Store) -> None:
    jobs.disable(store, add(store), 'terminate')
    jobs.disable(store, read(store), 'requeue')
    assert read(store)['_end'] == 'terminate'
    jobs.enable(store, read(store))
    assert '_end' not in read(store) and read(store)['state'] == 'active'


@pytest.mark.parametrize('state', ['active', 'disabling', 'disabled'])
def test_job_is_terminated(store: Store, state: str) -> None:
    jobs.terminate(store, add(store, state), 'my reason')
    job = read(store)
    assert (job['state'], job['_end'], job['_due'], job['executionInfo']['terminateReason']) == (
        'terminating', 'terminate', 0.0, 'my reason')
    del job['_due']
    jobs.settle(store, job)
    job = read(store)
    assert (job['state'], '_end' in job, '_due' in job) == ('completed', False, False)
    assert moment(job['executionInfo']['endTime']) >= moment(job['creationTime'])


def test_update_changes_and_removes(store: Store) -> None:
    before = add(store, metadata=[{'name': 'a', 'value': 'b'}])['eTag']
    jobs.update(store, read(store), {'priority': 5}, removed=('metadata',))
    job = read(store)
    assert (job['priority'], 'metadata' in job, job['eTag'] != before) == (5, False, True)


def test_pool_is_changed_only_while_the_job_is_disabled(store: Store) -> None:
    change = {'poolInfo': {'poolId': 'q'}}
    with pytest.raises(BatchError, match='OperationInvalidForCurrentState'):
        jobs.update(store, add(store), change)
    jobs.update(store, read(store), {'poolInfo': {'poolId': 'p'}})
    jobs.update(store, read(store) | {'state': 'disabled'}, change)
    assert read(store)['executionInfo']['poolId'] == 'q'


def test_job_does_not_stop_to_end_with_its_tasks(store: Store) -> None:
    add(store)
    store.add('task', 'j', 't', task_document() | {'state': 'active', 'executionInfo': {}})
    jobs.update(store, read(store), {'onAllTasksComplete': 'terminatejob'})
    assert read(store)['state'] == 'active'
    with pytest.raises(BatchError, match='InvalidPropertyValue'):
        jobs.update(store, read(store), {'onAllTasksComplete': 'noaction'})


def test_job_without_tasks_that_is_to_end_with_them_ends_at_once(store: Store) -> None:
    jobs.add(store, job_document(onAllTasksComplete='terminatejob'))
    job = read(store)
    assert (job['state'], job['executionInfo']['terminateReason']) == ('terminating', 'AllTasksComplete')


def test_disabled_job_ends_with_its_tasks_when_it_is_enabled(store: Store) -> None:
    jobs.update(store, add(store, 'disabled'), {'onAllTasksComplete': 'terminatejob'})
    assert read(store)['state'] == 'disabled'
    jobs.enable(store, read(store))
    assert read(store)['state'] == 'terminating'


@pytest.mark.parametrize(('state', 'action', 'after'), [
    ('active', 'none', 'active'), ('active', 'disable', 'disabling'), ('active', 'terminate', 'terminating'),
    ('disabling', 'terminate', 'disabling'), ('completed', 'terminate', 'completed')])
def test_action_of_a_task_is_done_to_an_active_job(store: Store, state: str, action: str, after: str) -> None:
    jobs.act_on_task_end(store, add(store, state), action)
    assert read(store)['state'] == after


@pytest.mark.parametrize(('state', 'looked_at'), [
    ('active', False), ('disabling', True), ('terminating', True), ('deleting', True), ('disabled', False)])
def test_job_is_looked_at_when_it_waits_for_its_tasks(store: Store, state: str, looked_at: bool) -> None:
    add(store, state)
    jobs.look_if_ending(store, 'j')
    assert read(store).get('_due') == (0.0 if looked_at else None)
    jobs.look_if_ending(store, 'gone')


# Its wall-clock time

@pytest.mark.parametrize('state', ['active', 'disabling', 'disabled', 'terminating', 'completed', 'deleting'])
def test_open_job_is_past_its_deadline_after_its_wall_clock_time(store: Store, state: str) -> None:
    job = add(store, state, **HOUR)
    assert 3500 < job['_due'] - time.time() <= 3600
    assert not jobs.is_past_deadline(job, job['_due'] - 1)
    assert jobs.is_past_deadline(job, job['_due']) == (state in ('active', 'disabling', 'disabled'))


def test_deadline_follows_the_constraints(store: Store) -> None:
    jobs.update(store, add(store), HOUR)
    assert read(store)['constraints'] == HOUR['constraints'] and read(store)['_due'] > time.time()
    jobs.update(store, read(store), {'constraints': job_document()['constraints']})
    assert '_due' not in read(store)
    assert not jobs.is_past_deadline(read(store), 1e12)


def test_change_of_the_deadline_does_not_put_off_a_look(store: Store) -> None:
    jobs.disable(store, add(store), 'wait')
    jobs.update(store, read(store), HOUR)
    assert read(store)['_due'] == 0.0


# Preparation and release

def row(store: Store) -> Document | None:
    return store.find('preparation', 'j', 'n')


@pytest.mark.parametrize(('outcomes', 'waits', 'state', 'retries'), [
    ([SUCCESS], True, 'done', 0), ([FAILURE, SUCCESS], True, 'done', 1), ([FAILURE, FAILURE], True, 'failed', 1),
    ([NOT_STARTED], True, 'failed', 0), ([NOT_STARTED], False, 'done', 0)])
def test_end_of_the_preparation_decides(store: Store, outcomes: list[Outcome], waits: bool, state: str,
                                        retries: int) -> None:
    job = add(store, **PREPARATION)
    job['jobPreparationTask']['waitForSuccess'] = waits
    assert jobs.preparation_state(job, row(store)) == 'none'
    jobs.begin_preparation(store, 'j', 'p', 'n')
    assert jobs.preparation_state(job, row(store)) == 'running'
    again = [jobs.end_preparation(store, job, 'n', outcome, False) for outcome in outcomes]
    assert again == [True] * retries + [False]
    assert jobs.preparation_state(job, row(store)) == state
    assert row(store)['jobPreparationTaskExecutionInfo']['retryCount'] == retries
    assert jobs.preparation_state(job_document(), row(store)) == 'done'


def test_preparation_that_was_stopped_runs_again_when_it_is_needed(store: Store) -> None:
    job = add(store, **PREPARATION)
    jobs.begin_preparation(store, 'j', 'p', 'n')
    assert not jobs.end_preparation(store, job, 'n', STOPPED, True)
    assert jobs.preparation_state(job, row(store)) == 'none'
    jobs.begin_preparation(store, 'j', 'p', 'n')
    assert jobs.preparation_state(job, row(store)) == 'running'
    store.remove('preparation', 'j', 'n')
    assert not jobs.end_preparation(store, job, 'n', FAILURE, False)


@pytest.mark.parametrize(('reimaged', 'reruns', 'state'), [
    (False, True, 'none'), (False, False, 'done'), (True, False, 'none')])
def test_preparation_is_forgotten_by_a_reboot_that_is_to_rerun_it_or_a_reimage(
        store: Store, reimaged: bool, reruns: bool, state: str) -> None:
    job = add(store, jobPreparationTask={'commandLine': 'x', 'rerunOnNodeRebootAfterSuccess': reruns})
    jobs.begin_preparation(store, 'j', 'p', 'n')
    jobs.end_preparation(store, job, 'n', SUCCESS, False)
    jobs.forget_preparations(store, 'other', reimaged=True)
    assert jobs.preparation_state(job, row(store)) == 'done'
    jobs.forget_preparations(store, 'n', reimaged=reimaged)
    assert jobs.preparation_state(job, row(store)) == state


def test_release_is_noted_and_has_its_job_looked_at(store: Store) -> None:
    job = add(store, 'terminating', **PREPARATION)
    jobs.begin_preparation(store, 'j', 'p', 'n')
    jobs.end_preparation(store, job, 'n', SUCCESS, False)
    jobs.begin_release(store, 'j', row(store))
    information = row(store)['jobReleaseTaskExecutionInfo']
    assert information['state'] == 'running' and 'retryCount' not in information
    jobs.end_release(store, 'j', 'n', FAILURE)
    information = row(store)['jobReleaseTaskExecutionInfo']
    assert (information['state'], information['result'], information['exitCode']) == ('completed', 'failure', 1)
    assert read(store)['_due'] == 0.0
    jobs.end_release(store, 'j', 'gone', FAILURE)
