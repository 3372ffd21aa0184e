from __future__ import annotations

import time
from typing import Any

import pytest

from common.batch_service.errors import BatchError
from common.batch_service.life import jobs, nodes, tasks
from common.batch_service.life.outcome import Outcome
from common.batch_service.store import Store
from common.batch_service.values import moment

from .bench import FAILURE, NOT_STARTED, NOT_UPLOADED, STOPPED, SUCCESS, Document, job_document, task_document
from .test_nodes import add as add_node


def add_job(store: Store, **properties: Any) -> Document:
    jobs.add(store, job := job_document(**properties))
    return job


def add(store: Store, id: str = 't', **properties: Any) -> Document:
    """A task of the job j, which is there or is added."""
    job = store.find('job', '', 'j') or add_job(store)
    return tasks.add(store, job, task_document(id, **properties))


def read(store: Store, id: str = 't') -> Document:
    return store.get('task', 'j', id)


def run(store: Store, id: str = 't', state: str = 'running') -> Document:
    """Puts a task on a node of its own."""
    node = add_node(store)
    tasks.place(store, store.get('job', '', 'j'), read(store, id), node, state)
    return node


def finish(store: Store, id: str = 't', outcome: Outcome | None = SUCCESS) -> Document:
    """Runs a task to an end."""
    run(store, id)
    tasks.left(store, 'j', id, outcome)
    return read(store, id)


def queued(store: Store) -> list[str]:
    return [task['id'] for task in store.queue('j', 100, 100)]


# Added, changed, reactivated

def test_added_task_is_active_and_takes_its_retries_from_the_job(store: Store) -> None:
    add_job(store, constraints={'maxTaskRetryCount': 3})
    assert add(store)['constraints']['maxTaskRetryCount'] == 3
    assert add(store, 'u', constraints={'maxTaskRetryCount': 1})['constraints']['maxTaskRetryCount'] == 1
    assert read(store)['state'] == 'active' and queued(store) == ['t', 'u']
    with pytest.raises(BatchError, match='TaskExists'):
        add(store, 'T')


@pytest.mark.parametrize(('job', 'task', 'code'), [
    ({}, {'dependsOn': {'taskIds': ['u']}}, 'TaskDependenciesNotSpecifiedOnJob'),
    ({'jobPreparationTask': {'id': 'T', 'commandLine': 'x'}}, {}, 'TaskIdSameAsJobPreparationTask'),
    ({'jobPreparationTask': {'commandLine': 'x'}, 'jobReleaseTask': {'id': 'T', 'commandLine': 'x'}}, {},
     'TaskIdSameAsJobReleaseTask'),
    ({}, {'exitConditions': {'default': {'jobAction': 'none'}}}, 'InvalidPropertyValue'),
    ({}, {'exitConditions': {'exitCodes': [{'code': 1, 'exitOptions': {'jobAction': 'none'}}]}},
     'InvalidPropertyValue')])
def test_task_that_does_not_go_with_its_job_is_refused(store: Store, job: Any, task: Any, code: str) -> None:
    add_job(store, **job)
    with pytest.raises(BatchError, match=code):
        add(store, **task)
    assert store.find('task', 'j', 't') is None


def test_constraints_are_replaced_until_the_task_is_completed(store: Store) -> None:
    add(store, constraints={'maxTaskRetryCount': 2})
    tasks.update(store, 'j', read(store), {'retentionTime': 'PT1M', 'maxWallClockTime': 'PT2M'})
    assert read(store)['constraints'] == {'maxTaskRetryCount': 0, 'retentionTime': 'PT1M',
                                          'maxWallClockTime': 'PT2M'}
    with pytest.raises(BatchError, match='TaskCompleted'):
        tasks.update(store, 'j', finish(store), {})


def test_task_that_failed_is_reactivated_as_if_it_were_new(store: Store) -> None:
    add(store)
    with pytest.raises(BatchError, match='TaskNotCompleted'):
        tasks.reactivate(store, 'j', read(store))
    tasks.reactivate(store, 'j', finish(store, outcome=FAILURE))
    task = read(store)
    assert task['executionInfo'] == {'retryCount': 0, 'requeueCount': 0}
    assert (task['state'], '_due' in task, queued(store)) == ('active', False, ['t'])
    with pytest.raises(BatchError, match='TaskSucceeded'):
        tasks.reactivate(store, 'j', finish(store))


def test_task_of_a_job_that_ends_is_not_reactivated(store: Store) -> None:
    add(store)
    task = finish(store, outcome=FAILURE)
    jobs.terminate(store, store.get('job', '', 'j'), 'reason')
    with pytest.raises(BatchError, match='JobBeingTerminated'):
        tasks.reactivate(store, 'j', task)


# Terminated, forgotten

