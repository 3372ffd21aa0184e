from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from .client import Refused


def test_task_is_echoed_with_its_defaults(empty_bench) -> None:
    empty_bench.add_job(constraints={'maxTaskRetryCount': 2})
    empty_bench.add('task', 'true', displayName='Tâche', environmentSettings=[{'name': 'COLOUR', 'value': 'red'}])
    task = empty_bench.task('task')
    assert task['url'].endswith(f'/jobs/{empty_bench.job_id}/tasks/task')
    assert (task['displayName'], task['state'], task['requiredSlots']) == ('Tâche', 'active', 1)
    assert task['constraints']['maxTaskRetryCount'] == 2
    assert task['constraints']['retentionTime'] == timedelta(days=7)
    assert task['userIdentity'] == {'autoUser': {'scope': 'pool', 'elevationLevel': 'nonadmin'}}
    assert task['executionInfo'] == {'retryCount': 0, 'requeueCount': 0}


def test_task_runs_in_the_environment_of_a_node(bench) -> None:
    task = bench.run('task', "/bin/bash -c 'echo $AZ_BATCH_JOB_ID/$AZ_BATCH_TASK_ID $COLOUR; echo careful >&2'",
                     environmentSettings=[{'name': 'COLOUR', 'value': 'red'}])
    execution = task['executionInfo']
    assert (execution['exitCode'], execution['result']) == (0, 'success')
    assert 'failureInfo' not in execution
    assert isinstance(execution['startTime'], datetime)
    assert execution['startTime'] <= execution['endTime']
    assert task['previousState'] == 'running'
    assert task['nodeInfo']['poolId'] == bench.pool_id
    assert bench.output('task') == f'{bench.job_id}/task red\n'.encode()
    assert bench.output('task', 'stderr.txt') == b'careful\n'


def test_failed_task_says_why(bench) -> None:
    failed = bench.run('failed', '/bin/bash -c "exit 3"', constraints={'maxTaskRetryCount': 1})['executionInfo']
    assert (failed['exitCode'], failed['result'], failed['retryCount']) == (3, 'failure', 1)
    assert (failed['failureInfo']['category'], failed['failureInfo']['code']) == ('usererror', 'FailureExitCode')
    lost = bench.run('lost', 'no-such-program')['executionInfo']
    assert (lost['failureInfo']['category'], lost['failureInfo']['code']) == ('usererror', 'CommandProgramNotFound')
    assert 'exitCode' not in lost


def test_task_ends_when_its_time_is_over(bench) -> None:
    task = bench.run('endless', 'sleep 600', constraints={'maxWallClockTime': timedelta(seconds=0.2)})
    assert task['executionInfo']['failureInfo']['code'] == 'TaskEnded'


def test_update_replaces_the_constraints(empty_bench) -> None:
    empty_bench.add_job()
    empty_bench.add('task', 'true', constraints={'maxTaskRetryCount': 2, 'retentionTime': timedelta(hours=1)})
    empty_bench.client.update_task(empty_bench.job_id, 'task', {'constraints': {'maxTaskRetryCount': 5}})
    constraints = empty_bench.task('task')['constraints']
    assert (constraints['maxTaskRetryCount'], constraints['retentionTime']) == (5, timedelta(days=7))


def test_task_that_was_read_can_be_written_back(empty_bench) -> None:
    empty_bench.add_job()
    empty_bench.add('task', 'true', environmentSettings=[{'name': 'COLOUR', 'value': 'red'}])
    before = empty_bench.task('task')
    constraints = {**before['constraints'], 'maxTaskRetryCount': 5}
    empty_bench.client.update_task(empty_bench.job_id, 'task', {**before, 'constraints': constraints})
    assert empty_bench.task('task')['constraints'] == constraints


def test_running_task_can_be_terminated(bench) -> None:
    bench.add('endless', 'sleep 600')
    bench.wait_for('endless', 'running')
    bench.client.terminate_task(bench.job_id, 'endless')
    execution = bench.task('endless')['executionInfo']
    assert (execution['result'], execution['failureInfo']['code']) == ('failure', 'TaskEnded')
    with pytest.raises(Refused, match='^409 TaskCompleted'):
        bench.client.terminate_task(bench.job_id, 'endless')


def test_waiting_task_can_be_terminated(empty_bench) -> None:
    empty_bench.add_job()
    empty_bench.add('waiting', 'true')
    empty_bench.client.terminate_task(empty_bench.job_id, 'waiting')
    task = empty_bench.task('waiting')
    assert (task['state'], task['previousState']) == ('completed', 'active')
    assert 'exitCode' not in task['executionInfo']


def test_failed_task_can_be_reactivated(bench) -> None:
    bench.run('task', '/bin/bash -c "exit $((1 - $(ls -A $AZ_BATCH_NODE_SHARED_DIR | wc -l)))"')
    bench.run('fix', '/bin/bash -c "touch $AZ_BATCH_NODE_SHARED_DIR/fixed"')
    bench.client.reactivate_task(bench.job_id, 'task')
    execution = bench.wait_for('task', 'completed')['executionInfo']
    assert (execution['exitCode'], execution['result'], execution['retryCount']) == (0, 'success', 0)
    assert 'failureInfo' not in execution


