from __future__ import annotations

import re
import sys
from datetime import timedelta

import pytest
from azure.batch import models

from .workbench import Workbench, wait_until


def test_task_succeeds_with_exit_code_0(bench) -> None:
    task = bench.run('good', "/bin/bash -c 'echo $((6 * 7))'")
    assert task.execution_info.exit_code == 0
    assert task.execution_info.result == models.TaskExecutionResult.success
    assert task.execution_info.failure_info is None
    assert task.execution_info.start_time <= task.execution_info.end_time
    assert task.previous_state == models.TaskState.running
    assert bench.output('good') == '42\n'


def test_task_fails_with_any_other_exit_code(bench) -> None:
    task = bench.run('bad', "/bin/bash -c 'echo broken >&2; exit 3'")
    assert task.execution_info.exit_code == 3
    assert task.execution_info.result == models.TaskExecutionResult.failure
    assert task.execution_info.failure_info.code == 'FailureExitCode'
    assert task.execution_info.failure_info.category == models.ErrorCategory.user_error
    assert bench.output('bad', 'stderr.txt') == 'broken\n'


def test_task_killed_by_a_signal_has_its_number_as_exit_code(bench) -> None:
    assert bench.run('killed', "/bin/bash -c 'kill -9 $$'").execution_info.exit_code == -9


def test_no_shell_reads_the_command_line(bench) -> None:
    bench.run('plain', "/bin/echo '$HOME' && *.txt")
    assert bench.output('plain') == '$HOME && *.txt\n'


@pytest.mark.parametrize(('command_line', 'code'), [
    ('no-such-program --help', 'CommandProgramNotFound'),
    ("echo 'never closed", 'CommandLaunchFailed'),
    ('/etc/passwd', 'CommandLaunchFailed'),
])
def test_command_that_cannot_start_fails_without_exit_code(bench, command_line, code) -> None:
    task = bench.run('unstarted', command_line)
    assert task.execution_info.exit_code is None
    assert task.execution_info.failure_info.code == code
    assert bench.output('unstarted') == ''


def test_environment_is_the_nodes_own(bench, shared_service) -> None:
    bench.run('env', '/usr/bin/env', environment_settings=[models.EnvironmentSetting(name='COLOUR', value='blue')])
    variables = dict(line.split('=', 1) for line in bench.output('env').splitlines())
    root = variables['AZ_BATCH_NODE_ROOT_DIR']
    task = f'{root}/workitems/{bench.job_id}/job-1/env'
    assert {name: value for name, value in variables.items() if name.startswith('AZ_BATCH_')} == {
        'AZ_BATCH_ACCOUNT_NAME': 'localbatch', 'AZ_BATCH_ACCOUNT_URL': f'{shared_service.url}/',
        'AZ_BATCH_POOL_ID': bench.pool_id, 'AZ_BATCH_NODE_ID': bench.nodes()[0].id,
        'AZ_BATCH_NODE_IS_DEDICATED': 'true', 'AZ_BATCH_JOB_ID': bench.job_id, 'AZ_BATCH_TASK_ID': 'env',
        'AZ_BATCH_NODE_ROOT_DIR': root, 'AZ_BATCH_NODE_SHARED_DIR': f'{root}/shared',
        'AZ_BATCH_NODE_STARTUP_DIR': f'{root}/startup', 'AZ_BATCH_NODE_MOUNTS_DIR': f'{root}/fsmounts',
        'AZ_BATCH_NODE_STARTUP_WORKING_DIR': f'{root}/startup/wd',
        'AZ_BATCH_TASK_USER': '_azbatch', 'AZ_BATCH_TASK_USER_IDENTITY': 'PoolNonAdmin',
        'AZ_BATCH_RESERVED_DISK_SPACE_BYTES': '1050389381',
        'AZ_BATCH_RESERVED_EPHEMERAL_DISK_SPACE_BYTES': '1050389381',
        'AZ_BATCH_OS_RESERVED_EPHEMERAL_DISK_SPACE_BYTES': '1000000000',
        'AZ_BATCH_TASK_DIR': task, 'AZ_BATCH_TASK_WORKING_DIR': f'{task}/wd',
        'AZ_BATCH_CERTIFICATES_DIR': f'{task}/certs'}
    assert variables['COLOUR'] == 'blue'
    assert variables['HOME'] == f'{task}/wd'
    assert 'secret-of-the-caller' not in variables.values()


def test_python3_is_the_interpreter_of_the_service(bench) -> None:
    bench.run('python', 'python3 -c "import sys; print(sys.executable)"')
    assert bench.output('python').strip() == sys.executable


