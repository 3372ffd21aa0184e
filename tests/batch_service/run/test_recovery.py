"""What is left of a service that was killed, and what the next one makes of it."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import requests
from azure.batch import models
from azure.batch.batch_auth import SharedKeyAuth

from ..workbench import ACCOUNT, ServiceProcess, Workbench, wait_until


@pytest.fixture
def own_bench(own_service: ServiceProcess) -> Workbench:
    bench = Workbench(own_service.client(), 'pool', 'job')
    bench.add_pool(slots=1)
    bench.add_job()
    return bench


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def begin_endless_task(bench: Workbench, directory: Path) -> int:
    """Adds a task that never ends unless a file tells it to; returns its process's id."""
    bench.add('task', f"/bin/bash -c 'echo $$ > {directory}/new; mv {directory}/new {directory}/pid; "
                      f"until [ -e {directory}/end ]; do sleep 0.01; done'")
    wait_until((directory / 'pid').exists)
    return int((directory / 'pid').read_text())


def test_no_process_survives_a_killed_service(own_service, own_bench, tmp_path) -> None:
    pid = begin_endless_task(own_bench, tmp_path)
    own_service.kill()
    wait_until(lambda: is_gone(pid))


def test_no_process_survives_a_stopped_service(own_service, own_bench, tmp_path) -> None:
    pid = begin_endless_task(own_bench, tmp_path)
    assert own_service.stop() == 0
    assert is_gone(pid)


def test_request_that_is_being_answered_when_the_service_stops_is_to_be_asked_again(own_service, own_bench,
                                                                                    tmp_path) -> None:
    own_bench.add('task', f"/bin/bash -c 'trap \"touch {tmp_path}/told\" TERM; touch {tmp_path}/begun; "
                          "while true; do sleep 0.1; done'")
    wait_until((tmp_path / 'begun').exists)
    with ThreadPoolExecutor() as threads:
        request = threads.submit(own_bench.client.task.terminate, 'job', 'task')
        wait_until((tmp_path / 'told').exists)
        own_service.process.terminate()
        with pytest.raises(models.BatchErrorException) as refused:
            request.result()
    assert refused.value.error.code == 'ServerBusy'


def test_service_ends_without_a_word_though_a_client_does_not_take_its_answer(tmp_path) -> None:
    with open(tmp_path / 'stderr', 'w') as stderr:
        service = ServiceProcess(tmp_path, stderr=stderr)
        bench = Workbench(service.client(), 'pool', 'job')
        bench.add_pool()
        bench.add_job()
        bench.run('task', "/bin/bash -c 'head -c 50000000 /dev/zero'")
        with requests.get(f'{service.url}/jobs/job/tasks/task/files/stdout.txt?api-version=2024-07-01.20.0',
                          auth=SharedKeyAuth('Authorization', ACCOUNT, service.key_file.read_text()), stream=True,
                          proxies={'no_proxy': '*'}, timeout=10) as answer:
            assert answer.status_code == 200
            began = time.monotonic()
            service.process.terminate()
            assert service.stop() == 0
    assert time.monotonic() - began < 6
    assert (tmp_path / 'stderr').read_text() == ''


def test_process_that_left_its_group_ends_with_the_service(own_service, own_bench, tmp_path) -> None:
    own_bench.run('task', f"/bin/bash -c 'setsid sleep 600 & echo $! > {tmp_path}/pid'")
    assert not is_gone(int((tmp_path / 'pid').read_text()))
    own_service.stop()
    wait_until(lambda: is_gone(int((tmp_path / 'pid').read_text())))


def test_running_task_is_run_again_after_a_kill(own_service, own_bench, tmp_path) -> None:
    begin_endless_task(own_bench, tmp_path)
    own_service.kill()
    (tmp_path / 'end').touch()
    own_service.start()
    own_bench.client = own_service.client()
    task = own_bench.completed('task')
    assert task.execution_info.exit_code == 0
    assert task.execution_info.requeue_count == 1


def test_job_ends_by_itself_though_the_service_was_killed_meanwhile(own_service, own_bench) -> None:
    own_bench.client.job.patch('job', models.JobPatchParameter(
        constraints=models.JobConstraints(max_wall_clock_time=timedelta(seconds=2))))
    own_service.kill()
    own_service.start()
    client = own_service.client()
    wait_until(lambda: client.job.get('job').state == models.JobState.completed)


def test_accepted_tasks_are_there_after_a_kill(own_service, own_bench) -> None:
    own_bench.client.task.add_collection('job', [
        models.TaskAddParameter(id=f'task{number}', command_line='true') for number in range(100)])
    own_service.kill()
    own_service.start()
    own_bench.client = own_service.client()
    own_bench.completed(*(f'task{number}' for number in range(100)))


def test_node_that_was_ready_is_ready_again_without_its_start_task(own_service, tmp_path) -> None:
    bench = Workbench(own_service.client(), 'pool', 'job')
    bench.add_pool(start_task=models.StartTask(command_line=f"/bin/bash -c 'echo run >> {tmp_path}/runs'"))
    before, = bench.wait_for_nodes('idle')
    own_service.stop()
    own_service.start()
    bench.client = own_service.client()
    after, = bench.wait_for_nodes('idle')
    assert after.id == before.id
    assert (tmp_path / 'runs').read_text() == 'run\n'


def test_start_task_that_was_running_is_run_again_after_a_kill(own_service, tmp_path) -> None:
    bench = Workbench(own_service.client(), 'pool', 'job')
    bench.add_pool(start_task=models.StartTask(
        command_line=f"/bin/bash -c 'echo run >> {tmp_path}/runs; [ $(wc -l < {tmp_path}/runs) = 2 ] || sleep 600'"))
    wait_until(lambda: (tmp_path / 'runs').is_file() and (tmp_path / 'runs').read_text() == 'run\n')
    own_service.kill()
    own_service.start()
    bench.client = own_service.client()
    bench.wait_for_nodes('idle')


def test_deletion_is_finished_after_a_kill(own_service, own_bench, tmp_path) -> None:
    begin_endless_task(own_bench, tmp_path)
    own_bench.client.job.delete('job')
    own_bench.client.pool.delete('pool')
    own_service.kill()
    own_service.start()
    client = own_service.client()
    wait_until(lambda: not list(client.pool.list()) and not list(client.job.list()))