def test_task_on_no_node_is_terminated_at_once(store: Store) -> None:
    add(store)
    tasks.terminate(store, 'j', read(store))
    task = read(store)
    assert task['state'] == 'completed'
    assert task['executionInfo']['failureInfo']['code'] == 'TaskEnded'
    assert 'exitCode' not in task['executionInfo'] and '_due' not in task
    with pytest.raises(BatchError, match='TaskCompleted'):
        tasks.terminate(store, 'j', task)


@pytest.mark.parametrize('how', ['wait', 'requeue'])
def test_task_on_no_node_is_left_as_it_is(store: Store, how: str) -> None:
    before = add(store)
    tasks.end(store, 'j', read(store), how)
    assert read(store) == before


def test_completed_task_is_not_terminated_by_its_job_but_forgotten(store: Store) -> None:
    add(store)
    before = finish(store)
    tasks.end(store, 'j', read(store), 'terminate')
    assert read(store) == before
    tasks.end(store, 'j', read(store), 'forget')
    assert store.find('task', 'j', 't') is None


@pytest.mark.parametrize('state', tasks.ON_NODE)
def test_task_on_a_node_is_looked_at_for_each_stronger_wish(store: Store, state: str) -> None:
    add(store)
    run(store, state=state)
    for how, wished, due in (('requeue', 'requeue', 0.0), ('terminate', 'terminate', 0.0),
                             ('requeue', 'terminate', None), ('forget', 'forget', 0.0)):
        task = read(store)
        task.pop('_due', None)
        store.save('task', 'j', task)
        tasks.end(store, 'j', task, how)
        assert (read(store)['_end'], read(store).get('_due')) == (wished, due)
        assert read(store)['state'] == state


# Left its node

def test_task_that_has_run_is_completed(store: Store) -> None:
    add(store, constraints={'retentionTime': 'PT1M'})
    node = run(store)
    assert read(store)['nodeInfo'] == {'affinityId': node['affinityId'], 'poolId': 'p', 'nodeId': node['id'],
                                       'taskRootDirectory': 'workitems/j/job-1/t'}
    tasks.left(store, 'j', 't', SUCCESS)
    task = read(store)
    information = task['executionInfo']
    assert (task['state'], information['result'], information['exitCode']) == ('completed', 'success', 0)
    assert moment(information['startTime']) <= moment(information['endTime']) and 'failureInfo' not in information
    assert 50 < task['_due'] - time.time() <= 60
    assert store.get('node', 'p', node['id'])['totalTasksSucceeded'] == 1


def test_files_are_kept_for_ever_where_that_was_asked_for(store: Store) -> None:
    add(store, constraints={'retentionTime': 'P10675199DT2H48M5.4775807S'})
    assert '_due' not in finish(store)


def test_task_waits_for_the_preparation_and_then_starts(store: Store) -> None:
    add(store)
    run(store, state='preparing')
    assert 'startTime' not in read(store)['executionInfo']
    tasks.start(store, 'j', read(store))
    assert read(store)['state'] == 'running' and read(store)['executionInfo']['startTime']


ENDS = {  # the wish, how the command ended, then the state, result, exit code, retries, requeues
    'failed': ('wait', FAILURE, 'active', None, None, 1, 0),
    'did not start': ('wait', NOT_STARTED, 'completed', 'failure', None, 0, 0),
    'did not upload': ('wait', NOT_UPLOADED, 'completed', 'failure', 0, 0, 0),
    'out of time': ('wait', STOPPED, 'completed', 'failure', -15, 0, 0),
    'not run': ('wait', None, 'active', None, None, 0, 1),
    'requeued': ('requeue', STOPPED, 'active', None, None, 0, 1),
    'requeued before it ran': ('requeue', None, 'active', None, None, 0, 1),
    'requeued though it failed': ('requeue', FAILURE, 'active', None, None, 0, 1),
    'ended well before it was requeued': ('requeue', SUCCESS, 'completed', 'success', 0, 0, 0),
    'terminated': ('terminate', STOPPED, 'completed', 'failure', -15, 0, 0),
    'terminated before it ran': ('terminate', None, 'completed', 'failure', None, 0, 0),
    'failed before it was terminated': ('terminate', FAILURE, 'completed', 'failure', 1, 0, 0),
    'ended well before it was terminated': ('terminate', SUCCESS, 'completed', 'success', 0, 0, 0)}


