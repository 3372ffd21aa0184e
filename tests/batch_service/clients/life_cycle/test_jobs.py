from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from tests.leftovers import eventually

from .client import Refused


def test_job_is_echoed_with_its_defaults(empty_bench) -> None:
    empty_bench.add_job(displayName='Travail', constraints={'maxWallClockTime': timedelta(hours=1)},
                        commonEnvironmentSettings=[{'name': 'COLOUR', 'value': 'red'}])
    job = empty_bench.job()
    assert job['url'].endswith(f'/jobs/{empty_bench.job_id}')
    assert (job['displayName'], job['state'], job['priority'], job['maxParallelTasks']) == ('Travail', 'active', 0, -1)
    assert job['constraints'] == {'maxWallClockTime': timedelta(hours=1), 'maxTaskRetryCount': 0}
    assert (job['onAllTasksComplete'], job['onTaskFailure']) == ('noaction', 'noaction')
    assert job['usesTaskDependencies'] is False
    assert isinstance(job['executionInfo']['startTime'], datetime)
    assert job['executionInfo']['poolId'] == empty_bench.pool_id


def test_jobs_can_be_listed(empty_bench) -> None:
    empty_bench.add_job(priority=7)
    client, job_id = empty_bench.client, empty_bench.job_id
    assert job_id in [job['id'] for job in client.list_jobs()]
    chosen = client.list_jobs(filter=f"executionInfo/poolId eq '{empty_bench.pool_id}'", select=['id', 'priority'])
    assert chosen == [{'id': job_id, 'priority': 7}]
    assert client.list_jobs(filter=f"id eq '{job_id}' and state eq 'completed'") == []
    assert [job['id'] for job in client.list_jobs(filter=f"id eq '{job_id}'", expand=['stats'])] == [job_id]


def test_patch_changes_what_it_names_and_nothing_else(empty_bench) -> None:
    empty_bench.add_job(priority=7, constraints={'maxTaskRetryCount': 5})
    empty_bench.client.patch_job(empty_bench.job_id, {'maxParallelTasks': 3})
    job = empty_bench.job()
    assert (job['priority'], job['maxParallelTasks'], job['constraints']['maxTaskRetryCount']) == (7, 3, 5)


def test_patch_replaces_a_whole_object(empty_bench) -> None:
    empty_bench.add_job(constraints={'maxTaskRetryCount': 5})
    empty_bench.client.patch_job(empty_bench.job_id, {'constraints': {'maxWallClockTime': timedelta(hours=1)}})
    assert empty_bench.job()['constraints'] == {'maxWallClockTime': timedelta(hours=1), 'maxTaskRetryCount': 0}


def test_update_sets_what_it_does_not_name_to_its_default(empty_bench) -> None:
    empty_bench.add_job(priority=7, metadata=[{'name': 'owner', 'value': 'me'}])
    empty_bench.client.update_job(empty_bench.job_id, {
        'poolInfo': {'poolId': empty_bench.pool_id}, 'maxParallelTasks': 3})
    job = empty_bench.job()
    assert (job['priority'], job['maxParallelTasks']) == (0, 3)
    assert not job.get('metadata')


def test_job_that_was_read_can_be_written_back(empty_bench) -> None:
    empty_bench.add_job(maxParallelTasks=3, metadata=[{'name': 'owner', 'value': 'me'}])
    before = empty_bench.job()
    empty_bench.client.update_job(empty_bench.job_id, {**before, 'priority': 5})
    after = empty_bench.job()
    assert after['priority'] == 5
    for name in ('maxParallelTasks', 'metadata', 'constraints', 'poolInfo', 'onAllTasksComplete'):
        assert after[name] == before[name]


@pytest.mark.parametrize(('option', 'state'), [('requeue', 'active'), ('terminate', 'completed')])
def test_running_tasks_of_a_disabled_job_are(bench, option, state) -> None:
    bench.add('endless', 'sleep 600')
    bench.wait_for('endless', 'running')
    bench.client.disable_job(bench.job_id, {'disableTasks': option})
    bench.wait_for_job('disabled')
    assert bench.task('endless')['state'] == state


