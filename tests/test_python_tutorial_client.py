"""The story's form; its steps, with the network of the Azure clients taken away; and main() as a whole."""
from __future__ import annotations

import ast
import base64
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock
from urllib.parse import parse_qs, unquote, urlsplit

import azure.batch.models as batchmodels
import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import (BlobClient, BlobProperties, BlobSasPermissions, BlobServiceClient, ContainerClient,
                                ContainerSasPermissions)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msrest.exceptions import ClientException
from pytest_mock import MockerFixture

import python_tutorial_client as client
from common import guards, local_azure
from common.helpers import ImageNotFoundError, wrap_commands_in_shell

SOURCE = Path(client.__file__).read_text(encoding='utf-8')
FUNCTIONS = {node.name: node for node in ast.parse(SOURCE).body if isinstance(node, ast.FunctionDef)}

KEY = base64.b64encode(b'the key of a storage account').decode()
STORAGE_URL = 'https://mystorage.blob.core.windows.net'
BATCH_URL = 'https://mybatch.westeurope.batch.azure.com'
HOSTILE_NAME = '''it's "5 $HOME" & `größe`; #1\\.txt'''


def test_the_story_can_be_read_in_one_go() -> None:
    assert len(SOURCE.splitlines()) <= 360


@pytest.mark.parametrize('name', FUNCTIONS)
def test_a_function_can_be_seen_whole(name: str) -> None:
    function = FUNCTIONS[name]
    first_line = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])

    assert function.end_lineno - first_line + 1 <= (90 if name == 'main' else 50)


def test_main_tells_its_nine_steps_in_order() -> None:
    assert re.findall(r'^ *# (\d+)\. ', ast.get_source_segment(SOURCE, FUNCTIONS['main']), re.MULTILINE) == list(
        '123456789')


def test_of_this_project_only_the_guards_and_the_helpers_are_imported() -> None:
    imports = [ast.unparse(node) for node in ast.walk(ast.parse(SOURCE))
               if isinstance(node, (ast.Import, ast.ImportFrom))]
    ours = [line for line in imports if re.match(r'(from|import) (common|tests|python_tutorial|\.)', line)]

    # The guards are the first but for Python's own rules, so that they can say which of the others is missing.
    assert imports[:2] == ['from __future__ import annotations', 'from common import guards']
    assert [line.partition(' import ')[0] for line in ours] == ['from common', 'from common.helpers']


def test_every_guard_has_its_place_in_the_story() -> None:
    assert set(re.findall(r'\bguards\.(\w+)', SOURCE)) == set(guards.__all__) - {'start_up'}


def test_the_linter_finds_nothing_and_is_told_nothing() -> None:
    assert not re.search(r'#.*\b(noqa|type: *ignore|pylint|pragma)\b', SOURCE)
    linted = subprocess.run([sys.executable, '-m', 'flake8', '--isolated', '--max-line-length=120', client.__file__],
                            capture_output=True, text=True)
    assert (linted.returncode, linted.stdout) == (0, '')


@pytest.mark.parametrize('name, calls', {
    'upload_file_to_container': ['upload_blob', 'generate_blob_sas', 'batchmodels.ResourceFile'],
    'get_container_sas_token': ['generate_container_sas'],
    'create_pool': ['batchmodels.PoolAddParameter', 'batchmodels.StartTask', 'batch_service_client.pool.add'],
    'create_job': ['batchmodels.JobAddParameter', 'batch_service_client.job.add'],
    'add_tasks': ['batchmodels.TaskAddParameter', 'batch_service_client.task.add_collection'],
    'wait_for_tasks_to_complete': ['batch_service_client.task.list'],
    'download_blobs_from_container': ['list_blobs', 'download_blob'],
    'main': ['SharedKeyCredentials', 'BatchServiceClient', 'BlobServiceClient',
             'blob_service_client.create_container', 'batch_service_client.job.patch',
             'blob_service_client.delete_container', 'batch_service_client.job.delete',
             'batch_service_client.pool.delete'],
}.items())
def test_the_sdk_stands_in_plain_sight(name: str, calls: list[str]) -> None:
    called = [ast.unparse(node.func) for node in ast.walk(FUNCTIONS[name]) if isinstance(node, ast.Call)]

    assert [call for call in calls if not any(f'.{found}'.endswith(f'.{call}') for found in called)] == []