def test_resource_files_are_there_before_the_command_runs(bench, web) -> None:
    url, root = web
    (root / 'b.txt').write_text('from the web\n')
    bench.run('fetch', "/bin/bash -c 'cat \"a folder/ä.txt\"; stat -c %a \"a folder/ä.txt\"'", resource_files=[
        models.ResourceFile(http_url=f'{url}/b.txt', file_path='a folder/ä.txt', file_mode='0640')])
    assert bench.output('fetch') == 'from the web\n640\n'


def test_missing_resource_file_fails_the_task(bench, web) -> None:
    url, _ = web
    task = bench.run('fetch', 'true', resource_files=[
        models.ResourceFile(http_url=f'{url}/missing?sig=secret', file_path='missing')])
    assert task.execution_info.exit_code is None
    assert task.execution_info.failure_info.code == 'BlobNotFound'
    assert 'secret' not in str(task.execution_info.failure_info.as_dict())


def test_resource_file_outside_the_working_directory_is_refused(bench) -> None:
    for path in ('../escape', '/escape', 'a/../../escape'):
        with pytest.raises(models.BatchErrorException) as error:
            bench.add('escape', 'true', resource_files=[models.ResourceFile(http_url='http://x/y', file_path=path)])
        assert error.value.error.code == 'InvalidPropertyValue'


def test_each_node_runs_as_many_tasks_at_once_as_it_has_slots(empty_bench, tmp_path) -> None:
    empty_bench.add_pool(nodes=2, slots=2)
    empty_bench.add_job()
    meet = (f"/bin/bash -c 'touch {tmp_path}/$AZ_BATCH_TASK_ID; "
            f"until [ $(ls {tmp_path} | wc -l) -ge 4 ]; do sleep 0.01; done'")
    for number in range(4):
        empty_bench.add(f'task{number}', meet, constraints=models.TaskConstraints(
            max_wall_clock_time=timedelta(seconds=20)))
    tasks = [empty_bench.completed(f'task{number}') for number in range(4)]
    assert [task.execution_info.exit_code for task in tasks] == [0, 0, 0, 0]
    assert len({task.node_info.node_id for task in tasks}) == 2


def test_no_node_runs_more_tasks_than_it_has_slots(empty_bench) -> None:
    empty_bench.add_pool(nodes=1, slots=1)
    empty_bench.add_job()
    for number in range(2):
        empty_bench.add(f'task{number}', 'sleep 600')
    wait_until(lambda: empty_bench.task('task0').state == models.TaskState.running)
    assert empty_bench.task('task1').state == models.TaskState.active
    empty_bench.client.task.terminate(empty_bench.job_id, 'task0')
    wait_until(lambda: empty_bench.task('task1').state == models.TaskState.running)


def test_retries_are_counted_and_bounded(bench) -> None:
    task = bench.run('again', 'false', constraints=models.TaskConstraints(max_task_retry_count=2))
    assert task.execution_info.retry_count == 2
    assert task.execution_info.exit_code == 1
    assert bench.nodes()[0].total_tasks_run == 1


def test_task_out_of_time_is_ended_with_all_its_processes(bench, tmp_path) -> None:
    line = f"/bin/bash -c 'sleep 600 & echo $! > {tmp_path}/pid; wait'"
    task = bench.run('slow', line, constraints=models.TaskConstraints(max_wall_clock_time=timedelta(seconds=1)))
    assert task.execution_info.failure_info.code == 'TaskEnded'
    assert task.execution_info.exit_code == -15
    wait_until(lambda: not is_alive(int((tmp_path / 'pid').read_text())), 2)  # a killed process takes a moment to die