def test_disabled_job_waits_for_its_tasks_if_asked(bench) -> None:
    bench.add('patient', 'sleep 0.5')
    bench.wait_for('patient', 'running')
    bench.client.begin('disable_job', bench.job_id, {'disableTasks': 'wait'})
    assert bench.job()['state'] == 'disabling'
    bench.wait_for_job('disabled')
    task = bench.task('patient')
    assert (task['state'], task['executionInfo']['exitCode']) == ('completed', 0)


def test_disabled_job_runs_nothing_until_it_is_enabled(bench) -> None:
    bench.client.disable_job(bench.job_id, {'disableTasks': 'requeue'})
    bench.wait_for_job('disabled')
    bench.add('waiting', 'true')
    assert bench.task('waiting')['state'] == 'active'
    bench.client.enable_job(bench.job_id)
    assert bench.job()['state'] == 'active'
    bench.wait_for('waiting', 'completed')


def test_pool_of_a_job_changes_only_while_it_is_disabled(bench, new_id) -> None:
    other = {'poolInfo': {'poolId': new_id('pool')}}
    with pytest.raises(Refused, match='^409 '):
        bench.client.patch_job(bench.job_id, other)
    bench.client.disable_job(bench.job_id, {'disableTasks': 'requeue'})
    bench.wait_for_job('disabled')
    bench.client.patch_job(bench.job_id, other)
    assert bench.job()['poolInfo'] == other['poolInfo']


@pytest.mark.parametrize(('given', 'reason'), [('enough', 'enough'), (None, 'UserTerminate')])
def test_terminated_job_ends_its_running_tasks(bench, given, reason) -> None:
    bench.add('endless', 'sleep 600')
    bench.wait_for('endless', 'running')
    bench.client.terminate_job(bench.job_id, {'terminateReason': given})
    job = bench.wait_for_job('completed')
    assert job['executionInfo']['terminateReason'] == reason
    assert job['previousState'] == 'terminating'
    assert isinstance(job['executionInfo']['endTime'], datetime)
    assert bench.task('endless')['executionInfo']['failureInfo']['code'] == 'TaskEnded'
    with pytest.raises(Refused, match='^409 JobCompleted'):
        bench.add('late', 'true')


def test_terminated_job_leaves_waiting_tasks_active(empty_bench) -> None:
    empty_bench.add_job()
    empty_bench.add('waiting', 'true')
    empty_bench.client.terminate_job(empty_bench.job_id, {'terminateReason': 'enough'})
    empty_bench.wait_for_job('completed')
    assert empty_bench.task('waiting')['state'] == 'active'


def test_deleted_job_is_gone_with_its_tasks(bench) -> None:
    bench.run('done', 'true')
    bench.client.delete_job(bench.job_id)
    assert eventually(lambda: bench.client.list_jobs(filter=f"id eq '{bench.job_id}'") == [])
    with pytest.raises(Refused, match='^404 JobNotFound'):
        bench.task('done')


def test_job_ends_when_all_its_tasks_have(bench) -> None:
    bench.add('only', 'true')
    bench.client.patch_job(bench.job_id, {'onAllTasksComplete': 'terminatejob'})
    job = bench.wait_for_job('completed')
    assert job['executionInfo']['terminateReason'] == 'AllTasksComplete'
    assert bench.task('only')['executionInfo']['result'] == 'success'


def test_job_ends_when_its_time_is_over(bench) -> None:
    bench.add('endless', 'sleep 600')
    bench.client.patch_job(bench.job_id, {'constraints': {'maxWallClockTime': timedelta(seconds=0.2)}})
    job = bench.wait_for_job('completed')
    assert job['executionInfo']['terminateReason'] == 'MaxWallClockTimeExpiry'


