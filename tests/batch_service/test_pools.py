from __future__ import annotations

import os

import pytest
from azure.batch import models

from .workbench import wait_until

START_TASK = models.StartTask(command_line='/bin/bash -c "echo ready; echo careful >&2"')


def code_of(error: pytest.ExceptionInfo[models.BatchErrorException]) -> str:
    return error.value.error.code


def test_pool_is_echoed_with_defaults(empty_bench) -> None:
    empty_bench.add_pool(nodes=0)
    pool = empty_bench.client.pool.get(empty_bench.pool_id)
    assert pool.state == models.PoolState.active
    assert pool.vm_size == 'standard_d2s_v5'
    assert pool.target_low_priority_nodes == 0
    assert pool.resize_timeout.total_seconds() == 900
    assert pool.enable_auto_scale is False
    assert pool.task_scheduling_policy.node_fill_type == models.ComputeNodeFillType.spread
    assert pool.virtual_machine_configuration.image_reference.version == 'latest'
    assert pool.e_tag.startswith('0x8')
    assert pool.url.endswith(f'/pools/{empty_bench.pool_id}')


def test_pool_gets_the_nodes_it_asks_for(empty_bench) -> None:
    empty_bench.add_pool(nodes=3)
    nodes = empty_bench.wait_for_nodes('idle', 'idle', 'idle')
    assert len({node.id for node in nodes}) == 3
    pool = empty_bench.client.pool.get(empty_bench.pool_id)
    assert pool.allocation_state == models.AllocationState.steady
    assert pool.current_dedicated_nodes == 3


def test_same_id_in_another_case_is_refused(empty_bench) -> None:
    empty_bench.add_pool(nodes=0)
    empty_bench.pool_id = empty_bench.pool_id.upper()
    with pytest.raises(models.BatchErrorException) as error:
        empty_bench.add_pool(nodes=0)
    assert code_of(error) == 'PoolExists'


def test_unknown_pool_is_not_found(batch) -> None:
    with pytest.raises(models.BatchErrorException) as error:
        batch.pool.get('no-such-pool')
    assert code_of(error) == 'PoolNotFound'
    assert error.value.error.message.value.startswith('The specified pool does not exist.\nRequestId:')
    assert batch.pool.exists('no-such-pool') is False


@pytest.mark.parametrize('size', [
    'huge', 'standard', 'standard_', 'Standard_D0', 'standard_d' + '9' * 5000, 'standard_d٢s_v5', 'standard_d2s_v5 '])
def test_size_that_no_machine_has_is_refused(send, empty_bench, size) -> None:
    empty_bench.add_pool(nodes=0)
    answer = send('PATCH', f'/pools/{empty_bench.pool_id}?api-version=2025-06-01', json={'vmSize': size})
    assert (answer.status_code, answer.json()['code']) == (400, 'InvalidPropertyValue')


@pytest.mark.parametrize('size', [
    'Standard_A1_v2', 'STANDARD_D2S_V5', 'Standard_NC24ads_A100_v4', 'Standard_HB120-16rs_v3', 'basic_a1',
    'Standard_ND96isr_H100_v5', 'Standard_M416-208s_v2'])
def test_size_that_a_machine_has_is_taken(send, empty_bench, size) -> None:
    empty_bench.add_pool(nodes=0, slots=1)
    answer = send('PATCH', f'/pools/{empty_bench.pool_id}?api-version=2025-06-01', json={'vmSize': size})
    assert answer.status_code == 200


@pytest.mark.parametrize(('publisher', 'offer', 'sku', 'agent'), [
    ('microsoft-dsvm', 'ubuntu-hpc', '2204', 'batch.node.ubuntu 22.04'),
    ('microsoft-dsvm', 'ubuntu-hpc', '2404-arm64', 'batch.node.ubuntu 24.04-arm64'),
    ('redhat', 'rhel', '95-gen2', 'batch.node.el 9'), ('resf', 'rockylinux-aarch64', '9-lvm', 'batch.node.el 9-arm64')])
def test_image_is_offered(batch, publisher, offer, sku, agent) -> None:
    [image] = [image for image in batch.account.list_supported_images()
               if (image.image_reference.publisher, image.image_reference.offer, image.image_reference.sku)
               == (publisher, offer, sku)]
    assert image.node_agent_sku_id == agent