@pytest.mark.parametrize(('how', 'outcome', 'state', 'result', 'code', 'retries', 'requeues'), ENDS.values(), ids=ENDS)
def test_task_leaves_its_node_as_was_wished(store: Store, how: str, outcome: Outcome | None, state: str,
                                            result: str | None, code: int | None, retries: int, requeues: int) -> None:
    add(store, constraints={'maxTaskRetryCount': 1})
    node = run(store)
    tasks.end(store, 'j', read(store), how)
    tasks.left(store, 'j', 't', outcome)
    task = read(store)
    information = task['executionInfo']
    assert (task['state'], information.get('result'), information.get('exitCode'), information['retryCount'],
            information['requeueCount']) == (state, result, code, retries, requeues)
    assert ('failureInfo' in information) == (result == 'failure')
    assert ('lastRetryTime' in information, 'lastRequeueTime' in information) == (bool(retries), bool(requeues))
    assert '_end' not in task and ('_due' in task) == (state == 'completed')
    assert store.get('node', 'p', node['id'])['runningTasksCount'] == 0


def test_retries_are_bounded_unless_they_are_to_be_endless(store: Store) -> None:
    add(store, constraints={'maxTaskRetryCount': 1})
    add(store, 'endless', constraints={'maxTaskRetryCount': -1})
    assert [finish(store, outcome=FAILURE)['state'] for _ in range(2)] == ['active', 'completed']
    assert [finish(store, 'endless', FAILURE)['state'] for _ in range(3)] == ['active'] * 3


def test_forgotten_task_is_gone_when_it_has_left(store: Store) -> None:
    add(store)
    node = run(store)
    tasks.end(store, 'j', read(store), 'forget')
    tasks.left(store, 'j', 't', SUCCESS)
    assert store.find('task', 'j', 't') is None
    assert store.get('node', 'p', node['id'])['runningTasksCount'] == 0
    tasks.left(store, 'j', 't', SUCCESS)


def test_task_that_has_left_before_is_left_alone(store: Store) -> None:
    add(store)
    before = finish(store)
    tasks.left(store, 'j', 't', FAILURE)
    assert read(store) == before


def test_job_that_waits_for_its_tasks_is_looked_at(store: Store) -> None:
    add(store)
    run(store)
    jobs.disable(store, job := store.get('job', '', 'j'), 'wait')
    del job['_due']
    store.save('job', '', job)
    tasks.left(store, 'j', 't', SUCCESS)
    assert store.get('job', '', 'j')['_due'] == 0.0


def test_counts_have_tasks_and_their_slots(store: Store) -> None:
    for id, slots in (('a', 1), ('b', 2), ('c', 3), ('d', 4), ('e', 5)):
        add(store, id, requiredSlots=slots)
    finish(store, 'a')
    finish(store, 'b', FAILURE)
    run(store, 'c', 'preparing')
    run(store, 'd')
    counts = tasks.counts(store, 'j', 0)
    assert counts['taskCounts'] == {'active': 1, 'running': 2, 'completed': 2, 'succeeded': 1, 'failed': 1}
    assert counts['taskSlotCounts'] == {'active': 5, 'running': 7, 'completed': 3, 'succeeded': 1, 'failed': 2}
    # Old counts have each task in the state before its last, and what was only added not at all.
    assert tasks.counts(store, 'j', 3600)['taskCounts'] == {
        'active': 2, 'running': 2, 'completed': 0, 'succeeded': 0, 'failed': 0}


def test_counts_of_now_need_neither_the_clock_nor_the_documents(
        store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store)
    finish(store)
    monkeypatch.setattr(tasks, 'clock', lambda: time.time() - 7200)  # as after a start with the clock set back
    monkeypatch.setattr(store, 'count_tasks_then', None)
    assert tasks.counts(store, 'j', 0)['taskCounts']['completed'] == 1


# What others wait for

def depending(store: Store, **depends_on: Any) -> None:
    add_job(store, usesTaskDependencies=True)
    add(store, 'last', dependsOn=depends_on)


@pytest.mark.parametrize('order', [['a', 'B', 'c'], ['c', 'B', 'a'], ['B', 'c', 'a']])
def test_task_waits_for_all_tasks_that_it_names(store: Store, order: list[str]) -> None:
    depending(store, taskIds=['A', 'b', 'C'])
    for id in order:
        assert 'last' not in queued(store)
        add(store, id)
        finish(store, id)
    assert queued(store) == ['last']


@pytest.mark.parametrize('order', [['2', '03', '3', '4'], ['4', '3', '03', '2'], ['3', '2', '4', '03']])
def test_task_waits_for_all_tasks_of_the_ranges(store: Store, order: list[str]) -> None:
    depending(store, taskIdRanges=[{'start': 2, 'end': 3}, {'start': 4, 'end': 4}])
    for id in ['1', *order, '5']:
        add(store, id)
    for id in ['1', '5', *order]:
        assert 'last' not in queued(store)
        finish(store, id)
    assert 'last' in queued(store)