def test_what_a_finished_task_left_behind_is_ended(bench, tmp_path) -> None:
    bench.run('leaky', f"/bin/bash -c 'sleep 600 & echo $! > {tmp_path}/pid'")
    wait_until(lambda: not is_alive(int((tmp_path / 'pid').read_text())), 2)  # a killed process takes a moment to die


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be noticed does not."""
    try:
        with open(f'/proc/{pid}/stat') as file:
            return re.sub(r'.*\) ', '', file.read())[0] != 'Z'
    except FileNotFoundError:
        return False


def test_terminated_task_is_completed_when_the_call_returns(bench) -> None:
    bench.add('endless', 'sleep 600')
    wait_until(lambda: bench.task('endless').state == models.TaskState.running)
    bench.client.task.terminate(bench.job_id, 'endless')
    task = bench.task('endless')
    assert task.state == models.TaskState.completed
    assert task.execution_info.failure_info.code == 'TaskEnded'
    with pytest.raises(models.BatchErrorException) as error:
        bench.client.task.terminate(bench.job_id, 'endless')
    assert error.value.error.code == 'TaskCompleted'


@pytest.mark.parametrize('operation', ['terminate', 'delete'])
def test_processes_of_a_task_are_gone_when_the_call_that_ends_it_returns(bench, tmp_path, operation) -> None:
    pid = tmp_path / 'pid'
    bench.add('slow', f"/bin/bash -c \"trap 'sleep 0.3; exit' TERM; echo $$ > {pid}; while :; do sleep 0.01; done\"")
    wait_until(lambda: pid.exists() and pid.read_text())
    getattr(bench.client.task, operation)(bench.job_id, 'slow')
    assert not is_alive(int(pid.read_text()))


def test_collection_says_of_each_task_how_it_went(bench) -> None:
    bench.add('taken', 'true')
    with pytest.raises(models.CreateTasksErrorException) as error:
        bench.client.task.add_collection(bench.job_id, [
            models.TaskAddParameter(id='fresh', command_line='true'),
            models.TaskAddParameter(id='bad id', command_line='true'),
            models.TaskAddParameter(id='taken', command_line='true')])
    failure, = error.value.failure_tasks
    assert (failure.task_id, failure.error.code) == ('bad id', 'InvalidPropertyValue')
    assert [(value.key, value.value) for value in failure.error.values][0] == ('PropertyName', 'id')
    assert bench.completed('fresh', 'taken').execution_info.exit_code == 0


def test_collection_of_many_tasks_is_run_to_the_end(bench) -> None:
    tasks = [models.TaskAddParameter(id=f'task{number}', command_line='true') for number in range(250)]
    assert len(bench.client.task.add_collection(bench.job_id, tasks).value) == 250
    wait_until(lambda: bench.client.job.get_task_counts(bench.job_id).task_counts.succeeded == 250)
    listed = [task.id for task in bench.client.task.list(bench.job_id, models.TaskListOptions(max_results=33))]
    assert listed == sorted(f'task{number}' for number in range(250))


def test_tasks_of_a_missing_job_are_refused(batch) -> None:
    with pytest.raises(models.CreateTasksErrorException) as error:
        batch.task.add_collection('no-such-job', [models.TaskAddParameter(id='t', command_line='true')])
    assert error.value.errors[0].error.code == 'JobNotFound'


def test_deleted_task_is_gone_with_its_files(bench, shared_service) -> None:
    bench.run('done', 'true')
    directory = next((shared_service.workspace / 'batch' / 'nodes' / bench.pool_id).glob('*/workitems/*/job-1/done'))
    bench.client.task.delete(bench.job_id, 'done')
    assert not directory.exists()
    with pytest.raises(models.BatchErrorException) as error:
        bench.task('done')
    assert error.value.error.code == 'TaskNotFound'


def test_list_sends_only_what_is_filtered_and_selected(bench) -> None:
    bench.run('good', 'true')
    bench.run('bad', 'false')
    found, = bench.client.task.list(bench.job_id, models.TaskListOptions(
        filter="state eq 'completed' and executionInfo/exitCode ne 0", select='id,state'))
    assert (found.id, found.state, found.command_line) == ('bad', models.TaskState.completed, None)


def test_deleted_task_leaves_files_on_no_node_that_it_was_on(own_service, tmp_path) -> None:
    bench = Workbench(own_service.client(), 'pool', 'job')
    bench.add_pool(nodes=2)
    bench.add_job()
    bench.add('task', 'sleep 600')
    wait_until(lambda: bench.task('task').state == 'running')
    node_id = bench.task('task').node_info.node_id
    bench.client.compute_node.disable_scheduling(bench.pool_id, node_id, 'requeue')
    wait_until(lambda: bench.task('task').state == 'running' and bench.task('task').node_info.node_id != node_id)

    bench.client.task.delete(bench.job_id, 'task')

    assert list(tmp_path.glob('batch/nodes/*/*/workitems/*/job-1/*')) == []


def test_deleted_task_leaves_no_files_on_a_node_that_restarts(own_service, tmp_path) -> None:
    own_service.stop()
    own_service.options = ('--node-boot-seconds', '2')
    own_service.start()
    bench = Workbench(own_service.client(), 'pool', 'job')
    bench.add_pool()
    bench.add_job()
    bench.run('task', 'true')
    node, = bench.client.compute_node.list(bench.pool_id)
    bench.client.compute_node.reboot(bench.pool_id, node.id)
    wait_until(lambda: bench.client.compute_node.get(bench.pool_id, node.id).state == 'rebooting')

    bench.client.task.delete(bench.job_id, 'task')

    assert list(tmp_path.glob('batch/nodes/*/*/workitems/*/job-1/*')) == []