class Storage:
    """A storage account: what is in its containers, and their metadata."""

    def __init__(self) -> None:
        self.containers: dict[str, dict[str, str]] = {}
        self.blobs: dict[str, dict[str, bytes]] = {}
        self.uploads: dict[str, bytes] = {}
        self.calls: list[str] = []

    def add(self, container: str, metadata: dict[str, str], **blobs: bytes) -> None:
        self.containers[container] = metadata
        self.blobs[container] = dict(blobs)

    def of(self, container: ContainerClient) -> dict[str, bytes]:
        if container.container_name not in self.blobs:
            raise ResourceNotFoundError('The specified container does not exist.')
        return self.blobs[container.container_name]

    def create_container(self, name: str, metadata: dict[str, str] | None = None) -> None:
        self.calls.append(f'create {name}')
        if name in self.containers:
            raise ResourceExistsError('The specified container already exists.')
        self.add(name, metadata or {})

    def delete_container(self, name: str) -> None:
        self.calls.append(f'delete {name}')
        del self.containers[name], self.blobs[name]

    def upload(self, blob: BlobClient, data, overwrite: bool) -> None:
        blobs = self.blobs.setdefault(blob.container_name, {})
        assert overwrite or blob.blob_name not in blobs
        blobs[blob.blob_name] = self.uploads[f'{blob.container_name}/{blob.blob_name}'] = data.read()

    def properties(self, container: ContainerClient) -> SimpleNamespace:
        self.of(container)
        return SimpleNamespace(metadata=self.containers[container.container_name])

    def download(self, container: ContainerClient, name: str) -> MagicMock:
        return MagicMock(readinto=lambda stream: stream.write(self.of(container)[name]))

    def delete_blobs(self, container: ContainerClient, *names: str) -> None:
        for name in names:
            del self.of(container)[name]


@pytest.fixture
def storage(mocker: MockerFixture) -> Storage:
    """What the clients of Azure Storage work on instead of the network."""
    storage = Storage()
    for owner, replacements in {
        BlobServiceClient: {'create_container': lambda _, name, **options: storage.create_container(name, **options),
                            'delete_container': lambda _, name: storage.delete_container(name)},
        BlobClient: {'upload_blob': lambda self, data, overwrite=False: storage.upload(self, data, overwrite)},
        ContainerClient: {'get_container_properties': lambda self: storage.properties(self),
                          'list_blobs': lambda self: [BlobProperties(name=name) for name in storage.of(self)],
                          'list_blob_names': lambda self: list(storage.of(self)),
                          'download_blob': lambda self, name: storage.download(self, name),
                          'delete_blobs': lambda self, *names, **_: storage.delete_blobs(self, *names)},
    }.items():
        for name, replacement in replacements.items():
            mocker.patch.object(owner, name, replacement)
    return storage


@pytest.fixture
def blob_service_client(storage: Storage) -> Iterator[BlobServiceClient]:
    with BlobServiceClient(STORAGE_URL, credential={'account_name': 'mystorage', 'account_key': KEY}) as real:
        yield real


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


def refusal(code: str, status: int = 409) -> batchmodels.BatchErrorException:
    error = batchmodels.BatchError(code=code, message=batchmodels.ErrorMessage(value=f'It is {code}.'))
    return batchmodels.BatchErrorException(lambda *_: error, MagicMock(status_code=status))


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