def test_image_with_another_node_agent_is_refused(empty_bench) -> None:
    with pytest.raises(models.BatchErrorException) as error:
        empty_bench.client.pool.add(models.PoolAddParameter(
            id=empty_bench.pool_id, vm_size='STANDARD_D2S_V5',
            virtual_machine_configuration=models.VirtualMachineConfiguration(
                image_reference=models.ImageReference(publisher='canonical', offer='ubuntu-24_04-lts', sku='server'),
                node_agent_sku_id='batch.node.el 9')))
    assert code_of(error) == 'InvalidPropertyValue'


def test_deleted_pool_takes_its_nodes_along(bench, shared_service) -> None:
    bench.wait_for_nodes('idle')
    bench.add('endless', 'sleep 600')
    wait_until(lambda: bench.task('endless').state == models.TaskState.running)
    bench.client.pool.delete(bench.pool_id)
    wait_until(lambda: not bench.client.pool.exists(bench.pool_id))
    assert not (shared_service.workspace / 'batch' / 'nodes' / bench.pool_id).exists()
    task = bench.task('endless')
    assert task.state == models.TaskState.active
    assert task.execution_info.requeue_count == 1


def test_deleted_pool_ends_the_preparation_of_a_job(empty_bench, tmp_path) -> None:
    empty_bench.add_pool()
    empty_bench.add_job(job_preparation_task=models.JobPreparationTask(
        command_line=f"/bin/bash -c 'echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 600'",
        constraints=models.TaskConstraints(max_task_retry_count=-1)))
    empty_bench.add('waiting', 'true')
    wait_until((tmp_path / 'pid').exists)
    empty_bench.client.pool.delete(empty_bench.pool_id)
    wait_until(lambda: not empty_bench.client.pool.exists(empty_bench.pool_id))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / 'pid').read_text()), 0)
    assert empty_bench.task('waiting').state == models.TaskState.active


def test_start_task_runs_before_the_node_takes_tasks(empty_bench) -> None:
    empty_bench.add_pool(start_task=START_TASK)
    node, = empty_bench.wait_for_nodes('idle')
    assert node.start_task_info.state == models.StartTaskState.completed
    assert node.start_task_info.result == models.TaskExecutionResult.success
    assert node.start_task_info.exit_code == 0
    read = empty_bench.client.file.get_from_compute_node
    assert b''.join(read(empty_bench.pool_id, node.id, 'startup/stdout.txt')) == b'ready\n'
    assert b''.join(read(empty_bench.pool_id, node.id, 'startup/stderr.txt')) == b'careful\n'


def test_failed_start_task_keeps_tasks_away(empty_bench) -> None:
    empty_bench.add_pool(start_task=models.StartTask(command_line='/bin/bash -c "exit 9"', max_task_retry_count=1))
    empty_bench.add_job()
    empty_bench.add('waiting', 'true')
    node, = empty_bench.wait_for_nodes('starttaskfailed')
    assert node.start_task_info.exit_code == 9
    assert node.start_task_info.retry_count == 1
    assert node.start_task_info.failure_info.code == 'FailureExitCode'
    assert empty_bench.task('waiting').state == models.TaskState.active


def test_node_that_does_not_wait_for_its_start_task_takes_tasks(empty_bench) -> None:
    empty_bench.add_pool(start_task=models.StartTask(command_line='sleep 600', wait_for_success=False))
    empty_bench.add_job()
    assert empty_bench.run('quick', 'true').execution_info.exit_code == 0
    assert empty_bench.nodes()[0].start_task_info.state == models.StartTaskState.running


def test_start_task_without_its_resource_file_fails(empty_bench, web) -> None:
    url, _ = web
    empty_bench.add_pool(start_task=models.StartTask(command_line='true', resource_files=[
        models.ResourceFile(http_url=f'{url}/missing?sig=secret', file_path='missing')]))
    node, = empty_bench.wait_for_nodes('starttaskfailed')
    failure = node.start_task_info.failure_info
    assert failure.code == 'BlobNotFound'
    assert node.start_task_info.exit_code is None
    assert 'secret' not in failure.message


def test_node_remembers_what_it_ran(bench) -> None:
    bench.run('good', 'true')
    bench.run('bad', 'false')
    node, = bench.wait_for_nodes('idle')
    assert (node.total_tasks_run, node.total_tasks_succeeded, node.running_tasks_count) == (2, 1, 0)
    assert [task.task_id for task in node.recent_tasks] == ['bad', 'good']
