from __future__ import annotations

from datetime import timedelta

import pytest
from azure.batch import models

from .workbench import wait_until


def test_job_is_echoed_with_defaults(bench) -> None:
    job = bench.client.job.get(bench.job_id)
    assert job.state == models.JobState.active
    assert job.priority == 0
    assert job.max_parallel_tasks == -1
    assert job.uses_task_dependencies is False
    assert job.on_all_tasks_complete == models.OnAllTasksComplete.no_action
    assert job.constraints.max_task_retry_count == 0
    assert job.execution_info.pool_id == bench.pool_id


def test_second_job_of_the_same_id_is_refused(bench) -> None:
    with pytest.raises(models.BatchErrorException) as error:
        bench.add_job()
    assert error.value.error.code == 'JobExists'


def test_job_may_come_before_its_pool(empty_bench) -> None:
    empty_bench.add_job()
    empty_bench.add('early', 'true')
    empty_bench.add_pool()
    assert empty_bench.completed('early').execution_info.exit_code == 0


def test_terminated_job_ends_its_tasks_and_takes_no_more(bench) -> None:
    bench.add('endless', 'sleep 600')
    wait_until(lambda: bench.task('endless').state == models.TaskState.running)
    bench.client.job.terminate(bench.job_id, terminate_reason='enough')
    wait_until(lambda: bench.client.job.get(bench.job_id).state == models.JobState.completed)
    assert bench.client.job.get(bench.job_id).execution_info.terminate_reason == 'enough'
    assert bench.task('endless').execution_info.failure_info.code == 'TaskEnded'
    with pytest.raises(models.BatchErrorException) as error:
        bench.add('late', 'true')
    assert error.value.error.code == 'JobCompleted'


def test_deleted_job_is_gone_with_its_tasks(bench) -> None:
    bench.run('done', 'true')
    bench.client.job.delete(bench.job_id)
    wait_until(lambda: bench.job_id not in [job.id for job in bench.client.job.list()])
    with pytest.raises(models.BatchErrorException) as error:
        bench.client.task.get(bench.job_id, 'done')
    assert error.value.error.code == 'JobNotFound'
    bench.add_job()
    assert list(bench.client.task.list(bench.job_id)) == []


def test_job_ends_by_itself_when_its_time_is_over(empty_bench) -> None:
    empty_bench.add_pool()
    empty_bench.add_job(constraints=models.JobConstraints(max_wall_clock_time=timedelta(seconds=1)))
    empty_bench.add('endless', 'sleep 600')
    wait_until(lambda: empty_bench.client.job.get(empty_bench.job_id).state == models.JobState.completed)
    reason = empty_bench.client.job.get(empty_bench.job_id).execution_info.terminate_reason
    assert reason == 'MaxWallClockTimeExpiry'


@pytest.mark.parametrize(('rerun', 'times'), [(True, 2), (False, 1)])
def test_preparation_is_run_again_after_a_reboot_if_the_job_says_so(empty_bench, tmp_path, rerun, times) -> None:
    empty_bench.add_pool()
    empty_bench.add_job(job_preparation_task=models.JobPreparationTask(
        command_line=f"/bin/bash -c 'echo run >> {tmp_path}/runs'", rerun_on_node_reboot_after_success=rerun))
    empty_bench.run('before', 'true')
    node, = empty_bench.wait_for_nodes('idle')
    empty_bench.client.compute_node.reboot(empty_bench.pool_id, node.id)
    empty_bench.run('after', 'true')
    assert (tmp_path / 'runs').read_text() == 'run\n' * times


def test_preparation_and_release_know_their_directories(empty_bench, tmp_path) -> None:
    note = "/bin/bash -c 'echo $AZ_BATCH_TASK_ID $AZ_BATCH_JOB_PREP_DIR >> {}/notes'".format(tmp_path)
    empty_bench.add_pool()
    empty_bench.add_job(job_preparation_task=models.JobPreparationTask(command_line=note),
                        job_release_task=models.JobReleaseTask(command_line=note))
    empty_bench.run('task', note)
    empty_bench.client.job.terminate(empty_bench.job_id)
    wait_until(lambda: empty_bench.client.job.get(empty_bench.job_id).state == models.JobState.completed)
    preparation, task, release = (tmp_path / 'notes').read_text().splitlines()
    assert preparation == 'jobpreparation'
    assert task.startswith('task /') and task.endswith('/jobpreparation')
    assert release == task.replace('task /', 'jobrelease /')


def test_largest_duration_is_taken(empty_bench) -> None:
    empty_bench.add_job(constraints=models.JobConstraints(max_wall_clock_time=timedelta(days=10_000_000)))
    job = empty_bench.client.job.get(empty_bench.job_id)
    assert job.constraints.max_wall_clock_time == timedelta(days=10_000_000)


def test_release_task_needs_a_preparation_task(empty_bench) -> None:
    with pytest.raises(models.BatchErrorException) as error:
        empty_bench.add_job(job_release_task=models.JobReleaseTask(command_line='true'))
    assert error.value.error.code == 'InvalidPropertyValue'


def test_job_ends_when_all_its_tasks_have(bench) -> None:
    bench.add('only', 'true')
    bench.client.job.patch(bench.job_id, models.JobPatchParameter(
        on_all_tasks_complete=models.OnAllTasksComplete.terminate_job))
    wait_until(lambda: bench.client.job.get(bench.job_id).state == models.JobState.completed)
    assert bench.client.job.get(bench.job_id).execution_info.terminate_reason == 'AllTasksComplete'
    assert bench.task('only').execution_info.exit_code == 0