def test_upload_returns_a_resource_file_that_a_node_can_read(
        blob_service_client: BlobServiceClient, storage: Storage, tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / 'taskdata1.txt'
    path.write_bytes(b'old')
    client.upload_file_to_container(blob_service_client, 'input', path)
    path.write_bytes(b'new')
    capsys.readouterr()

    resource_file = client.upload_file_to_container(blob_service_client, 'input', str(path))

    assert storage.blobs == {'input': {'taskdata1.txt': b'new'}}
    assert isinstance(resource_file, batchmodels.ResourceFile)
    assert resource_file.file_path == 'taskdata1.txt'
    url = urlsplit(resource_file.http_url)
    assert f'{url.scheme}://{url.netloc}{url.path}' == f'{STORAGE_URL}/input/taskdata1.txt'
    sas = parse_qs(url.query)
    assert (sas['sp'], sas['sr']) == (['r'], ['b'])
    assert_lives_long_enough(sas)
    assert capsys.readouterr().out == f'Uploading file {path} to container [input]...\n'


def test_upload_keeps_any_name_whole(blob_service_client: BlobServiceClient, tmp_path: Path) -> None:
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
    metadata = [batchmodels.MetadataItem(name='a', value='b')]

    client.create_pool(batch_service_client, 'mypool', files, 'Canonical', 'ubuntu-24_04-lts', 'server',
                       metadata=metadata)

    [pool] = batch_service_client.pool.add.call_args.args
    assert isinstance(pool, batchmodels.PoolAddParameter)
    assert (pool.id, pool.vm_size, pool.target_dedicated_nodes) == ('mypool', 'STANDARD_D2S_V5', 2)
    assert (pool.task_slots_per_node, pool.metadata) == (2, metadata)
    machine = pool.virtual_machine_configuration
    assert machine.node_agent_sku_id == 'batch.node.ubuntu 24.04'
    assert machine.image_reference.sku == 'server'
    start_task = pool.start_task
    assert start_task.command_line == wrap_commands_in_shell('linux', client.start_task_commands())
    assert start_task.resource_files == files
    assert start_task.wait_for_success is True
    assert start_task.user_identity.auto_user.scope == 'pool'
    assert start_task.user_identity.auto_user.elevation_level == 'admin'
    assert capsys.readouterr().out == 'Creating pool [mypool]...\n'


def test_create_pool_without_an_image_creates_nothing(batch_service_client: MagicMock) -> None:
    with pytest.raises(ImageNotFoundError, match='Batch offers there: server'):
        client.create_pool(batch_service_client, 'mypool', [], 'Canonical', 'ubuntu-24_04-lts', '30_04')

    batch_service_client.pool.add.assert_not_called()


def test_create_job_binds_the_job_to_the_pool(batch_service_client: MagicMock,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    metadata = [batchmodels.MetadataItem(name='a', value='b')]

    client.create_job(batch_service_client, 'myjob', 'mypool', metadata=metadata)

    [job] = batch_service_client.job.add.call_args.args
    assert isinstance(job, batchmodels.JobAddParameter)
    assert (job.id, job.pool_info.pool_id, job.metadata) == ('myjob', 'mypool', metadata)
    # It must not end while it is waited for, nor go on for ever when nobody waits.
    assert client._TIMEOUT < job.constraints.max_wall_clock_time < 2 * client._TIMEOUT
    assert capsys.readouterr().out == 'Creating job [myjob]...\n'


@pytest.mark.parametrize('create, operation', [
    (lambda batch: client.create_pool(batch, 'mypool', [], 'Canonical', 'ubuntu-24_04-lts', 'server'), 'pool'),
    (lambda batch: client.create_job(batch, 'myjob', 'mypool'), 'job')], ids=['pool', 'job'])
def test_what_batch_refuses_to_create_is_shown_and_goes_on(
        batch_service_client: MagicMock, create: Callable[[MagicMock], None], operation: str,
        capsys: pytest.CaptureFixture[str]) -> None:
    getattr(batch_service_client, operation).add.side_effect = refusal('QuotaReached')

    with pytest.raises(batchmodels.BatchErrorException):
        create(batch_service_client)

    assert 'Exception encountered:\nIt is QuotaReached.\n\nCode:\tQuotaReached\n' in capsys.readouterr().out


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
    assert all(' --numwords 3 ' in task.command_line for task in added)
    assert capsys.readouterr().out == 'Adding 3 tasks to job [myjob]...\n'


def test_add_tasks_is_guarded_against_retries_without_end(batch_service_client: MagicMock) -> None:
    batch_service_client.config.hooks = hooks = []
    batch_service_client.task.add_collection.side_effect = lambda *_: guarded.append(len(hooks))
    guarded: list[int] = []

    client.add_tasks(batch_service_client, 'myjob', resource_files('a.txt'), 'output', 'sp=w&sig=x')

    assert (guarded, hooks) == ([1], [])


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
    assert arguments == ['--filepath', f'./{name}', '--numwords', '7',
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
    options = call.kwargs['task_list_options']
    assert (options.filter, options.select, options.max_results) == ("state ne 'completed'", 'id,state', 1)


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
                                           'the timeout period of 0:02:00\n'):
        client.wait_for_tasks_to_complete(batch_service_client, 'myjob', timedelta(minutes=2))

    assert 1000 + 2 * 60 <= now < 1001 + 2 * 60
    assert slept[0] < 0.5 and max(slept) == 1
    output = capsys.readouterr().out
    assert output.endswith('.\n')
    assert output.count('.') == 3 + batch_service_client.task.list.call_count


def test_wait_leaves_a_whole_line_behind_when_it_fails(batch_service_client: MagicMock,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    batch_service_client.task.list.side_effect = ClientException('refused')

    with pytest.raises(ClientException):
        client.wait_for_tasks_to_complete(batch_service_client, 'myjob', timedelta(minutes=20))

    assert capsys.readouterr().out.endswith('....\n')


def test_download_writes_every_blob(blob_service_client: BlobServiceClient, storage: Storage,
                                    tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blobs = {'a_OUTPUT.txt': b'the 3\n', 'größe b_OUTPUT.txt': b'word 1\n'}
    storage.add('output', {}, **blobs)

    paths = client.download_blobs_from_container(blob_service_client, 'output', tmp_path)

    assert paths == {name: tmp_path / name for name in blobs}
    assert {name: path.read_bytes() for name, path in paths.items()} == blobs
    assert capsys.readouterr().out == f'''\
Downloading all files from container [output]...
  Downloaded blob [a_OUTPUT.txt] from container [output] to {tmp_path}/a_OUTPUT.txt
  Downloaded blob [größe b_OUTPUT.txt] from container [output] to {tmp_path}/größe b_OUTPUT.txt
  Download complete!
'''


@pytest.mark.parametrize('trouble', [
    HttpResponseError('no more'), ConnectionResetError(104, 'reset by peer'), OSError(28, 'No space left on device')],
    ids=['refused', 'reset', 'disk full'])
def test_a_blob_that_cannot_be_downloaded_does_not_keep_the_others_from_it(
        blob_service_client: BlobServiceClient, storage: Storage, tmp_path: Path, mocker: MockerFixture,
        capsys: pytest.CaptureFixture[str], trouble: Exception) -> None:
    storage.add('output', {}, **{'a.txt': b'a', 'b.txt': b'b', 'c.txt': b'c'})
    usual = storage.download
    mocker.patch.object(storage, 'download', lambda self, name: MagicMock(
        readinto=MagicMock(side_effect=trouble)) if name == 'b.txt' else usual(self, name))

    with pytest.raises(guards.DownloadError, match=r'1 blob of container \[output\].*\n  \[b.txt\]: '):
        client.download_blobs_from_container(blob_service_client, 'output', tmp_path)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == {
        'a.txt': b'a', 'c.txt': b'c'}
    assert 'Download complete!' not in capsys.readouterr().out


class Azure:
    """A Batch account and a storage account, and what a run of main() did to them, in order.

    The tasks are done, and have put their results into the output container, as soon as they are added.
    """

    def __init__(self, storage: Storage, batch: MagicMock) -> None:
        self.storage = storage
        self.batch = batch
        self.calls = storage.calls
        self.things: dict[str, batchmodels.CloudJob | batchmodels.CloudPool] = {}
        self.tasks: list[batchmodels.CloudTask] = []
        for kind, operations in ('job', batch.job), ('pool', batch.pool):
            operations.get.side_effect = lambda *_, kind=kind: self.get(kind)
            operations.add.side_effect = lambda thing, kind=kind: self.add(kind, thing)
            operations.delete.side_effect = lambda *_, kind=kind: self.delete(kind)
        batch.job.patch.side_effect = lambda *_: self.calls.append('patch job')
        batch.task.add_collection.side_effect = self.add_tasks
        batch.task.list.side_effect = lambda *_, task_list_options: [
            task for task in self.tasks if task_list_options.filter == f"state eq '{task.state}'"]

    def get(self, kind: str) -> batchmodels.CloudJob | batchmodels.CloudPool:
        if kind not in self.things:
            raise refusal(f'{kind.capitalize()}NotFound', 404)
        return self.things[kind]

    def add(self, kind: str, thing: batchmodels.JobAddParameter | batchmodels.PoolAddParameter) -> None:
        self.calls.append(f'add {kind}')
        made = {'job': batchmodels.CloudJob, 'pool': batchmodels.CloudPool}[kind](
            id=thing.id, metadata=thing.metadata, state='active')
        if kind == 'pool':
            made.allocation_state, made.start_task = 'steady', thing.start_task
        self.things[kind] = made

    def delete(self, kind: str) -> None:
        self.calls.append(f'delete {kind}')
        del self.things[kind]

    def add_tasks(self, _: str, added: list[batchmodels.TaskAddParameter]) -> None:
        self.calls.append('add tasks')
        for task in added:
            self.tasks.append(batchmodels.CloudTask(
                id=task.id, state='completed', resource_files=task.resource_files,
                execution_info=batchmodels.TaskExecutionInformation(
                    retry_count=0, requeue_count=0, exit_code=0, result='success')))
            self.storage.blobs['output'][guards.output_name(task.resource_files[0].file_path)] = RESULT

    def marks(self) -> list[dict[str, str]]:
        """Returns the metadata of all that is there."""
        return [*self.storage.containers.values(),
                *({item.name: item.value for item in thing.metadata} for thing in self.things.values())]


RESULT = f'''the 3
{'-' * 30}
Node: tvmps_1_d
Task: topNtask0
Job:  PythonTutorialJob
Pool: PythonTutorialPool
'''.encode()


@pytest.fixture
def azure(mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch, home: Path, batch_service_client: MagicMock,
          storage: Storage) -> Azure:
    """Accounts on Azure, typed in, with nothing in them."""
    mocker.patch.object(client, 'BatchServiceClient', return_value=batch_service_client)
    mocker.patch.object(client, 'BlobServiceClient', wraps=BlobServiceClient)
    for name, value in {'_BATCH_ACCOUNT_NAME': 'mybatch', '_BATCH_ACCOUNT_KEY': KEY, '_BATCH_ACCOUNT_URL': BATCH_URL,
                        '_STORAGE_ACCOUNT_NAME': 'mystorage', '_STORAGE_ACCOUNT_KEY': KEY}.items():
        monkeypatch.setattr(client, name, value)
    return Azure(storage, batch_service_client)


@pytest.fixture
def no_account(monkeypatch: pytest.MonkeyPatch, azure: Azure) -> None:
    for name in ('_BATCH_ACCOUNT_NAME', '_BATCH_ACCOUNT_KEY', '_BATCH_ACCOUNT_URL',
                 '_STORAGE_ACCOUNT_NAME', '_STORAGE_ACCOUNT_KEY'):
        monkeypatch.setattr(client, name, '')


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Stand-ins for the project's own files, which these tests are not about."""
    project = tmp_path / 'project'
    (project / 'data').mkdir(parents=True)
    paths = [project / 'data' / f'taskdata{number}.txt' for number in (1, 2, 3)]
    for path in paths:
        path.write_text(f'words of {path.name}')
    script = project / 'python_tutorial_task.py'
    script.write_text('print("task")')
    monkeypatch.setattr(client, '_TASK_SCRIPT', script)
    monkeypatch.setattr(client, '_INPUT_FILES', paths)
    return project


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, azure: Azure, project: Path) -> Callable[..., int]:
    """Runs main() with these arguments; returns its exit code."""
    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, 'argv', ['python_tutorial_client.py', *arguments])
        return client.main()
    return run


def at_a_terminal(mocker: MockerFixture, *answers: str) -> MagicMock:
    mocker.patch('sys.stdin', MagicMock(closed=False, isatty=lambda: True))
    return mocker.patch('builtins.input', side_effect=answers)


TRANSCRIPT = '''\
This uses Batch account mybatch at https://mybatch.westeurope.batch.azure.com and storage account mystorage at \
https://mystorage.blob.core.windows.net.
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
  Downloaded blob [taskdata2_OUTPUT.txt] from container [output] to HOME/taskdata2_OUTPUT.txt
  Downloaded blob [taskdata3_OUTPUT.txt] from container [output] to HOME/taskdata3_OUTPUT.txt
  Download complete!

  taskdata1_OUTPUT.txt  the 3
  taskdata2_OUTPUT.txt  the 3
  taskdata3_OUTPUT.txt  the 3

Deleting containers...

Sample end: TIME
Elapsed time: 0:00:0X

Delete job? [Y/n] yes
Delete pool? [Y/n] yes
  Job [PythonTutorialJob] is deleted.
  Pool [PythonTutorialPool] is deleted.

Press ENTER to exit...
'''

ALL_STEPS = ['create application', 'create input', 'create output',
             'add pool', 'add job', 'add tasks', 'patch job',
             'delete application', 'delete input', 'delete output', 'delete job', 'delete pool']


def test_the_whole_transcript_without_a_terminal(
        run: Callable[..., int], home: Path, project: Path, mocker: MockerFixture,
        capsys: pytest.CaptureFixture[str]) -> None:
    mocker.patch('builtins.input', side_effect=AssertionError('nobody is there to answer'))

    assert run() == 0

    output, errors = capsys.readouterr()
    output = re.sub(r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d', 'TIME', output)
    output = re.sub(r'0:00:0\d', '0:00:0X', output)
    assert (output, errors) == (TRANSCRIPT.replace('PROJECT', str(project)).replace('HOME', str(home)), '')
    assert (home / 'taskdata1_OUTPUT.txt').read_bytes() == RESULT


def test_the_steps_happen_in_order_and_leave_nothing(run: Callable[..., int], azure: Azure) -> None:
    assert run() == 0

    assert azure.calls == ALL_STEPS
    assert azure.storage.uploads == {'application/python_tutorial_task.py': b'print("task")',
                                     'input/taskdata1.txt': b'words of taskdata1.txt',
                                     'input/taskdata2.txt': b'words of taskdata2.txt',
                                     'input/taskdata3.txt': b'words of taskdata3.txt'}
    assert azure.marks() == []
    [pool] = azure.batch.pool.add.call_args.args
    assert pool.id == 'PythonTutorialPool'
    assert [file.file_path for file in pool.start_task.resource_files] == ['python_tutorial_task.py']
    assert azure.batch.job.add.call_args.args[0].pool_info.pool_id == 'PythonTutorialPool'
    azure.batch.job.delete.assert_called_once_with('PythonTutorialJob')
    azure.batch.pool.delete.assert_called_once_with('PythonTutorialPool')


def test_all_that_a_run_makes_bears_its_mark(run: Callable[..., int], azure: Azure) -> None:
    found = []
    azure.batch.job.patch.side_effect = lambda *_: found.append(azure.marks())

    assert run() == 0
    assert run() == 0

    marks = [{metadata['python_tutorial_run'] for metadata in one_run} for one_run in found]
    assert [len(one_run) for one_run in found] == [5, 5]
    assert [len(mark) for mark in marks] == [1, 1]
    assert marks[0] != marks[1]


def test_the_clients_are_made_from_the_settings_and_are_patient(run: Callable[..., int], azure: Azure) -> None:
    run()

    [credentials] = client.BatchServiceClient.call_args.args
    assert (credentials.auth._account_name, credentials.auth._key) == ('mybatch', KEY)
    assert client.BatchServiceClient.call_args.kwargs == {'batch_url': BATCH_URL}
    assert azure.batch.config.retry_policy.policy.respect_retry_after_header is False
    [url], options = client.BlobServiceClient.call_args
    assert (url, options['credential']) == (STORAGE_URL, {'account_name': 'mystorage', 'account_key': KEY})
    assert isinstance(options['retry_policy'], guards.StorageRetries)


def test_the_tasks_get_a_token_that_can_only_write(run: Callable[..., int], azure: Azure) -> None:
    run()

    for task in azure.batch.task.add_collection.call_args.args[1]:
        arguments = shlex.split(shlex.split(task.command_line)[2])
        sas = parse_qs(arguments[arguments.index('--sastoken') + 1])
        assert (sas['sp'], sas['sr']) == (['w'], ['c'])
        assert arguments[arguments.index('--storageaccount') + 1] == 'mystorage'
        assert arguments[arguments.index('--storagecontainer') + 1] == 'output'
        assert '--storageurl' not in arguments
        assert KEY not in task.command_line


def test_a_job_ends_with_its_last_task_once_all_are_there(run: Callable[..., int], azure: Azure) -> None:
    assert run() == 0

    assert azure.calls.index('patch job') == azure.calls.index('add tasks') + 1
    [job_id, patch] = azure.batch.job.patch.call_args.args
    assert (job_id, patch.on_all_tasks_complete) == ('PythonTutorialJob', 'terminatejob')


def test_the_reader_may_keep_job_and_pool(run: Callable[..., int], azure: Azure, mocker: MockerFixture,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    asked = at_a_terminal(mocker, 'n', 'N', '')

    assert run() == 0

    assert [call.args[0] for call in asked.call_args_list] == [
        'Delete job? [Y/n] ', 'Delete pool? [Y/n] ', '\nPress ENTER to exit...']
    assert azure.things.keys() == {'job', 'pool'}
    account = f'--account-name mybatch --account-endpoint {BATCH_URL}'
    assert capsys.readouterr().out.endswith(
        '  Job [PythonTutorialJob] is kept: the next run replaces it; to delete it: '
        f'az batch job delete --job-id PythonTutorialJob {account}\n'
        '  Pool [PythonTutorialPool] is kept: the next run offers to reuse it; to delete it: '
        f'az batch pool delete --pool-id PythonTutorialPool {account}\n')


def test_yes_asks_nothing_at_a_terminal(run: Callable[..., int], azure: Azure, mocker: MockerFixture) -> None:
    asked = at_a_terminal(mocker)

    assert run('--yes') == 0

    asked.assert_not_called()
    assert azure.calls == ALL_STEPS


def test_a_kept_pool_is_used_again_and_kept_again(run: Callable[..., int], azure: Azure, mocker: MockerFixture,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    at_a_terminal(mocker, '', 'n', '')
    run()
    azure.calls.clear()
    asked = at_a_terminal(mocker, '', '', '', '')

    assert run() == 0

    assert [call.args[0] for call in asked.call_args_list] == [
        'Pool [PythonTutorialPool] exists. Reuse it? [Y/n] ', 'Delete job? [Y/n] ', 'Delete pool? [y/N] ',
        '\nPress ENTER to exit...']
    assert azure.calls == [call for call in ALL_STEPS if call not in ('add pool', 'delete pool')]
    pool_id, patch = azure.batch.pool.patch.call_args.args
    assert pool_id == 'PythonTutorialPool'
    assert [file.file_path for file in patch.start_task.resource_files] == ['python_tutorial_task.py']
    assert azure.batch.pool.resize.call_args.args[1].target_dedicated_nodes == 2


def test_a_pool_of_another_task_script_is_not_used_again(run: Callable[..., int], azure: Azure, project: Path,
                                                         mocker: MockerFixture,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    at_a_terminal(mocker, '', 'n', '')
    run()
    azure.calls.clear()
    capsys.readouterr()
    (project / 'python_tutorial_task.py').write_text('print("another task")')

    assert run('--yes') == 1
    assert 'was made with another task script: run again with --replace-pool' in capsys.readouterr().err
    assert azure.calls == []

    assert run('--yes', '--replace-pool') == 0
    assert azure.calls == ['delete pool', *ALL_STEPS]


def test_the_elapsed_time_does_not_count_what_the_reader_thinks(run: Callable[..., int], azure: Azure,
                                                                mocker: MockerFixture,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    at_a_terminal(mocker, '', 'n', '')
    run()
    capsys.readouterr()
    mocker.patch('builtins.input', side_effect=lambda prompt: print(f'[asked] {prompt}') or '')

    assert run() == 0

    output = capsys.readouterr().out
    start, end = output.index('Sample start: '), output.index('Elapsed time: ')
    assert [match.start() < start or match.start() > end for match in re.finditer(r'\[asked\]', output)] == [True] * 4


def test_a_container_that_is_there_is_used_and_left_as_it_was(run: Callable[..., int], azure: Azure) -> None:
    azure.storage.add('input', {'owner': 'somebody else'}, **{'theirs.txt': b'theirs', 'taskdata1.txt': b'old'})

    assert run() == 0

    assert azure.storage.uploads['input/taskdata1.txt'] == b'words of taskdata1.txt'
    assert azure.storage.blobs == {'input': {'theirs.txt': b'theirs'}}


def test_own_files_number_of_words_and_directory(run: Callable[..., int], azure: Azure, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'my own.txt').write_text('mine')

    assert run('my own.txt', '--numwords', '10', '--output-dir', 'results') == 0

    assert set(azure.storage.uploads) == {'application/python_tutorial_task.py', 'input/my own.txt'}
    [task] = azure.batch.task.add_collection.call_args.args[1]
    assert '--numwords 10 ' in task.command_line
    assert (tmp_path / 'results' / 'my own_OUTPUT.txt').is_file()


def test_a_missing_input_is_one_line_and_touches_nothing(run: Callable[..., int], azure: Azure, tmp_path: Path,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tmp_path / 'nowhere.txt')) == 1

    assert capsys.readouterr() == ('', f'ERROR: Input file {tmp_path}/nowhere.txt does not exist.\n')
    assert azure.calls == []


def test_a_batch_error_is_shown_and_fails_the_run(run: Callable[..., int], azure: Azure,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    azure.batch.pool.add.side_effect = refusal('PoolQuotaReached')

    assert run() == 1

    output, errors = capsys.readouterr()
    assert 'Exception encountered:\nIt is PoolQuotaReached.\n' in output
    assert re.fullmatch('ERROR: .*PoolQuotaReached.*\n', errors)
    assert 'Success!' not in output
    assert azure.marks() == []


def test_a_task_that_failed_fails_the_run_but_not_the_others(run: Callable[..., int], azure: Azure, home: Path,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    def add_tasks(job_id: str, added: list[batchmodels.TaskAddParameter]) -> None:
        azure.add_tasks(job_id, added)
        azure.tasks[1].execution_info.result = batchmodels.TaskExecutionResult.failure
        del azure.storage.blobs['output']['taskdata2_OUTPUT.txt']

    azure.batch.task.add_collection.side_effect = add_tasks

    assert run() == 1

    output, errors = capsys.readouterr()
    assert errors.startswith('ERROR: 1 of 3 completed tasks failed:\n  Task topNtask1: ')
    assert 'Success!' not in output
    assert {path.name for path in home.glob('*.txt')} == {'taskdata1_OUTPUT.txt', 'taskdata3_OUTPUT.txt'}
    assert azure.marks() == []


def test_a_wait_that_ended_is_told_and_what_is_completed_is_fetched(run: Callable[..., int], azure: Azure, home: Path,
                                                                    mocker: MockerFixture,
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
    def wait(*_: object) -> bool:
        azure.tasks.pop().state = 'active'
        del azure.storage.blobs['output']['taskdata3_OUTPUT.txt']
        raise guards.WaitError('The nodes do not come.\n  What to do: wait.')

    mocker.patch.object(client, 'wait_for_tasks_to_complete', wait)

    assert run() == 1

    output, errors = capsys.readouterr()
    assert errors == 'ERROR: The nodes do not come.\n  What to do: wait.\n'
    assert 'Success!' not in output
    assert {path.name for path in home.glob('*.txt')} == {'taskdata1_OUTPUT.txt', 'taskdata2_OUTPUT.txt'}
    assert azure.calls == ALL_STEPS
    assert 'Press ENTER to exit...' in output


def test_results_that_cannot_be_fetched_stay(run: Callable[..., int], azure: Azure, mocker: MockerFixture,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    mocker.patch.object(azure.storage, 'download', side_effect=ConnectionResetError(104, 'reset by peer'))

    assert run() == 1

    assert azure.storage.blobs.keys() == {'output'}
    assert len(azure.storage.blobs['output']) == 3
    assert azure.things == {}
    assert 'The results that were not fetched stay in container [output]; ' in capsys.readouterr().err


def test_results_that_were_fetched_go_whatever_happens_then(run: Callable[..., int], azure: Azure,
                                                            mocker: MockerFixture,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    usual, first = azure.storage.delete_container, iter([True])

    def delete_container(name: str) -> None:
        if next(first, False):
            raise ConnectionResetError(104, 'reset by peer')
        usual(name)

    mocker.patch.object(azure.storage, 'delete_container', delete_container)

    assert run() == 1

    assert azure.marks() == []
    assert 'not fetched' not in capsys.readouterr().err


LOCAL = local_azure.LocalAzure(
    batch_account_name='localbatch', batch_account_key=KEY, batch_account_url='http://127.0.0.1:1234',
    storage_account_name='localstorage', storage_account_key=KEY,
    storage_account_url='http://127.0.0.1:5678/localstorage', workspace=Path('workspace'),
    page_url='http://127.0.0.1:1234/page/?token=mytoken')


@pytest.mark.usefixtures('no_account')
def test_without_an_account_the_same_steps_run_locally(run: Callable[..., int], azure: Azure, mocker: MockerFixture,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    @contextmanager
    def start() -> Iterator[local_azure.LocalAzure]:
        azure.calls.append('start services')
        yield LOCAL
        azure.calls.append('stop services')

    mocker.patch.object(local_azure, 'start', start)

    assert run() == 0

    notice, address, rest = capsys.readouterr().out.split('\n', 2)
    assert address == 'Watch it at http://127.0.0.1:1234/page/?token=mytoken'
    assert str(local_azure.default_workspace()) in notice and 'to use Azure' in notice
    assert rest.startswith('Sample start: ')
    assert azure.calls == ['start services', *ALL_STEPS, 'stop services']
    assert client.BatchServiceClient.call_args.kwargs == {'batch_url': 'http://127.0.0.1:1234'}
    for task in azure.batch.task.add_collection.call_args.args[1]:
        assert '--storageaccount localstorage ' in task.command_line
        assert task.command_line.endswith(" --storageurl http://127.0.0.1:5678/localstorage'")
        assert task.resource_files[0].http_url.startswith('http://127.0.0.1:5678/localstorage/input/taskdata')


@pytest.mark.usefixtures('no_account')
def test_what_keeps_the_local_services_from_starting_is_one_line(run: Callable[..., int], mocker: MockerFixture,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    mocker.patch.object(local_azure, 'start', side_effect=local_azure.LocalAzureError('No npm registry.'))

    assert run() == 1

    assert capsys.readouterr().err == 'ERROR: No npm registry.\n'
