"""What a run says and leaves when something goes wrong: the client as a process, real services, real faults."""
from __future__ import annotations

import base64
import os
import pty
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import azure.batch.models as batchmodels
import pytest
import requests
from azure.batch import BatchServiceClient
from azure.storage.blob import BlobServiceClient

import python_tutorial_client
from common import azurite
from common.local_server import LocalServer
from tests.batch_service.workbench import ACCOUNT, ServiceProcess, Workbench
from tests.leftovers import eventually, needs_proc

PROJECT = Path(__file__).resolve().parent.parent
POOL, JOB = 'PythonTutorialPool', 'PythonTutorialJob'

START_TASK = '''
wrap = client.wrap_commands_in_shell
client.wrap_commands_in_shell = lambda ostype, commands: wrap(ostype, (
    [*commands[:1], {!r}] if len(commands) > 1 else commands))
'''
SLOW_TASKS = '''
wrap = client.wrap_commands_in_shell
client.wrap_commands_in_shell = lambda ostype, commands: wrap(ostype, (
    commands if len(commands) > 1 else [{!r}, *commands]))
'''
SHORT_TIMEOUT = '''
import datetime
client._TIMEOUT = datetime.timedelta(seconds=3)
'''
# The first time that it prints this, the client stands still until a signal comes.
HOLD_AT = '''
import builtins, time
say, held = print, []
def say_and_hold(*texts, **options):
    say(*texts, **options)
    if {!r} in str(texts[:1]) and not held:
        held.append(True)
        time.sleep(60)
builtins.print = say_and_hold
'''


class Storage:
    """Azurite on one port; can be stopped and started again."""

    def __init__(self, script: Path, workspace: Path) -> None:
        self.key = base64.b64encode(secrets.token_bytes(64)).decode()
        self._script = script
        self._workspace = workspace
        self._port = free_port()
        self.start()

    def start(self) -> None:
        self._server = LocalServer(
            'Azurite', azurite.command(self._script, self._workspace / 'azurite', self._port, None, None),
            log=self._workspace / 'azurite.log', directory=self._workspace,
            environment={**os.environ, 'AZURITE_ACCOUNTS': f'storage:{self.key}'})
        self.url = f'{self._server.wait_until_ready(60)}/storage'

    def stop(self) -> None:
        self._server.stop(20)


class Cloud:
    """A Batch account and a storage account, and what is in them."""

    def __init__(self, batch_service: ServiceProcess, storage: Storage) -> None:
        self.batch_service = batch_service
        self.storage = storage
        self.batch: BatchServiceClient = batch_service.client()
        self.blobs = BlobServiceClient(storage.url, credential={'account_name': 'storage', 'account_key': storage.key})

    def environment(self) -> dict[str, str]:
        return {'AZURE_BATCH_ACCOUNT': ACCOUNT, 'AZURE_BATCH_ACCESS_KEY': self.batch_service.key_file.read_text(),
                'AZURE_BATCH_ENDPOINT': self.batch_service.url, 'AZURE_STORAGE_ACCOUNT': 'storage',
                'AZURE_STORAGE_KEY': self.storage.key, 'AZURE_STORAGE_SERVICE_ENDPOINT': self.storage.url}

    def left(self) -> set[str]:
        """The containers with their blobs, and jobs and pools that are not being deleted."""
        found = {f'pool {pool.id}' for pool in self.batch.pool.list() if pool.state != 'deleting'}
        found |= {f'job {job.id}' for job in self.batch.job.list() if job.state != 'deleting'}
        for container in self.blobs.list_containers():
            names = list(self.blobs.get_container_client(container.name).list_blob_names())
            found |= {f'container {container.name}', *(f'blob {container.name}/{name}' for name in names)}
        return found

    def tasks_are(self, state: str) -> bool:
        try:
            tasks = list(self.batch.task.list(JOB))
        except batchmodels.BatchErrorException:
            return False
        return bool(tasks) and all(task.state == state for task in tasks)

    def close(self) -> None:
        self.blobs.close()
        self.batch.close()


