"""What earlier runs and other people have left under the names of a run: used again, replaced, or not touched."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import azure.batch.models as batchmodels
import pytest

from tests.batch_service.workbench import Workbench
from tests.faults.client_process import SLOW_TASKS, Client, hold_at
from tests.faults.cloud import CONTAINERS, JOB, POOL, Cloud, Storage
from tests.leftovers import eventually

OTHER_SCRIPT = '''
import pathlib
client._TASK_SCRIPT = pathlib.Path('python_tutorial_task.py')
client._TASK_SCRIPT.write_bytes((client._PROJECT / 'python_tutorial_task.py').read_bytes() + b'# another one')
'''


@pytest.fixture
def active_job(cloud: Cloud) -> None:
    cloud.batch.job.add(batchmodels.JobAddParameter(
        id=JOB, pool_info=batchmodels.PoolInformation(pool_id='another')))


def keep_pool(cloud: Cloud, start_client: Callable[..., Client]) -> list[str]:
    """Runs the client, and keeps its pool; returns the nodes."""
    client = start_client(cloud, terminal=True)
    client.types('\nn\n\n')
    assert client.ends() == 0, client.errors
    assert f'Pool [{POOL}] is kept: the next run offers to reuse it' in client.output
    assert cloud.left() == {f'pool {POOL}'}
    return nodes(cloud)


def nodes(cloud: Cloud) -> list[str]:
    return [node.id for node in cloud.batch.compute_node.list(POOL)]


def test_after_a_client_was_killed_the_next_run_succeeds(
        cloud: Cloud, start_client: Callable[..., Client], home: Path) -> None:
    killed = start_client(cloud, patch=SLOW_TASKS.format('sleep 0.5'))
    killed.says('Monitoring')
    assert eventually(lambda: cloud.tasks_are('running'))
    killed.process.kill()
    job = cloud.batch.job.get(JOB)
    # Should its tasks hang: the time for the tasks, and a little more.
    assert 20 * 60 < job.constraints.max_wall_clock_time.total_seconds() < 3600
    assert eventually(lambda: cloud.batch.job.get(JOB).state == 'completed'), 'The job has not ended by itself'

    client = start_client(cloud, '--yes')
    assert client.ends() == 0, client.errors

    assert f'Pool [{POOL}] exists. Reuse it? [Y/n] yes' in client.output
    assert 'Delete pool? [y/N] no' in client.output and f'Pool [{POOL}] is kept' in client.output
    assert len(list(home.glob('*_OUTPUT.txt'))) == 1
    # The containers are not of this run, what it put there is gone.
    assert cloud.left() == {f'pool {POOL}', *CONTAINERS}


@pytest.mark.usefixtures('active_job')
def test_an_active_job_of_the_same_id_is_not_touched(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    client = start_client(cloud)

    assert client.ends() == 1

    assert client.errors == (
        f'ERROR: Job [{JOB}] exists and is active, so another run may be using it: wait until it has ended, or set '
        'another _JOB_ID at the top of python_tutorial_client.py.\n')
    assert 'Delete it' not in client.output and 'Sample start' not in client.output
    assert cloud.left() == {f'job {JOB}'}
    assert cloud.batch.job.get(JOB).state == 'active'


@pytest.mark.usefixtures('active_job')
@pytest.mark.parametrize('answer', ['n', '', '\x04'])
def test_an_active_job_stays_when_the_reader_says_so(cloud: Cloud, start_client: Callable[..., Client],
                                                     answer: str) -> None:
    client = start_client(cloud, terminal=True)
    client.says('Delete it and its tasks? [y/N]')
    client.types(answer if answer == '\x04' else f'{answer}\n')

    assert client.ends() == 1

    assert client.errors == ('ERROR: It stays: wait until it has ended, or set another _JOB_ID at the top of '
                             'python_tutorial_client.py.\n')
    assert cloud.batch.job.get(JOB).state == 'active'


@pytest.mark.usefixtures('active_job')
def test_an_active_job_is_replaced_when_the_reader_says_so(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    client = start_client(cloud, terminal=True)
    client.says(f'Job [{JOB}] exists and is active, so another run may be using it. Delete it and its tasks? [y/N]')
    assert 'Sample start' not in client.output

    client.types('y\n\n\n\n')

    assert client.ends() == 0, client.errors
    assert cloud.left() == set()


def test_a_second_run_does_no_harm_to_the_first(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    first = start_client(cloud, patch=hold_at('Adding'))
    first.says('Adding')

    second = start_client(cloud, '--replace-pool', '--yes')
    assert second.ends() == 1
    assert f'Job [{JOB}] exists and is active, so another run may be using it' in second.errors
    first.go_on('Adding')

    assert first.ends() == 0, first.errors
    assert cloud.left() == set()


def test_a_pool_that_was_kept_is_reused(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    before = keep_pool(cloud, start_client)

    again = start_client(cloud, '--yes')
    assert again.ends() == 0, again.errors

    assert f'Pool [{POOL}] exists. Reuse it? [Y/n] yes' in again.output
    assert nodes(cloud) == before
    assert cloud.left() == {f'pool {POOL}'}


def test_a_kept_pool_whose_nodes_cannot_start_any_more_gets_new_ones(
        cloud: Cloud, start_client: Callable[..., Client]) -> None:
    # They restart when the blob of their start task is gone.
    for node in keep_pool(cloud, start_client):
        cloud.batch.compute_node.reboot(POOL, node)

    again = start_client(cloud)
    assert again.ends() == 0, again.errors

    assert 'are broken' in again.output and 'Success!' in again.output


def test_a_kept_pool_is_still_good_when_the_service_was_stopped_meanwhile(
        storage: Storage, open_cloud: Callable[..., Cloud], start_client: Callable[..., Client]) -> None:
    cloud = open_cloud(storage)
    keep_pool(cloud, start_client)
    cloud.batch_service.stop()
    cloud.batch_service.start()

    again = start_client(cloud)
    assert again.ends() == 0, again.errors

    assert 'Reuse it? [Y/n] yes' in again.output and 'are broken' not in again.output


def test_a_kept_pool_of_another_task_script(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    before = keep_pool(cloud, start_client)
    reason = f'Pool [{POOL}] exists, and was made with another task script'

    # Without a terminal, and with --yes at one.
    for client in (start_client(cloud, patch=OTHER_SCRIPT),
                   start_client(cloud, '--yes', terminal=True, patch=OTHER_SCRIPT)):
        assert client.ends() == 1
        assert client.errors == (
            f'ERROR: {reason}: run again with --replace-pool, which deletes it with its nodes and creates it anew, or '
            'set another _POOL_ID at the top of python_tutorial_client.py.\n')
        assert '[y/N]' not in client.output and 'Sample start' not in client.output

    # At a terminal, the reason stands in the question, and is not said again.
    client = start_client(cloud, terminal=True, patch=OTHER_SCRIPT)
    client.types('n\n')
    assert client.ends() == 1
    assert f'{reason}. Delete it with its nodes, and create it anew? [y/N]' in client.output
    assert client.errors.startswith('ERROR: It stays: run again with --replace-pool') and reason not in client.errors
    assert nodes(cloud) == before and cloud.left() == {f'pool {POOL}'}

    client = start_client(cloud, '--yes', '--replace-pool', patch=OTHER_SCRIPT)
    assert client.ends() == 0, client.errors
    assert reason not in client.output
    assert 'Delete pool? [Y/n] yes' in client.output and cloud.left() == set()


def test_a_pool_of_somebody_else_is_named_and_kept(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    Workbench(cloud.batch, POOL, JOB).add_pool()
    client = start_client(cloud, '--yes')

    assert client.ends() == 1

    assert 'was made with another image, VM size, number of task slots, start task, task script: ' in client.errors
    assert cloud.left() == {f'pool {POOL}'}


def test_a_pool_that_does_not_fit_is_replaced_when_the_reader_says_so(
        cloud: Cloud, start_client: Callable[..., Client]) -> None:
    Workbench(cloud.batch, POOL, JOB).add_pool()
    client = start_client(cloud, terminal=True)

    client.types('y\n\n\n\n')

    assert client.ends() == 0, client.errors
    assert cloud.left() == set()


def test_blobs_of_others_stay(cloud: Cloud, start_client: Callable[..., Client], home: Path) -> None:
    for name in ('input', 'output'):
        cloud.blobs.create_container(name)
        cloud.blobs.get_blob_client(name, 'theirs.txt').upload_blob(b'words')
    # A result that is older than the run would pass for one of its own.
    cloud.blobs.get_blob_client('output', 'taskdata1_OUTPUT.txt').upload_blob(b'stale')
    client = start_client(cloud, patch=SLOW_TASKS.format('exit 3'))

    assert client.ends() == 1

    assert not (home / 'taskdata1_OUTPUT.txt').exists()
    assert cloud.left() == {'container input', 'blob input/theirs.txt', 'container output', 'blob output/theirs.txt'}
