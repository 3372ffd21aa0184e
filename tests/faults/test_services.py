"""Nodes, tasks and services in trouble: what a run says of it, and what is left."""
from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.batch_service.workbench import Workbench
from tests.faults.client_process import (LITTLE_PATIENCE, SHORT_PAUSES, SHORT_TIMEOUT, SLOW_TASKS, START_TASK,
                                         Client, hold_at)
from tests.faults.cloud import CONTAINERS, JOB, POOL, Cloud, Storage
from tests.leftovers import eventually, needs_proc

# Storage that gives no answer is asked again after some seconds.
COUNTED_PAUSES = '''
from common.guards import patience
patience.StorageRetries.get_backoff_time = lambda retries, settings: print('(a pause)') or 0.1
'''


def test_a_start_task_that_fails_shows_its_stderr(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    client = start_client(cloud, patch=START_TASK.format('echo no such package >&2; exit 7'))

    assert client.ends() == 1

    assert 'exit code 7' in client.errors and 'no such package' in client.errors
    assert 'tvmps_' in client.errors
    assert 'Success!' not in client.output
    assert cloud.left() == set()


def test_a_start_task_that_hangs_is_named_by_the_timeout(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    client = start_client(cloud, patch=START_TASK.format('sleep 1000') + SHORT_TIMEOUT)

    assert client.ends() == 1

    assert "ERROR: Tasks did not reach 'Completed' state within the timeout period of 0:00:03" in client.errors
    assert 'start task' in client.errors
    assert cloud.left() == set()
    assert eventually(lambda: not any('sleep 1000' in command for command in cloud.commands().values()))


def test_a_timeout_while_tasks_run_still_fetches_what_the_others_have_found(
        cloud: Cloud, start_client: Callable[..., Client], home: Path) -> None:
    client = start_client(cloud, inputs=2, patch=SHORT_TIMEOUT + SLOW_TASKS.format(
        '[[ $AZ_BATCH_TASK_ID != topNtask1 ]] || exec sleep 1002'))

    assert client.ends() == 1

    assert 'It ended while tasks were running' in client.errors
    assert 'Success!' not in client.output
    assert [path.name for path in home.glob('*_OUTPUT.txt')] == ['taskdata1_OUTPUT.txt']
    assert cloud.left() == set()


@needs_proc
def test_a_task_that_is_killed_is_listed_and_the_others_are_fetched(
        cloud: Cloud, start_client: Callable[..., Client], home: Path) -> None:
    client = start_client(cloud, inputs=3,
                          patch=SLOW_TASKS.format('[[ $AZ_BATCH_TASK_ID != topNtask1 ]] || exec sleep 1001'))

    def sleeping() -> list[int]:
        return [process for process, command in cloud.commands().items() if command.strip() == 'sleep 1001']

    assert eventually(lambda: bool(sleeping()))
    os.kill(sleeping()[0], signal.SIGKILL)
    assert client.ends() == 1

    assert '1 of 3 completed tasks failed' in client.errors and 'topNtask1: exit code' in client.errors
    assert 'Success!' not in client.output
    assert sorted(path.name for path in home.glob('*_OUTPUT.txt')) == ['taskdata1_OUTPUT.txt', 'taskdata3_OUTPUT.txt']
    assert cloud.left() == set()


def test_a_node_whose_directory_cannot_be_written_to(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    spoil = 'rm -rf "$AZ_BATCH_NODE_ROOT_DIR/workitems"; : > "$AZ_BATCH_NODE_ROOT_DIR/workitems"'
    client = start_client(cloud, inputs=3, patch=START_TASK.format(spoil))

    assert client.ends() == 1

    assert '3 of 3 completed tasks failed' in client.errors
    assert cloud.left() == set()


@pytest.mark.parametrize('option, said', [
    ('--core-quota', 'AccountCoreQuotaReached'), ('--unusable-nodes', 'Nodes: 1 unusable')])
def test_nodes_that_never_come_are_told(storage: Storage, open_cloud: Callable[..., Cloud],
                                        start_client: Callable[..., Client], option: str, said: str) -> None:
    cloud = open_cloud(storage, option, '1')
    client = start_client(cloud)

    assert client.ends() == 1

    assert said in client.errors and 'What to do: ' in client.errors
    assert cloud.left() == set()


@pytest.mark.long
def test_a_busy_service_is_waited_for(storage: Storage, open_cloud: Callable[..., Cloud],
                                      start_client: Callable[..., Client]) -> None:
    cloud = open_cloud(storage, '--busy-share', '0.3')
    for _ in range(10):
        client = start_client(cloud, '--yes', patch=SHORT_PAUSES)
        assert client.ends() == 0, client.output + client.errors
        assert client.errors == ''


def test_a_batch_service_that_comes_back_does_not_end_the_run(
        storage: Storage, open_cloud: Callable[..., Cloud], start_client: Callable[..., Client],
        home: Path) -> None:
    cloud = open_cloud(storage)
    client = start_client(cloud, patch=SLOW_TASKS.format('sleep 2'))
    client.says('Monitoring')
    assert eventually(lambda: cloud.tasks_are('running'))

    cloud.batch_service.kill()
    cloud.batch_service.start()
    assert client.ends() == 0, client.errors

    assert 'Success!' in client.output
    assert len(list(home.glob('*_OUTPUT.txt'))) == 1
    assert cloud.left() == set()


def test_a_batch_service_that_stays_away_is_told_and_the_containers_are_deleted(
        storage: Storage, open_cloud: Callable[..., Cloud], start_client: Callable[..., Client]) -> None:
    cloud = open_cloud(storage)
    client = start_client(cloud, patch=SLOW_TASKS.format('sleep 30') + LITTLE_PATIENCE)
    client.says('Monitoring')
    assert eventually(lambda: cloud.tasks_are('running'))

    cloud.batch_service.stop()
    assert client.ends() == 1

    assert client.errors.startswith('ERROR: The Batch service has given no useful answer for 0:00:01')
    # The service is asked once.
    job, pool, reason = client.errors.splitlines()[2:]
    assert job.startswith(f'Job [{JOB}] may be left; it costs nothing here')
    assert pool.startswith(f'Pool [{POOL}] may be left; it costs nothing here')
    assert reason == ('ERROR: No connection to the Batch account at 127.0.0.1: it is refused. Is the service on this '
                      'machine running?')
    assert list(cloud.blobs.list_containers()) == []


def test_storage_that_ends_is_told_soon_and_job_and_pool_are_deleted(
        own_storage: Storage, open_cloud: Callable[..., Cloud], start_client: Callable[..., Client]) -> None:
    cloud = open_cloud(own_storage)
    client = start_client(cloud, patch=SLOW_TASKS.format('sleep 1; exit 1') + COUNTED_PAUSES)
    client.says('Monitoring')
    assert eventually(lambda: cloud.tasks_are('running'))

    own_storage.stop()
    assert client.ends() == 1
    own_storage.start()

    assert client.errors.splitlines()[-1].startswith('ERROR: No connection to the storage account at 127.0.0.1')
    for name in ('application', 'input'):
        assert f'Container [{name}] may be left; it costs nothing here' in client.errors
    assert 'Container [output] may be left, perhaps with results that were not fetched; to fetch ' in client.errors
    assert {item for item in cloud.left() if not item.startswith('blob')} == CONTAINERS
    # Two before the error; while cleaning up, one.
    before, _, after = client.output.partition('Cleaning up')
    assert (before.count('(a pause)'), after.count('(a pause)')) == (2, 1)


def test_a_second_run_waits_while_job_and_pool_are_being_deleted(
        storage: Storage, open_cloud: Callable[..., Cloud], start_client: Callable[..., Client]) -> None:
    cloud = open_cloud(storage, '--deletion-seconds', '1')
    bench = Workbench(cloud.batch, POOL, JOB)
    bench.add_pool()
    bench.add_job()
    client = start_client(cloud, patch=hold_at('This uses'))
    client.says('This uses')
    cloud.batch.job.delete(JOB)
    cloud.batch.pool.delete(POOL)
    client.go_on('This uses')

    assert client.ends() == 0, client.errors

    assert f'Waiting for the job [{JOB}] of an earlier run to be deleted...\n' in client.output