class Client:
    """The client as a process of its own, with what it says."""

    def __init__(self, cloud: Cloud | None, directory: Path, *arguments: str, patch: str = '',
                 stdin: int = subprocess.DEVNULL, stdout: int | None = None) -> None:
        directory.mkdir(exist_ok=True)
        self._out, self._err = directory / 'out', directory / 'err'
        program = f'import sys\nimport python_tutorial_client as client\n{patch}\nsys.exit(client.main())'
        with self._out.open('wb') as out, self._err.open('wb') as err:
            self.process = subprocess.Popen(
                [sys.executable, '-c', program, *arguments], cwd=directory, stdin=stdin, stdout=stdout or out,
                stderr=err, env={**os.environ, 'PYTHONPATH': str(PROJECT), **(cloud.environment() if cloud else {})})

    @property
    def output(self) -> str:
        return self._out.read_text()

    @property
    def errors(self) -> str:
        return self._err.read_text()

    def says(self, text: str) -> None:
        """Waits until the client has said so."""
        assert eventually(lambda: text in self.output or self.process.poll() is not None, 60)
        assert text in self.output, self.output + self.errors

    def ends(self) -> int:
        """Waits for the end; returns the exit code."""
        code = self.process.wait(60)
        assert 'Traceback' not in self.errors, self.errors
        assert 'sig=' not in self.output + self.errors
        return code