def test_task_waits_for_numbers_that_are_no_tasks_yet(store: Store) -> None:
    depending(store, taskIdRanges=[{'start': 1, 'end': 3}])
    for id in ('3', '1', '2'):
        assert queued(store) == []
        add(store, id)
        finish(store, id)
    assert queued(store) == ['last']


def test_task_whose_parents_are_done_waits_for_none(store: Store) -> None:
    add_job(store, usesTaskDependencies=True)
    for id in ('1', '2'):
        add(store, id)
        finish(store, id)
    add(store, 'last', dependsOn={'taskIds': ['1'], 'taskIdRanges': [{'start': 1, 'end': 2}]})
    assert queued(store) == ['last']


@pytest.mark.parametrize(('conditions', 'outcome', 'released'), [
    ({}, SUCCESS, True), ({}, FAILURE, False),
    ({'default': {'dependencyAction': 'satisfy'}}, FAILURE, True),
    ({'exitCodes': [{'code': 1, 'exitOptions': {'dependencyAction': 'satisfy'}}]}, FAILURE, True),
    ({'exitCodes': [{'code': 0, 'exitOptions': {'dependencyAction': 'block'}}]}, SUCCESS, False),
    ({'exitCodeRanges': [{'start': 1, 'end': 9, 'exitOptions': {'dependencyAction': 'satisfy'}}]}, FAILURE, True),
    ({'exitCodeRanges': [{'start': 2, 'end': 9, 'exitOptions': {'dependencyAction': 'satisfy'}}]}, FAILURE, False),
    ({'preProcessingError': {'dependencyAction': 'satisfy'}}, NOT_STARTED, True),
    ({'preProcessingError': {'dependencyAction': 'satisfy'}}, FAILURE, False),
    ({'fileUploadError': {'dependencyAction': 'satisfy'}}, NOT_UPLOADED, True),
    ({'fileUploadError': {'dependencyAction': 'satisfy'}}, NOT_STARTED, False),
    ({'default': {'dependencyAction': 'satisfy'}, 'fileUploadError': {'dependencyAction': 'block'}}, NOT_UPLOADED,
     False)])
def test_exit_conditions_say_whether_others_may_run(store: Store, conditions: Any, outcome: Outcome,
                                                    released: bool) -> None:
    depending(store, taskIds=['t'])
    add(store, exitConditions=conditions)
    finish(store, outcome=outcome)
    assert queued(store) == ['last'] * released


def test_blocked_task_runs_when_what_it_waits_for_is_reactivated_and_succeeds(store: Store) -> None:
    depending(store, taskIds=['t'])
    add(store)
    tasks.reactivate(store, 'j', finish(store, outcome=FAILURE))
    finish(store)
    assert queued(store) == ['last']


# What an end means for the job

@pytest.mark.parametrize(('options', 'outcome', 'state', 'reason'), [
    ({}, FAILURE, 'terminating', 'TaskFailed'), ({}, SUCCESS, 'active', None),
    ({'jobAction': 'none'}, FAILURE, 'active', None), ({'jobAction': 'disable'}, FAILURE, 'disabling', None),
    ({'jobAction': 'terminate'}, FAILURE, 'terminating', 'TaskFailed')])
def test_end_of_a_task_acts_on_its_job(store: Store, options: Any, outcome: Outcome, state: str,
                                       reason: str | None) -> None:
    add_job(store, onTaskFailure='performexitoptionsjobaction')
    add(store, exitConditions={'default': options})
    finish(store, outcome=outcome)
    job = store.get('job', '', 'j')
    assert (job['state'], job['executionInfo'].get('terminateReason')) == (state, reason)


def test_end_of_a_task_does_nothing_to_a_job_that_did_not_ask_for_it(store: Store) -> None:
    add(store)
    finish(store, outcome=FAILURE)
    assert store.get('job', '', 'j')['state'] == 'active'


@pytest.mark.parametrize('how', ['terminate', 'forget', 'run'])
def test_job_ends_with_the_last_of_its_tasks(store: Store, how: str) -> None:
    add(store, 'first')
    add(store)
    jobs.update(store, store.get('job', '', 'j'), {'onAllTasksComplete': 'terminatejob'})
    finish(store, 'first', FAILURE)
    assert store.get('job', '', 'j')['state'] == 'active'
    if how == 'run':
        finish(store)
    else:
        tasks.end(store, 'j', read(store), how)
    job = store.get('job', '', 'j')
    assert (job['state'], job['executionInfo']['terminateReason']) == ('terminating', 'AllTasksComplete')


def test_node_that_is_gone_is_no_hindrance(store: Store) -> None:
    add(store)
    node = run(store)
    store.remove('node', 'p', node['id'])
    tasks.left(store, 'j', 't', SUCCESS)
    assert read(store)['state'] == 'completed'
    assert not nodes.takes_tasks(node | {'schedulingState': 'disabled'})