def test_only_a_failed_task_can_be_reactivated(bench) -> None:
    bench.run('good', 'true')
    with pytest.raises(Refused, match='^409 TaskSucceeded'):
        bench.client.reactivate_task(bench.job_id, 'good')
    bench.add('endless', 'sleep 600')
    with pytest.raises(Refused, match='^409 TaskNotCompleted'):
        bench.client.reactivate_task(bench.job_id, 'endless')


def test_deleted_task_is_gone_at_once(bench) -> None:
    bench.add('endless', 'sleep 600')
    bench.wait_for('endless', 'running')
    bench.client.delete_task(bench.job_id, 'endless')
    assert bench.task_ids() == []
    with pytest.raises(Refused, match='^404 TaskNotFound'):
        bench.task('endless')


def test_tasks_are_counted_by_state(bench) -> None:
    bench.run('good', 'true', requiredSlots=2)
    bench.run('bad', 'false')
    bench.add('endless', 'sleep 600', requiredSlots=3)
    bench.wait_for('endless', 'running')
    bench.add('waiting', 'true', requiredSlots=2)
    counts = bench.client.get_task_counts(bench.job_id)
    assert counts['taskCounts'] == {'active': 1, 'running': 1, 'completed': 2, 'succeeded': 1, 'failed': 1}
    assert counts['taskSlotCounts'] == {'active': 2, 'running': 3, 'completed': 3, 'succeeded': 2, 'failed': 1}


def test_task_has_no_subtasks(bench) -> None:
    bench.run('task', 'true')
    subtasks = bench.client.list_subtasks(bench.job_id, 'task')
    assert subtasks in ([], {'value': []})


def test_task_waits_for_the_slots_it_needs(bench) -> None:
    bench.add('big', 'sleep 600', requiredSlots=3)
    bench.wait_for('big', 'running')
    bench.add('medium', 'true', requiredSlots=2)
    bench.run('small', 'true')
    assert bench.task('medium')['state'] == 'active'
    bench.client.terminate_task(bench.job_id, 'big')
    bench.wait_for('medium', 'completed')


@pytest.mark.parametrize('depends_on', [
    {'taskIds': ['1', '2']}, {'taskIdRanges': [{'start': 1, 'end': 2}]}])
def test_task_waits_for_the_tasks_it_depends_on(empty_bench, depends_on) -> None:
    empty_bench.add_pool()
    empty_bench.add_job(usesTaskDependencies=True)
    empty_bench.add('child', 'true', dependsOn=depends_on)
    empty_bench.run('1', 'true')
    assert empty_bench.task('child')['state'] == 'active'
    parent = empty_bench.run('2', 'true')
    child = empty_bench.wait_for('child', 'completed')
    assert parent['executionInfo']['endTime'] <= child['executionInfo']['startTime']


def test_failed_task_blocks_those_that_depend_on_it_unless_it_says_otherwise(empty_bench) -> None:
    empty_bench.add_pool()
    empty_bench.add_job(usesTaskDependencies=True)
    empty_bench.run('bad', '/bin/bash -c "exit 7"')
    empty_bench.run('forgiven', '/bin/bash -c "exit 7"', exitConditions={
        'exitCodes': [{'code': 7, 'exitOptions': {'dependencyAction': 'satisfy'}}]})
    empty_bench.add('blocked', 'true', dependsOn={'taskIds': ['bad']})
    empty_bench.run('free', 'true', dependsOn={'taskIds': ['forgiven']})
    assert empty_bench.task('blocked')['state'] == 'active'


@pytest.mark.parametrize(('action', 'state'), [('terminate', 'completed'), ('disable', 'disabled')])
@pytest.mark.parametrize('conditions', ['exitCodes', 'exitCodeRanges', 'default', 'preProcessingError'])
def test_job_does_what_a_task_asks_for_when_it_fails(empty_bench, action, state, conditions) -> None:
    options = {'exitOptions': {'jobAction': action}}
    condition = {'exitCodes': [{'code': 7, **options}], 'exitCodeRanges': [{'start': 6, 'end': 8, **options}],
                 'default': options['exitOptions'], 'preProcessingError': options['exitOptions']}[conditions]
    command = 'no-such-program' if conditions == 'preProcessingError' else '/bin/bash -c "exit 7"'
    empty_bench.add_pool()
    empty_bench.add_job(onTaskFailure='performexitoptionsjobaction')
    empty_bench.run('bad', command, exitConditions={conditions: condition})
    job = empty_bench.wait_for_job(state)
    assert job['executionInfo'].get('terminateReason') == ('TaskFailed' if action == 'terminate' else None)


def test_job_goes_on_when_a_task_ends_as_it_may(empty_bench) -> None:
    empty_bench.add_pool()
    empty_bench.add_job(onTaskFailure='performexitoptionsjobaction')
    empty_bench.run('bad', '/bin/bash -c "exit 7"', exitConditions={
        'exitCodes': [{'code': 7, 'exitOptions': {'jobAction': 'none'}}], 'default': {'jobAction': 'terminate'}})
    assert empty_bench.job()['state'] == 'active'