def test_preparation_runs_before_the_tasks_and_release_after_them(empty_bench) -> None:
    empty_bench.add_pool()
    empty_bench.add_job(
        jobPreparationTask={'commandLine': '/bin/bash -c "echo prepared > $AZ_BATCH_NODE_SHARED_DIR/log"'},
        jobReleaseTask={'commandLine': '/bin/bash -c "echo released >> $AZ_BATCH_NODE_SHARED_DIR/log"'})
    client, job_id = empty_bench.client, empty_bench.job_id
    task = empty_bench.run('task', '/bin/bash -c "cat $AZ_BATCH_NODE_SHARED_DIR/log; ls -d $AZ_BATCH_JOB_PREP_DIR"')
    assert empty_bench.output('task').startswith(b'prepared\n')
    status, = client.list_preparation_status(job_id)
    assert (status['poolId'], status['nodeId']) == (empty_bench.pool_id, task['nodeInfo']['nodeId'])
    assert 'jobReleaseTaskExecutionInfo' not in status

    client.terminate_job(job_id, {'terminateReason': 'enough'})
    empty_bench.wait_for_job('completed')
    status, = client.list_preparation_status(job_id, filter="jobReleaseTaskExecutionInfo/exitCode eq 0")
    for name in ('jobPreparationTaskExecutionInfo', 'jobReleaseTaskExecutionInfo'):
        assert (status[name]['state'], status[name]['exitCode'], status[name]['result']) == ('completed', 0, 'success')
        assert isinstance(status[name]['endTime'], datetime)
    log = client.get_node_file(empty_bench.pool_id, status['nodeId'], 'shared/log')
    assert log == b'prepared\nreleased\n'


def test_preparation_status_comes_in_pages(empty_bench) -> None:
    empty_bench.add_pool(nodes=2, slots=1)
    empty_bench.add_job(jobPreparationTask={'commandLine': 'true'})
    empty_bench.add('one', 'sleep 600')
    empty_bench.add('two', 'sleep 600')
    nodes = {empty_bench.wait_for(id, 'running')['nodeInfo']['nodeId'] for id in ('one', 'two')}
    statuses = empty_bench.client.list_preparation_status(empty_bench.job_id, max_results=1)
    assert len(statuses) == 2
    assert {status['nodeId'] for status in statuses} == nodes


def test_failed_preparation_keeps_the_tasks_away(empty_bench) -> None:
    empty_bench.add_pool()
    empty_bench.add_job(jobPreparationTask={'commandLine': '/bin/bash -c "exit 9"'})
    empty_bench.add('waiting', 'true')

    def preparation_failed() -> bool:
        return [status['jobPreparationTaskExecutionInfo'].get('exitCode')
                for status in empty_bench.client.list_preparation_status(empty_bench.job_id)] == [9]
    assert eventually(preparation_failed)
    assert empty_bench.wait_for('waiting', 'active')


def test_job_without_preparation_has_no_status_of_it(empty_bench) -> None:
    empty_bench.add_job()
    with pytest.raises(Refused, match='^409 JobPreparationTaskOrReleaseTaskNotSpecified'):
        empty_bench.client.list_preparation_status(empty_bench.job_id)


def test_job_of_higher_priority_comes_first(empty_bench, new_id) -> None:
    empty_bench.add_pool(slots=1)
    empty_bench.add_job(priority=-5)
    client, urgent = empty_bench.client, new_id('job')
    client.add_job({'id': urgent, 'poolInfo': {'poolId': empty_bench.pool_id}, 'priority': 900})
    empty_bench.add('first', 'sleep 600')
    empty_bench.wait_for('first', 'running')
    empty_bench.add('patient', 'true')
    client.add_task(urgent, {'id': 'urgent', 'commandLine': 'true'})
    client.terminate_task(empty_bench.job_id, 'first')
    patient = empty_bench.wait_for('patient', 'completed')
    assert client.get_task(urgent, 'urgent')['executionInfo']['endTime'] <= patient['executionInfo']['startTime']
    client.delete_job(urgent)


def test_job_runs_no_more_tasks_at_once_than_it_may(empty_bench, new_id) -> None:
    empty_bench.add_pool()
    empty_bench.add_job(maxParallelTasks=2)
    for number in range(4):
        empty_bench.add(f'task{number}', 'sleep 600')

    def running() -> list[str]:
        return empty_bench.task_ids(filter="state eq 'running'")
    assert eventually(lambda: len(running()) == 2)
    other = new_id('job')
    empty_bench.client.add_job({'id': other, 'poolInfo': {'poolId': empty_bench.pool_id}})
    empty_bench.client.add_task(other, {'id': 'probe', 'commandLine': 'true'})  # there are free slots
    assert eventually(lambda: empty_bench.client.get_task(other, 'probe')['state'] == 'completed')
    assert len(running()) == 2
    empty_bench.client.patch_job(empty_bench.job_id, {'maxParallelTasks': -1})
    assert eventually(lambda: len(running()) == 4)
    empty_bench.client.delete_job(other)
