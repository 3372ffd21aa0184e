"""The steps of the tutorial, with the network of the Azure clients taken away and everything else real."""
from __future__ import annotations

import base64
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from unittest.mock import MagicMock
from urllib.parse import parse_qs, unquote, urlsplit

import azure.batch.models as batchmodels
import pytest
from azure.core.exceptions import ResourceExistsError
from azure.storage.blob import (BlobClient, BlobProperties, BlobSasPermissions, BlobServiceClient,
                                ContainerClient, ContainerSasPermissions, StorageErrorCode)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msrest.exceptions import ClientException
from pytest_mock import MockerFixture

import python_tutorial_client as client
from common import local_azure
from common.helpers import ImageNotFoundError

KEY = base64.b64encode(b'the key of a storage account').decode()
STORAGE_URL = 'https://mystorage.blob.core.windows.net'
HOSTILE_NAME = '''it's "5 $HOME" & `größe`; #1\\.txt'''


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in [name for name in os.environ if name.startswith('AZURE_')]:
        monkeypatch.delenv(name)
    home = tmp_path / 'home'
    home.mkdir()
    monkeypatch.setenv('HOME', str(home))
    monkeypatch.setenv('USERPROFILE', str(home))
    return home


@pytest.fixture
def blob_service_client() -> Iterator[BlobServiceClient]:
    with BlobServiceClient(STORAGE_URL, credential={'account_name': 'mystorage', 'account_key': KEY}) as real:
        yield real


@pytest.fixture
def uploads(mocker: MockerFixture) -> dict[str, bytes]:
    """What was uploaded, by container and blob name. Only an upload that may overwrite can come twice."""
    uploaded: dict[str, bytes] = {}

    def upload_blob(self: BlobClient, data, overwrite: bool = False) -> None:
        name = f'{self.container_name}/{self.blob_name}'
        assert overwrite or name not in uploaded
        uploaded[name] = data.read()

    mocker.patch.object(BlobClient, 'upload_blob', upload_blob)
    return uploaded


@pytest.fixture
def downloads(mocker: MockerFixture) -> dict[str, bytes]:
    """The blobs of every container, to be filled by the test."""
    blobs: dict[str, bytes] = {}

    def download_blob(self: ContainerClient, name: str) -> MagicMock:
        return MagicMock(readinto=lambda stream: stream.write(blobs[name]))

    mocker.patch.object(ContainerClient, 'list_blobs', lambda self: [BlobProperties(name=n) for n in blobs])
    mocker.patch.object(ContainerClient, 'download_blob', download_blob)
    return blobs


@pytest.fixture
def batch_service_client() -> MagicMock:
    mock = MagicMock()
    mock.account.list_supported_images.return_value = [batchmodels.ImageInformation(
        node_agent_sku_id='batch.node.ubuntu 24.04', os_type='linux', verification_type='verified',
        image_reference=batchmodels.ImageReference(publisher='canonical', offer='ubuntu-24_04-lts',
                                                   sku='server', version='latest'))]
    mock.task.list.return_value = []
    return mock


def resource_files(*names: str) -> list[batchmodels.ResourceFile]:
    return [batchmodels.ResourceFile(http_url=f'{STORAGE_URL}/input/{name}?sig=x', file_path=name)
            for name in names]


def tasks(*states: str) -> list[batchmodels.CloudTask]:
    return [batchmodels.CloudTask(id=f'topNtask{number}', state=state) for number, state in enumerate(states)]


def assert_lives_long_enough(sas: dict[str, list[str]]) -> None:
    expiry = datetime.fromisoformat(sas['se'][0].replace('Z', '+00:00'))
    # Longer than the wait, with a clock that is 15 minutes off; but not for ever.
    assert client._TIMEOUT + timedelta(minutes=15) < expiry - datetime.now(timezone.utc) < timedelta(days=1)
    assert 'st' not in sas


def test_settings_hold_no_credentials() -> None:
    assert not any([client._BATCH_ACCOUNT_NAME, client._BATCH_ACCOUNT_KEY, client._BATCH_ACCOUNT_URL,
                    client._STORAGE_ACCOUNT_NAME, client._STORAGE_ACCOUNT_KEY])