def free_port() -> int:
    with socket.create_server(('127.0.0.1', 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(scope='module')
def shared_storage(azurite_install: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    storage = Storage(azurite_install, tmp_path_factory.mktemp('storage'))
    yield storage
    storage.stop()


@pytest.fixture
def own_storage(azurite_install: Path, tmp_path: Path) -> Iterator[Storage]:
    storage = Storage(azurite_install, tmp_path)
    yield storage
    storage.stop()


@pytest.fixture
def open_cloud(tmp_path: Path) -> Iterator[Callable[..., Cloud]]:
    """Starts a Batch service with options; the storage account is emptied in the end."""
    clouds = []

    def start(storage: Storage, *options: str) -> Cloud:
        workspace = tmp_path / f'batch{len(clouds)}'
        workspace.mkdir()
        cloud = Cloud(ServiceProcess(workspace, '--port', str(free_port()), *options), storage)
        clouds.append(cloud)
        return cloud

    yield start
    for cloud in clouds:
        for container in cloud.blobs.list_containers():
            cloud.blobs.delete_container(container.name)
        if cloud.batch_service.process.returncode is None:
            cloud.batch_service.stop()
        cloud.close()


@pytest.fixture
def cloud(shared_storage: Storage, open_cloud: Callable[..., Cloud]) -> Cloud:
    return open_cloud(shared_storage)


@pytest.fixture
def start_client(home: Path, tmp_path: Path) -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def start(cloud: Cloud | None, *arguments: str, **options) -> Client:
        client = Client(cloud, tmp_path / f'client{len(clients)}', *arguments, **options)
        clients.append(client)
        return client

    yield start
    for client in clients:
        if client.process.poll() is None:
            client.process.kill()
            client.process.wait()


@pytest.fixture
def keyboard() -> Iterator[tuple[int, int]]:
    """A terminal: the end to type at, and the end that is a program's standard input."""
    master, slave = pty.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


def test_a_start_task_that_fails_shows_its_stderr(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    client = start_client(cloud, patch=START_TASK.format('echo no such package >&2; exit 7'))

    assert client.ends() == 1

    assert 'exit code 7' in client.errors and 'no such package' in client.errors
    assert 'tvmps_' in client.errors
    assert 'Success!' not in client.output
    assert cloud.left() == set()


def test_a_start_task_that_hangs_is_named_by_the_timeout(cloud: Cloud, start_client: Callable[..., Client],
                                                         processes: Callable[[], dict[int, str]]) -> None:
    client = start_client(cloud, patch=START_TASK.format('sleep 1000') + SHORT_TIMEOUT)

    assert client.ends() == 1

    assert "ERROR: Tasks did not reach 'Completed' state within the timeout period of 0:00:03" in client.errors
    assert 'start task' in client.errors
    assert cloud.left() == set()
    assert eventually(lambda: not any('sleep 1000' in command for command in processes().values()))


@needs_proc
def test_a_task_that_is_killed_is_listed_and_the_others_are_fetched(
        cloud: Cloud, start_client: Callable[..., Client], home: Path, processes: Callable[[], dict[int, str]]) -> None:
    client = start_client(cloud, patch=SLOW_TASKS.format('[[ $AZ_BATCH_TASK_ID != topNtask1 ]] || exec sleep 1001'))

    def sleeping() -> list[int]:
        return [process for process, command in processes().items() if command.strip() == 'sleep 1001']

    assert eventually(lambda: bool(sleeping()))
    os.kill(sleeping()[0], signal.SIGKILL)
    assert client.ends() == 1

    assert '1 of 3 completed tasks failed' in client.errors and 'topNtask1: exit code' in client.errors
    assert 'Success!' not in client.output
    assert sorted(path.name for path in home.glob('*_OUTPUT.txt')) == ['taskdata1_OUTPUT.txt', 'taskdata3_OUTPUT.txt']
    assert cloud.left() == set()


def test_a_node_whose_directory_cannot_be_written_to(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    spoil = 'rm -rf "$AZ_BATCH_NODE_ROOT_DIR/workitems"; : > "$AZ_BATCH_NODE_ROOT_DIR/workitems"'
    client = start_client(cloud, patch=START_TASK.format(spoil))

    assert client.ends() == 1

    assert '3 of 3 completed tasks failed' in client.errors
    assert cloud.left() == set()


def test_a_batch_service_that_comes_back_does_not_end_the_run(
        cloud: Cloud, start_client: Callable[..., Client], home: Path) -> None:
    client = start_client(cloud, patch=SLOW_TASKS.format('sleep 2'))
    client.says('Monitoring')
    assert eventually(lambda: cloud.tasks_are('running'))

    cloud.batch_service.kill()
    cloud.batch_service.start()
    assert client.ends() == 0, client.errors

    assert 'Success!' in client.output
    assert len(list(home.glob('*_OUTPUT.txt'))) == 3
    assert cloud.left() == set()


def test_a_batch_service_that_stays_away_is_told_and_the_containers_are_deleted(
        cloud: Cloud, start_client: Callable[..., Client]) -> None:
    client = start_client(cloud, patch=SLOW_TASKS.format('sleep 30'))
    client.says('Monitoring')
    assert eventually(lambda: cloud.tasks_are('running'))

    cloud.batch_service.stop()
    assert client.ends() == 1

    assert f'Job [{JOB}] may be left' in client.errors and f'Pool [{POOL}] may be left' in client.errors
    assert client.errors.index('may be left') < client.errors.rindex('The Batch service has given no useful answer')
    assert list(cloud.blobs.list_containers()) == []


def test_storage_that_ends_is_told_and_job_and_pool_are_deleted(
        own_storage: Storage, open_cloud: Callable[..., Cloud], start_client: Callable[..., Client]) -> None:
    cloud = open_cloud(own_storage)
    client = start_client(cloud, patch=SLOW_TASKS.format('sleep 2'))
    client.says('Monitoring')
    assert eventually(lambda: cloud.tasks_are('running'))

    own_storage.stop()
    assert client.ends() == 1
    own_storage.start()

    assert 'No connection to the storage account' in client.errors
    assert {item for item in cloud.left() if not item.startswith('blob')} == {
        'container application', 'container input', 'container output'}
    for name in ('application', 'input', 'output'):
        assert f'Container [{name}] may be left' in client.errors


@pytest.mark.parametrize('number, code, word', [
    (signal.SIGINT, 130, 'Interrupted'), (signal.SIGTERM, 143, 'Terminated')])
@pytest.mark.parametrize('moment', ['taskdata3.txt to', 'Creating pool', 'Monitoring', 'Downloading',
                                    'Deleting containers'])
def test_a_signal_leaves_nothing(cloud: Cloud, start_client: Callable[..., Client], moment: str,
                                 number: signal.Signals, code: int, word: str) -> None:
    client = start_client(cloud, '--yes', patch=HOLD_AT.format(moment))
    client.says(moment)

    client.process.send_signal(number)

    assert client.ends() == code, client.output + client.errors
    assert client.errors == f'ERROR: {word}.\n'
    assert cloud.left() == set()


def test_ctrl_c_that_cuts_off_any_answer_leaves_nothing(
        cloud: Cloud, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The service has done what it was asked for, and the client does not hear of it."""
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, 'argv', ['python_tutorial_client.py', '--yes'])
    send = requests.Session.send
    countdown = 0

    def send_and_interrupt(*arguments, **options) -> requests.Response:
        nonlocal countdown
        response = send(*arguments, **options)
        countdown -= 1
        if countdown == 0:
            cut_off.append(f'{response.request.method} {response.request.path_url}')
            raise KeyboardInterrupt
        return response

    cut_off: list[str] = []
    for calls in range(1, 25):
        with monkeypatch.context() as patch:
            countdown = calls
            patch.setattr(requests.Session, 'send', send_and_interrupt)
            assert python_tutorial_client.main() == 130
        assert cloud.left() == set(), f'after {cut_off[-1]}'

    for creation in ('PUT /storage/application', 'PUT /storage/output', 'POST /pools', 'POST /jobs',
                     f'POST /jobs/{JOB}/addtaskcollection'):
        assert any(call.startswith(creation) for call in cut_off), creation


def test_a_second_ctrl_c_leaves_at_once_and_says_what_is_left(
        cloud: Cloud, start_client: Callable[..., Client], keyboard: tuple[int, int]) -> None:
    client = start_client(cloud, patch=SLOW_TASKS.format('sleep 30'), stdin=keyboard[1])
    client.says('Monitoring')

    client.process.send_signal(signal.SIGINT)
    client.says('Delete job? [Y/n]')
    client.process.send_signal(signal.SIGINT)
    assert client.ends() == 130

    for left in (f'Job [{JOB}]', f'Pool [{POOL}]', 'Container [application]', 'Container [output]'):
        assert f'{left} may be left; ' in client.errors
    assert {f'job {JOB}', f'pool {POOL}', 'container output'} <= cloud.left()


def test_after_a_client_was_killed_the_next_run_succeeds(
        cloud: Cloud, start_client: Callable[..., Client], home: Path) -> None:
    killed = start_client(cloud, patch=SLOW_TASKS.format('sleep 1'))
    killed.says('Monitoring')
    assert eventually(lambda: cloud.tasks_are('running'))
    killed.process.kill()
    assert eventually(lambda: cloud.batch.job.get(JOB).state == 'completed'), 'The job has not ended by itself'

    client = start_client(cloud, '--yes')
    assert client.ends() == 0, client.errors

    assert f'Pool [{POOL}] exists. Reuse it? [Y/n] yes' in client.output
    assert 'Delete pool? [y/N] no' in client.output and f'Pool [{POOL}] is kept' in client.output
    assert len(list(home.glob('*_OUTPUT.txt'))) == 3
    # The containers are not of this run, what it put there is gone.
    assert cloud.left() == {f'pool {POOL}', 'container application', 'container input', 'container output'}


def test_an_active_job_of_the_same_id_is_not_touched(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    cloud.batch.job.add(batchmodels.JobAddParameter(
        id=JOB, pool_info=batchmodels.PoolInformation(pool_id='another')))
    client = start_client(cloud)

    assert client.ends() == 1

    assert f'Job [{JOB}] exists and is active. Delete it and its tasks? [y/N] no' in client.output
    assert f'ERROR: Job [{JOB}] exists and is active' in client.errors
    assert cloud.left() == {f'job {JOB}'}
    assert cloud.batch.job.get(JOB).state == 'active'


def test_an_active_job_is_replaced_when_the_reader_says_so(
        cloud: Cloud, start_client: Callable[..., Client], keyboard: tuple[int, int]) -> None:
    cloud.batch.job.add(batchmodels.JobAddParameter(
        id=JOB, pool_info=batchmodels.PoolInformation(pool_id='another')))
    client = start_client(cloud, stdin=keyboard[1])

    os.write(keyboard[0], b'y\n\n\n\n')

    assert client.ends() == 0, client.errors
    assert cloud.left() == set()


def test_a_pool_that_was_kept_is_reused(cloud: Cloud, start_client: Callable[..., Client],
                                        keyboard: tuple[int, int]) -> None:
    client = start_client(cloud, stdin=keyboard[1])
    os.write(keyboard[0], b'\nn\n\n')
    assert client.ends() == 0
    assert cloud.left() == {f'pool {POOL}'}
    nodes = {node.id for node in cloud.batch.compute_node.list(POOL)}

    again = start_client(cloud, '--yes')
    assert again.ends() == 0, again.errors

    assert f'Pool [{POOL}] exists. Reuse it? [Y/n] yes' in again.output
    assert {node.id for node in cloud.batch.compute_node.list(POOL)} == nodes
    assert cloud.left() == {f'pool {POOL}'}


def test_a_kept_pool_whose_nodes_cannot_start_any_more_gets_new_ones(
        cloud: Cloud, start_client: Callable[..., Client], keyboard: tuple[int, int]) -> None:
    client = start_client(cloud, stdin=keyboard[1])
    os.write(keyboard[0], b'\nn\n\n')
    assert client.ends() == 0
    # They restart when the blob of their start task is gone.
    for node in cloud.batch.compute_node.list(POOL):
        cloud.batch.compute_node.reboot(POOL, node.id)

    again = start_client(cloud)
    assert again.ends() == 0, again.errors

    assert 'are broken' in again.output and 'Success!' in again.output


def test_a_kept_pool_is_still_good_when_the_services_were_stopped_meanwhile(
        start_client: Callable[..., Client], azurite_install: Path, keyboard: tuple[int, int]) -> None:
    client = start_client(None, stdin=keyboard[1])
    os.write(keyboard[0], b'\nn\n\n')
    assert client.ends() == 0

    again = start_client(None)
    assert again.ends() == 0, again.errors

    assert 'Reuse it? [Y/n] yes' in again.output and 'are broken' not in again.output


def test_a_pool_that_does_not_fit_is_named_and_kept(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    Workbench(cloud.batch, POOL, JOB).add_pool()
    client = start_client(cloud, '--yes')

    assert client.ends() == 1

    for reason in ('its start task is another one', 'its nodes have another task script'):
        assert reason in client.errors
    assert 'create it anew? [y/N] no' in client.output
    assert cloud.left() == {f'pool {POOL}'}


def test_a_pool_that_does_not_fit_is_replaced_when_the_reader_says_so(
        cloud: Cloud, start_client: Callable[..., Client], keyboard: tuple[int, int]) -> None:
    Workbench(cloud.batch, POOL, JOB).add_pool()
    client = start_client(cloud, stdin=keyboard[1])

    os.write(keyboard[0], b'y\n\n\n\n')

    assert client.ends() == 0, client.errors
    assert cloud.left() == set()


def test_blobs_of_others_stay(cloud: Cloud, start_client: Callable[..., Client], home: Path) -> None:
    for name in ('input', 'output'):
        cloud.blobs.create_container(name)
        cloud.blobs.get_blob_client(name, 'theirs.txt').upload_blob(b'words')
    # A result that is older than the run would pass for one of its own.
    cloud.blobs.get_blob_client('output', 'taskdata1_OUTPUT.txt').upload_blob(b'stale')
    client = start_client(cloud, patch=SLOW_TASKS.format('[[ $AZ_BATCH_TASK_ID != topNtask0 ]] || exit 3'))

    assert client.ends() == 1

    assert not (home / 'taskdata1_OUTPUT.txt').exists()
    assert cloud.left() == {'container input', 'blob input/theirs.txt', 'container output', 'blob output/theirs.txt'}


def test_a_second_run_waits_while_job_and_pool_are_being_deleted(
        shared_storage: Storage, open_cloud: Callable[..., Cloud], start_client: Callable[..., Client]) -> None:
    cloud = open_cloud(shared_storage, '--deletion-seconds', '2')
    assert start_client(cloud).ends() == 0

    client = start_client(cloud)
    assert client.ends() == 0, client.errors

    assert f'  Waiting for the pool [{POOL}] of an earlier run to be deleted...\n' in client.output


def test_nobody_reading_the_output_leaves_nothing(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    reading, writing = os.pipe()
    client = start_client(cloud, patch=SLOW_TASKS.format('sleep 1'), stdout=writing)
    os.close(writing)
    with open(reading, 'rb') as pipe:
        while b'Creating pool' not in pipe.readline():
            pass

    assert client.ends() == 1
    assert 'Standard output cannot be written to.' in client.errors
    assert cloud.left() == set()


def test_an_output_directory_that_goes_meanwhile_loses_no_cleaning_up(
        cloud: Cloud, start_client: Callable[..., Client], home: Path) -> None:
    client = start_client(cloud, '--output-dir', str(home / 'results'), patch=SLOW_TASKS.format('sleep 1'))
    client.says('Monitoring')
    shutil.rmtree(home / 'results')

    assert client.ends() == 1

    assert str(home / 'results') in client.errors
    assert cloud.left() == set()


def test_the_job_would_end_by_itself(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    client = start_client(cloud, patch=SLOW_TASKS.format('sleep 30'))
    client.says('Monitoring')
    client.process.kill()

    job = cloud.batch.job.get(JOB)
    assert 20 * 60 < job.constraints.max_wall_clock_time.total_seconds() < 3600