def test_a_container_that_exists_is_used(
        blob_service_client: BlobServiceClient, mocker: MockerFixture) -> None:
    exists = ResourceExistsError('The specified container already exists.')
    exists.error_code = StorageErrorCode.CONTAINER_ALREADY_EXISTS
    create = mocker.patch.object(BlobServiceClient, 'create_container', side_effect=exists)

    assert client.create_container(blob_service_client, 'input') is False

    create.assert_called_once_with('input')


def test_a_container_that_is_being_deleted_is_waited_for(
        blob_service_client: BlobServiceClient, mocker: MockerFixture, capsys: pytest.CaptureFixture[str]) -> None:
    being_deleted = ResourceExistsError('The specified container is being deleted. Try operation later.')
    being_deleted.error_code = StorageErrorCode.CONTAINER_BEING_DELETED
    sleep = mocker.patch('time.sleep')
    mocker.patch.object(BlobServiceClient, 'create_container', side_effect=[being_deleted, being_deleted, None])

    assert client.create_container(blob_service_client, 'input') is True

    assert sleep.call_count == 2
    assert capsys.readouterr().out == '  Waiting for the container [input] of an earlier run to be deleted...\n'


def test_upload_returns_a_resource_file_that_a_node_can_read(
        blob_service_client: BlobServiceClient, uploads: dict[str, bytes], tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / 'taskdata1.txt'
    path.write_bytes(b'old')
    client.upload_file_to_container(blob_service_client, 'input', path)
    path.write_bytes(b'new')
    capsys.readouterr()

    resource_file = client.upload_file_to_container(blob_service_client, 'input', str(path))

    assert uploads == {'input/taskdata1.txt': b'new'}
    assert isinstance(resource_file, batchmodels.ResourceFile)
    assert resource_file.file_path == 'taskdata1.txt'
    url = urlsplit(resource_file.http_url)
    assert f'{url.scheme}://{url.netloc}{url.path}' == f'{STORAGE_URL}/input/taskdata1.txt'
    sas = parse_qs(url.query)
    assert (sas['sp'], sas['sr']) == (['r'], ['b'])
    assert_lives_long_enough(sas)
    assert capsys.readouterr().out == f'Uploading file {path} to container [input]...\n'


def test_upload_keeps_any_name_whole(blob_service_client: BlobServiceClient, uploads: dict[str, bytes],
                                     tmp_path: Path) -> None:
    name = HOSTILE_NAME.replace('\\', '')  # Storage takes a backslash for a slash.
    path = tmp_path / name
    path.write_bytes(b'text')

    resource_file = client.upload_file_to_container(blob_service_client, 'input', path)

    assert resource_file.file_path == name
    url = urlsplit(resource_file.http_url)
    assert re.fullmatch(r"[\x21-\x7e]+", resource_file.http_url) and url.fragment == ''
    assert unquote(url.path) == f'/input/{name}'


@pytest.mark.parametrize('permission', [
    ContainerSasPermissions(write=True), BlobSasPermissions(write=True), 'w'])
def test_container_sas_allows_what_was_asked_for_and_no_more(
        blob_service_client: BlobServiceClient,
        permission: ContainerSasPermissions | BlobSasPermissions | str) -> None:
    sas = parse_qs(client.get_container_sas_token(blob_service_client, 'output', permission))

    assert (sas['sp'], sas['sr']) == (['w'], ['c'])
    assert_lives_long_enough(sas)


def test_create_pool_sends_the_pool(
        batch_service_client: MagicMock, capsys: pytest.CaptureFixture[str]) -> None:
    files = resource_files('python_tutorial_task.py')

    client.create_pool(batch_service_client, 'mypool', files, 'Canonical', 'ubuntu-24_04-lts', 'server')

    [pool] = batch_service_client.pool.add.call_args.args
    assert isinstance(pool, batchmodels.PoolAddParameter)
    assert (pool.id, pool.vm_size, pool.target_dedicated_nodes) == ('mypool', 'STANDARD_D2S_V5', 2)
    machine = pool.virtual_machine_configuration
    assert machine.node_agent_sku_id == 'batch.node.ubuntu 24.04'
    assert machine.image_reference.sku == 'server'
    start_task = pool.start_task
    assert start_task.resource_files == files
    assert start_task.wait_for_success is True
    assert start_task.user_identity.auto_user.scope == 'pool'
    assert start_task.user_identity.auto_user.elevation_level == 'admin'
    assert capsys.readouterr().out == 'Creating pool [mypool]...\n'


def test_create_pool_without_an_image_creates_nothing(batch_service_client: MagicMock) -> None:
    with pytest.raises(ImageNotFoundError, match='Batch offers there: server'):
        client.create_pool(batch_service_client, 'mypool', [], 'Canonical', 'ubuntu-24_04-lts', '30_04')

    batch_service_client.pool.add.assert_not_called()


def start_task_on_a_node(batch_service_client: MagicMock, node: Path,
                         programs: dict[str, str]) -> subprocess.CompletedProcess:
    """Runs the start task's command line in directories like a node's, with these programs only."""
    client.create_pool(batch_service_client, 'mypool', [], 'Canonical', 'ubuntu-24_04-lts', 'server')
    [pool] = batch_service_client.pool.add.call_args.args
    for directory in ('bin', 'shared', 'wd'):
        (node / directory).mkdir(parents=True, exist_ok=True)
    for name, script in programs.items():
        (node / 'bin' / name).write_text(f'#!/bin/bash\n{script}\n')
        (node / 'bin' / name).chmod(0o755)
    (node / 'bin' / 'install').unlink(missing_ok=True)
    (node / 'bin' / 'install').symlink_to('/usr/bin/install')
    (node / 'wd' / 'python_tutorial_task.py').write_text('print("task")')
    return subprocess.run(shlex.split(pool.start_task.command_line), cwd=node / 'wd', timeout=60,
                          env={'PATH': str(node / 'bin'), 'AZ_BATCH_NODE_SHARED_DIR': str(node / 'shared')},
                          capture_output=True, text=True)


def test_start_task_changes_nothing_where_nothing_is_missing(batch_service_client: MagicMock,
                                                             tmp_path: Path) -> None:
    node = tmp_path / 'a node'
    python3 = f'[[ "$1" == -m ]] && exit 9; exec {shlex.quote(sys.executable)} "$@"'

    for _ in 'join', 'restart':
        ran = start_task_on_a_node(batch_service_client, node, {'python3': python3})

        assert (ran.returncode, ran.stdout, ran.stderr) == (0, '', '')
        assert (node / 'shared' / 'python_tutorial_task.py').read_text() == 'print("task")'


def test_start_task_installs_pip_and_the_package_where_they_are_missing(batch_service_client: MagicMock,
                                                                        tmp_path: Path) -> None:
    log = tmp_path / 'log'
    python3 = f'''
        [[ "$*" == '-c import azure.storage.blob' ]] && {{ [[ -e {tmp_path}/package ]]; exit; }}
        [[ "$*" == '-m pip --version' ]] && {{ [[ -e {tmp_path}/pip ]]; exit; }}
        echo "python3 $* ($PIP_BREAK_SYSTEM_PACKAGES $(umask))" >> {log}
        : > {tmp_path}/package'''
    apt_get = f'echo "apt-get $*" >> {log}; [[ "$*" == *python3-pip ]] && : > {tmp_path}/pip; true'

    ran = start_task_on_a_node(batch_service_client, tmp_path / 'node',
                               {'python3': python3, 'apt-get': apt_get, 'dpkg': 'true'})

    assert (ran.returncode, ran.stderr) == (0, '')
    update, *_, pip, package = log.read_text().splitlines()
    assert update.startswith('apt-get') and 'update' in update
    assert pip.startswith('apt-get') and pip.endswith(' python3-pip')
    assert 'pip install' in package and 'azure-storage-blob' in package and package.endswith('(1 0022)')


def test_start_task_fails_when_the_package_cannot_be_installed(batch_service_client: MagicMock,
                                                               tmp_path: Path) -> None:
    python3 = '[[ "$*" == "-m pip --version" ]] || { echo "$*: no network" >&2; exit 3; }'

    ran = start_task_on_a_node(batch_service_client, tmp_path, {'python3': python3})

    assert ran.returncode == 3
    assert 'no network' in ran.stderr


def test_create_job_binds_the_job_to_the_pool(batch_service_client: MagicMock,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    client.create_job(batch_service_client, 'myjob', 'mypool')

    [job] = batch_service_client.job.add.call_args.args
    assert isinstance(job, batchmodels.JobAddParameter)
    assert (job.id, job.pool_info.pool_id) == ('myjob', 'mypool')
    # It must not end while it is waited for, nor go on for ever when nobody waits.
    assert client._TIMEOUT < job.constraints.max_wall_clock_time < 2 * client._TIMEOUT
    assert capsys.readouterr().out == 'Creating job [myjob]...\n'


def test_add_tasks_adds_all_in_one_call(batch_service_client: MagicMock,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    files = resource_files('a.txt', 'b.txt', 'c.txt')

    client.add_tasks(batch_service_client, 'myjob', files, 'output', 'sp=w&sig=x')

    batch_service_client.task.add_collection.assert_called_once()
    job_id, added = batch_service_client.task.add_collection.call_args.args
    assert job_id == 'myjob'
    assert all(isinstance(task, batchmodels.TaskAddParameter) for task in added)
    assert [task.id for task in added] == ['topNtask0', 'topNtask1', 'topNtask2']
    assert [task.resource_files for task in added] == [[file] for file in files]
    assert capsys.readouterr().out == 'Adding 3 tasks to job [myjob]...\n'


@pytest.fixture(scope='module')
def node_with_a_task_that_shows_its_arguments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of such a node. Its python3 prints what it was started with."""
    node = tmp_path_factory.mktemp('a node')
    python3 = node / 'python3'
    python3.write_text(r'''#!/bin/bash
for argument; do printf '%s\0' "$argument"; done''')
    python3.chmod(0o755)
    return {'PATH': f'{node}', 'AZ_BATCH_NODE_SHARED_DIR': f'{node}/shared'}


def arguments_on_the_node(command_line: str, environment: dict[str, str]) -> list[str]:
    ran = subprocess.run(shlex.split(command_line), env=environment, check=True, stdout=subprocess.PIPE)
    return ran.stdout.decode().split('\0')[:-1]


FILE_NAMES = st.text(st.characters(exclude_characters='\0/', exclude_categories=('Cs',)), min_size=1)


@example(name='--sastoken', sas_token='')
@example(name=HOSTILE_NAME, sas_token='sv=2026&sig=a%2Fb%3D')
@given(name=FILE_NAMES, sas_token=st.text(st.characters(exclude_characters='\0', exclude_categories=('Cs',))))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_argument_of_a_task_arrives_whole(
        node_with_a_task_that_shows_its_arguments: dict[str, str], name: str, sas_token: str) -> None:
    batch = MagicMock()
    client.add_tasks(batch, 'myjob', resource_files(name), 'output', sas_token, numwords=7,
                     storage_account_name='mystorage')
    [task] = batch.task.add_collection.call_args.args[1]

    environment = node_with_a_task_that_shows_its_arguments
    script, *arguments = arguments_on_the_node(task.command_line, environment)

    assert script == f'{environment["AZ_BATCH_NODE_SHARED_DIR"]}/python_tutorial_task.py'
    assert arguments == ['--filepath', f'./{name}' if name[0] == '-' else name, '--numwords', '7',
                         '--storageaccount', 'mystorage', '--storagecontainer', 'output',
                         '--sastoken', sas_token]


@pytest.mark.parametrize('url, passed', [
    ('', False),
    ('https://mystorage.blob.core.windows.net', False),
    ('https://mystorage.blob.core.windows.net/', False),
    ('https://mystorage.blob.core.chinacloudapi.cn', True),
    ('http://127.0.0.1:4567/mystorage', True),
])
def test_storage_url_is_passed_only_where_the_name_does_not_tell_it(
        batch_service_client: MagicMock, url: str, passed: bool) -> None:
    client.add_tasks(batch_service_client, 'myjob', resource_files('a.txt'), 'output', 'sas',
                     storage_account_name='mystorage', storage_account_url=url)

    [task] = batch_service_client.task.add_collection.call_args.args[1]
    assert (f'--storageurl {url}' in task.command_line) is passed
    assert ('--storageurl' in task.command_line) is passed


def test_storage_account_of_a_task_is_the_setting_unless_given(batch_service_client: MagicMock,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, '_STORAGE_ACCOUNT_NAME', 'typedin')

    client.add_tasks(batch_service_client, 'myjob', resource_files('a.txt'), 'output', 'sas')

    [task] = batch_service_client.task.add_collection.call_args.args[1]
    assert '--storageaccount typedin ' in task.command_line


def test_wait_prints_a_dot_per_look(batch_service_client: MagicMock, mocker: MockerFixture,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    mocker.patch('time.sleep')
    batch_service_client.task.list.side_effect = [
        tasks('active', 'active'), iter(tasks('completed', 'running')), tasks('completed', 'completed')]

    assert client.wait_for_tasks_to_complete(batch_service_client, 'myjob', timedelta(minutes=20)) is True

    assert capsys.readouterr().out == ("Monitoring all tasks for 'Completed' state, timeout in 0:20:00..."
                                       '...\n')


def test_wait_asks_only_for_incomplete_tasks(batch_service_client: MagicMock) -> None:
    client.wait_for_tasks_to_complete(batch_service_client, 'myjob', timedelta(minutes=20))

    call = batch_service_client.task.list.call_args
    assert call.args == ('myjob',)
    assert call.kwargs['task_list_options'].filter == "state ne 'completed'"
    assert call.kwargs['task_list_options'].select == 'id,state'


def test_wait_gives_up_after_the_timeout(batch_service_client: MagicMock, mocker: MockerFixture,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    now = 1000.0
    slept = []

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    mocker.patch('time.monotonic', lambda: now)
    mocker.patch('time.sleep', sleep)
    batch_service_client.task.list.side_effect = lambda *_, **__: tasks('completed', 'running')

    with pytest.raises(RuntimeError, match="^ERROR: Tasks did not reach 'Completed' state within "
                                           'the timeout period of 0:20:00\n'):
        client.wait_for_tasks_to_complete(batch_service_client, 'myjob', timedelta(minutes=20),
                                          poll_interval=timedelta(seconds=30))

    assert now == pytest.approx(1000 + 20 * 60)
    assert slept[0] < 0.5 and max(slept) == 30
    output = capsys.readouterr().out
    assert output.endswith('.\n')
    assert output.count('.') == 3 + batch_service_client.task.list.call_count


def test_wait_leaves_a_whole_line_behind_when_it_fails(batch_service_client: MagicMock,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    batch_service_client.task.list.side_effect = ClientException('refused')

    with pytest.raises(ClientException):
        client.wait_for_tasks_to_complete(batch_service_client, 'myjob', timedelta(minutes=20))

    assert capsys.readouterr().out.endswith('....\n')


def test_download_writes_every_blob(blob_service_client: BlobServiceClient, downloads: dict[str, bytes],
                                    tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    downloads.update({'a_OUTPUT.txt': b'the 3\n', 'größe b_OUTPUT.txt': b'word 1\n'})

    paths = client.download_blobs_from_container(blob_service_client, 'output', tmp_path)

    assert paths == {name: tmp_path / name for name in downloads}
    assert {name: path.read_bytes() for name, path in paths.items()} == downloads
    assert capsys.readouterr().out == f'''\
Downloading all files from container [output]...
  Downloaded blob [a_OUTPUT.txt] from container [output] to {tmp_path}/a_OUTPUT.txt
  Downloaded blob [größe b_OUTPUT.txt] from container [output] to {tmp_path}/größe b_OUTPUT.txt
  Download complete!
'''


class Azure:
    """What a run of main() did to the accounts, in order."""

    def __init__(self, batch: MagicMock, uploads: dict[str, bytes], downloads: dict[str, bytes]) -> None:
        self.batch = batch
        self.uploads = uploads
        self.downloads = downloads
        self.containers: list[str] = []
        self.calls: list[str] = []


@pytest.fixture
def azure(mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch, batch_service_client: MagicMock,
          uploads: dict[str, bytes], downloads: dict[str, bytes]) -> Azure:
    """An account on Azure, typed in, whose tasks are all done when first looked at."""
    azure = Azure(batch_service_client, uploads, downloads)
    downloads.update({'taskdata1_OUTPUT.txt': b'the 3\n'})

    def create_container(self: BlobServiceClient, name: str) -> None:
        azure.containers.append(name)
        azure.calls.append(f'create {name}')

    def delete_container(self: BlobServiceClient, name: str) -> None:
        azure.containers.remove(name)
        azure.calls.append(f'delete {name}')

    mocker.patch.object(BlobServiceClient, 'create_container', create_container)
    mocker.patch.object(BlobServiceClient, 'delete_container', delete_container)
    for group, verb in (('pool', 'add'), ('job', 'add'), ('task', 'add_collection'),
                        ('job', 'delete'), ('pool', 'delete')):
        operation = getattr(getattr(azure.batch, group), verb)
        operation.side_effect = lambda *_, what=f'{verb} {group}': azure.calls.append(what)
    mocker.patch.object(client, 'BatchServiceClient', return_value=azure.batch)
    mocker.patch.object(client, 'check_accounts')
    for name, value in {'_BATCH_ACCOUNT_NAME': 'mybatch', '_BATCH_ACCOUNT_KEY': KEY,
                        '_BATCH_ACCOUNT_URL': 'https://mybatch.westeurope.batch.azure.com',
                        '_STORAGE_ACCOUNT_NAME': 'mystorage', '_STORAGE_ACCOUNT_KEY': KEY}.items():
        monkeypatch.setattr(client, name, value)
    return azure


@pytest.fixture
def three_inputs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Stand-ins for the project's own files, which these tests are not about."""
    project = tmp_path / 'project'
    (project / 'data').mkdir(parents=True)
    (project / 'python_tutorial_task.py').write_text('print("task")')
    paths = [project / 'data' / f'taskdata{number}.txt' for number in (1, 2, 3)]
    for path in paths:
        path.write_text(f'words of {path.name}')
    monkeypatch.setattr(client, '_PROJECT', project)
    monkeypatch.setattr(client, '_INPUT_FILES', paths)
    return paths


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, 'argv', ['python_tutorial_client.py', *arguments])
    return client.main()


def at_a_terminal(mocker: MockerFixture, *answers: str) -> MagicMock:
    mocker.patch('sys.stdin', MagicMock(closed=False, isatty=lambda: True))
    return mocker.patch('builtins.input', side_effect=answers)


TRANSCRIPT = '''\
Sample start: TIME

Uploading file PROJECT/python_tutorial_task.py to container [application]...
Uploading file PROJECT/data/taskdata1.txt to container [input]...
Uploading file PROJECT/data/taskdata2.txt to container [input]...
Uploading file PROJECT/data/taskdata3.txt to container [input]...
Creating pool [PythonTutorialPool]...
Creating job [PythonTutorialJob]...
Adding 3 tasks to job [PythonTutorialJob]...
Monitoring all tasks for 'Completed' state, timeout in 0:20:00....
  Success! All tasks reached the 'Completed' state within the specified timeout period.
Downloading all files from container [output]...
  Downloaded blob [taskdata1_OUTPUT.txt] from container [output] to HOME/taskdata1_OUTPUT.txt
  Download complete!
Deleting containers...

Sample end: TIME
Elapsed time: 0:00:0X

Delete job? [Y/n] yes
Delete pool? [Y/n] yes

Press ENTER to exit...
'''

ALL_STEPS = ['create application', 'create input', 'create output',
             'add pool', 'add job', 'add_collection task',
             'delete application', 'delete input', 'delete output', 'delete job', 'delete pool']


def test_the_whole_transcript_without_a_terminal(
        azure: Azure, three_inputs: list[Path], own_home: Path, tmp_path: Path, mocker: MockerFixture,
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    mocker.patch('builtins.input', side_effect=AssertionError('nobody is there to answer'))

    assert run(monkeypatch) == 0

    output, errors = capsys.readouterr()
    output = re.sub(r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d', 'TIME', output)
    output = re.sub(r'0:00:0\d', '0:00:0X', output)
    expected = TRANSCRIPT.replace('PROJECT', str(tmp_path / 'project')).replace('HOME', str(own_home))
    assert (output, errors) == (expected, '')
    assert (own_home / 'taskdata1_OUTPUT.txt').read_bytes() == b'the 3\n'


def test_the_steps_happen_in_order_and_leave_nothing(azure: Azure, three_inputs: list[Path],
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch) == 0

    assert azure.calls == ALL_STEPS
    assert azure.uploads == {'application/python_tutorial_task.py': b'print("task")',
                             'input/taskdata1.txt': b'words of taskdata1.txt',
                             'input/taskdata2.txt': b'words of taskdata2.txt',
                             'input/taskdata3.txt': b'words of taskdata3.txt'}
    azure.batch.job.delete.assert_called_once_with('PythonTutorialJob')
    azure.batch.pool.delete.assert_called_once_with('PythonTutorialPool')


def test_the_batch_client_is_made_from_the_settings(azure: Azure, three_inputs: list[Path],
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch)

    [credentials] = client.BatchServiceClient.call_args.args
    assert (credentials.auth._account_name, credentials.auth._key) == ('mybatch', KEY)
    assert client.BatchServiceClient.call_args.kwargs == {
        'batch_url': 'https://mybatch.westeurope.batch.azure.com'}


def test_the_tasks_get_a_token_that_can_only_write(azure: Azure, three_inputs: list[Path],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch)

    for task in azure.batch.task.add_collection.call_args.args[1]:
        arguments = shlex.split(shlex.split(task.command_line)[2])
        sas = parse_qs(arguments[arguments.index('--sastoken') + 1])
        assert (sas['sp'], sas['sr']) == (['w'], ['c'])
        assert arguments[arguments.index('--storageaccount') + 1] == 'mystorage'
        assert '--storageurl' not in arguments
        assert KEY not in task.command_line


def test_the_reader_may_keep_job_and_pool(azure: Azure, three_inputs: list[Path], mocker: MockerFixture,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    asked = at_a_terminal(mocker, 'n', 'N', '')

    assert run(monkeypatch) == 0

    assert [call.args[0] for call in asked.call_args_list] == [
        'Delete job? [Y/n] ', 'Delete pool? [Y/n] ', 'Press ENTER to exit...']
    azure.batch.job.delete.assert_not_called()
    azure.batch.pool.delete.assert_not_called()


def test_yes_asks_nothing_at_a_terminal(azure: Azure, three_inputs: list[Path], mocker: MockerFixture,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    asked = at_a_terminal(mocker)

    assert run(monkeypatch, '--yes') == 0

    asked.assert_not_called()
    azure.batch.job.delete.assert_called_once()
    azure.batch.pool.delete.assert_called_once()


def test_own_files_number_of_words_and_directory(azure: Azure, three_inputs: list[Path], tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'my own.txt').write_text('mine')

    assert run(monkeypatch, 'my own.txt', '--numwords', '10', '--output-dir', 'results') == 0

    assert set(azure.uploads) == {'application/python_tutorial_task.py', 'input/my own.txt'}
    [task] = azure.batch.task.add_collection.call_args.args[1]
    assert '--numwords 10 ' in task.command_line
    assert (tmp_path / 'results' / 'taskdata1_OUTPUT.txt').is_file()


def test_a_missing_input_is_one_line_and_touches_nothing(
        azure: Azure, three_inputs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, str(tmp_path / 'nowhere.txt')) == 1

    assert capsys.readouterr() == ('', f'ERROR: Input file {tmp_path}/nowhere.txt does not exist.\n')
    assert azure.calls == []


def test_a_batch_error_is_shown_and_fails_the_run(
        azure: Azure, three_inputs: list[Path], monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    error = batchmodels.BatchError(
        code='PoolQuotaReached', message=batchmodels.ErrorMessage(value='The pool quota has been reached.'))
    azure.batch.pool.add.side_effect = batchmodels.BatchErrorException(lambda *_: error, MagicMock())

    assert run(monkeypatch) == 1

    output, errors = capsys.readouterr()
    assert 'Exception encountered:\nThe pool quota has been reached.\n' in output
    assert output.index('Deleting containers...') < output.index('Exception encountered')
    assert 'Success!' not in output + errors
    assert azure.containers == []
    azure.batch.pool.delete.assert_not_called()


def test_a_job_ends_with_its_last_task_once_all_are_there(azure: Azure, three_inputs: list[Path],
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    azure.batch.job.patch.side_effect = lambda *_: azure.calls.append('patch job')

    assert run(monkeypatch) == 0

    assert azure.calls.index('patch job') == azure.calls.index('add_collection task') + 1
    [job_id, patch] = azure.batch.job.patch.call_args.args
    assert (job_id, patch.on_all_tasks_complete) == ('PythonTutorialJob', 'terminatejob')


def test_what_the_reader_keeps_is_named_with_the_command_that_deletes_it(
        azure: Azure, three_inputs: list[Path], mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    at_a_terminal(mocker, 'n', 'n', '')

    assert run(monkeypatch) == 0

    account = '--account-name mybatch --account-endpoint https://mybatch.westeurope.batch.azure.com'
    output = capsys.readouterr().out
    assert 'Job [PythonTutorialJob] is kept; ' in output
    assert f': az batch job delete --job-id PythonTutorialJob {account}\n' in output
    assert f': az batch pool delete --pool-id PythonTutorialPool {account}\n' in output


LOCAL = local_azure.LocalAzure(
    batch_account_name='localbatch', batch_account_key=KEY, batch_account_url='http://127.0.0.1:1234',
    storage_account_name='localstorage', storage_account_key=KEY,
    storage_account_url='http://127.0.0.1:5678/localstorage')


def test_without_an_account_the_same_steps_run_locally(
        azure: Azure, three_inputs: list[Path], mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    @contextmanager
    def start() -> Iterator[local_azure.LocalAzure]:
        azure.calls.append('start services')
        yield LOCAL
        azure.calls.append('stop services')

    mocker.patch.object(local_azure, 'start', start)
    for name in ('_BATCH_ACCOUNT_NAME', '_BATCH_ACCOUNT_KEY', '_BATCH_ACCOUNT_URL',
                 '_STORAGE_ACCOUNT_NAME', '_STORAGE_ACCOUNT_KEY'):
        monkeypatch.setattr(client, name, '')

    assert run(monkeypatch) == 0

    notice, rest = capsys.readouterr().out.split('\n', 1)
    assert str(local_azure.default_workspace()) in notice and 'to use Azure' in notice
    assert rest.startswith('Sample start: ')
    assert (azure.calls[0], azure.calls[-1]) == ('start services', 'stop services')
    assert azure.calls[1:-1] == ALL_STEPS
    assert client.BatchServiceClient.call_args.kwargs == {'batch_url': 'http://127.0.0.1:1234'}
    for task in azure.batch.task.add_collection.call_args.args[1]:
        assert '--storageaccount localstorage ' in task.command_line
        assert task.command_line.endswith(" --storageurl http://127.0.0.1:5678/localstorage'")
        assert task.resource_files[0].http_url.startswith('http://127.0.0.1:5678/localstorage/input/taskdata')


def test_what_keeps_the_local_services_from_starting_is_one_line(
        azure: Azure, three_inputs: list[Path], mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    mocker.patch.object(local_azure, 'start', side_effect=local_azure.LocalAzureError('No npm registry.'))
    for name in ('_BATCH_ACCOUNT_NAME', '_BATCH_ACCOUNT_KEY', '_BATCH_ACCOUNT_URL',
                 '_STORAGE_ACCOUNT_NAME', '_STORAGE_ACCOUNT_KEY'):
        monkeypatch.setattr(client, name, '')

    assert run(monkeypatch) == 1

    assert capsys.readouterr().err == 'ERROR: No npm registry.\n'
