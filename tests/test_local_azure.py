"""The door to the local services: with a stand-in for Azurite where it must go wrong, with Azurite itself else."""
from __future__ import annotations

import base64
import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from azure.batch import BatchServiceClient
from azure.batch.batch_auth import SharedKeyCredentials
from azure.batch.models import BatchErrorException, PoolPatchParameter
from azure.storage.blob import BlobServiceClient

from common import azurite, local_azure
from common.batch_service.settings import Settings
from common.local_azure import LocalAzure, LocalAzureError
from tests.leftovers import eventually, needs_proc
from tests.stand_in import make_certificate

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='the local services run on Linux and macOS')

PROJECT = Path(__file__).resolve().parents[1]
VARIABLES = ['AZURE_BATCH_ACCOUNT', 'AZURE_BATCH_ACCESS_KEY', 'AZURE_BATCH_ENDPOINT', 'AZURE_STORAGE_ACCOUNT',
             'AZURE_STORAGE_KEY', 'AZURE_STORAGE_SERVICE_ENDPOINT', 'AZURE_STORAGE_CONNECTION_STRING']
STAND_IN = '''
require("fs").writeFileSync("environment.json", JSON.stringify(process.env));
const server = require("http").createServer((request, response) => response.end());
const port = Number(process.argv[process.argv.indexOf("--blobPort") + 1]);
server.listen(port, "127.0.0.1", () => {
  console.log(`Stand-in listens on http://127.0.0.1:${server.address().port}`);
});
process.once("SIGTERM", () => server.close());
'''

Processes = Callable[[], dict[int, str]]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The script that runs in Azurite's place."""
    script = tmp_path / 'stand-in.js'
    script.write_text(STAND_IN)
    monkeypatch.setattr(azurite, 'install', lambda: script)
    return script


@contextmanager
def command(workspace: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The door as a command, in a process group of its own as a shell would have it."""
    with subprocess.Popen([sys.executable, '-m', 'common.local_azure', '--workspace', str(workspace), *options],
                          cwd=PROJECT, start_new_session=True, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until_ready(process: subprocess.Popen[str]) -> list[str]:
    lines = []
    for line in process.stdout:
        if line == '# ready\n':
            return lines
        lines.append(line.rstrip('\n'))
    pytest.fail(process.stderr.read())


def variables_in(lines: list[str]) -> dict[str, str]:
    """What a shell takes from export lines."""
    return dict(shlex.split(line)[1].split('=', 1) for line in lines)


def make_container(name: str, variables: dict[str, str]) -> None:
    with BlobServiceClient.from_connection_string(
            variables['AZURE_STORAGE_CONNECTION_STRING'], retry_total=0) as client:
        client.create_container(name).close()


def containers_of(account: LocalAzure) -> list[str]:
    with BlobServiceClient(account.storage_account_url, retry_total=0, credential={
            'account_name': account.storage_account_name, 'account_key': account.storage_account_key}) as client:
        return [container.name for container in client.list_containers()]


def pools_of(account: LocalAzure) -> list[str]:
    credentials = SharedKeyCredentials(account.batch_account_name, account.batch_account_key)
    with BatchServiceClient(credentials, batch_url=account.batch_account_url) as client:
        client.config.retry_policy.retries = 0
        return [pool.id for pool in client.pool.list()]


# What is in the workspace.

def test_keys_are_random_kept_and_readable_by_the_owner_alone(stand_in: Path, tmp_path: Path) -> None:
    old_mask = os.umask(0)
    try:
        with local_azure.start(tmp_path / 'one') as first:
            pass
    finally:
        os.umask(old_mask)
    with local_azure.start(tmp_path / 'one') as again, local_azure.start(tmp_path / 'two') as other:
        keys = [first.batch_account_key, first.storage_account_key,
                other.batch_account_key, other.storage_account_key]
        assert (again.batch_account_key, again.storage_account_key) == tuple(keys[:2])

    assert len(set(keys)) == 4
    assert {len(base64.b64decode(key)) for key in keys} == {64}
    for path, mode in (('one', 0o700), ('one/batch.key', 0o600), ('one/storage.key', 0o600)):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == mode, path


@pytest.mark.parametrize('content', ['', 'no base64', 'schlüssel'])
def test_file_that_holds_no_key_is_named(stand_in: Path, tmp_path: Path, content: str) -> None:
    key_file = tmp_path / 'workspace' / 'storage.key'
    key_file.parent.mkdir()
    key_file.write_text(content)

    with pytest.raises(LocalAzureError) as raised:
        with local_azure.start(key_file.parent):
            pytest.fail('started')

    assert str(raised.value) == f'{key_file} holds no account key: delete it, and a new one is made.'


def test_workspace_in_use_is_refused_at_once_and_goes_on_working(
        stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with local_azure.start(tmp_path / 'workspace') as account:
        with pytest.raises(LocalAzureError, match=f'Another run is using {tmp_path / "workspace"}: '):
            with local_azure.start(tmp_path / 'workspace'):
                pytest.fail('started twice')

        assert capsys.readouterr().err == ''
        assert pools_of(account) == []


def test_workspace_that_is_a_file_is_named(stand_in: Path, tmp_path: Path) -> None:
    with pytest.raises(LocalAzureError) as raised:
        with local_azure.start(stand_in):
            pytest.fail('started')

    assert str(raised.value) == f'The workspace {stand_in} cannot be used: Not a directory.'


# The ports and the certificate.

def test_ports_are_those_asked_for(stand_in: Path, tmp_path: Path) -> None:
    with socket.create_server(('127.0.0.1', 0)) as one, socket.create_server(('127.0.0.1', 0)) as two:
        batch_port, blob_port = one.getsockname()[1], two.getsockname()[1]

    with local_azure.start(tmp_path / 'workspace', batch_port=batch_port, blob_port=blob_port) as account:
        assert account.batch_account_url == f'http://127.0.0.1:{batch_port}'
        assert account.storage_account_url == f'http://127.0.0.1:{blob_port}/localstorage'


@pytest.mark.parametrize('option', ['batch_port', 'blob_port'])
def test_port_in_use_is_named(stand_in: Path, tmp_path: Path, option: str) -> None:
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalAzureError, match=f'Port {port} on 127.0.0.1 cannot be used: Address already in use'):
            with local_azure.start(tmp_path / 'workspace', **{option: port}):
                pytest.fail('started')


def test_same_port_for_both_is_refused(stand_in: Path, tmp_path: Path) -> None:
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]

    with pytest.raises(LocalAzureError, match=f'Port {port} on 127.0.0.1 cannot be used'):
        with local_azure.start(tmp_path / 'workspace', batch_port=port, blob_port=port):
            pytest.fail('started')


def test_certificate_without_its_key_is_refused(stand_in: Path, tmp_path: Path) -> None:
    with pytest.raises(LocalAzureError, match='give both, or neither'):
        with local_azure.start(tmp_path / 'workspace', cert=stand_in):
            pytest.fail('started')


@pytest.mark.parametrize(('name', 'reason'), [('stand-in.js', 'PEM'), ('missing.pem', 'No such file or directory')])
def test_certificate_that_is_none_is_named(stand_in: Path, tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(LocalAzureError, match=f'{name}.*{reason}'):
        with local_azure.start(tmp_path / 'workspace', cert=tmp_path / name, key=tmp_path / name):
            pytest.fail('started')


# What surrounds the services.

def test_services_get_none_of_the_callers_credentials(
        stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A second stand-in tells what the Batch service gets.
    monkeypatch.setattr(local_azure, '_batch_command', lambda *_: azurite.command(stand_in, tmp_path, 0, None, None))
    monkeypatch.setattr(local_azure, '_PROJECT', tmp_path)
    for name in ('AZURE_STORAGE_KEY', 'AZURE_CLIENT_SECRET', 'AZ_BATCH_AUTHENTICATION_TOKEN', 'ARM_CLIENT_SECRET'):
        monkeypatch.setenv(name, 'the secret')
    monkeypatch.setenv('ORDINARY', 'kept')

    with local_azure.start(tmp_path / 'workspace'):
        pass

    for directory in (tmp_path / 'workspace', tmp_path):
        environment = json.loads((directory / 'environment.json').read_text())
        assert environment['ORDINARY'] == 'kept'
        assert 'the secret' not in environment.values()


@needs_proc
def test_keys_are_in_no_command_line_and_no_representation(
        stand_in: Path, tmp_path: Path, processes: Processes) -> None:
    with local_azure.start(tmp_path / 'workspace') as account:
        shown = ' '.join([repr(account), *processes().values()])

    assert str(tmp_path / 'workspace') in shown
    assert account.batch_account_key not in shown and account.storage_account_key not in shown


def test_callers_directory_does_not_hide_the_project(
        stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'common').mkdir()
    (tmp_path / 'common' / '__init__.py').write_text('raise SystemExit("the wrong package")')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PYTHONSAFEPATH', '1')

    with local_azure.start(Path('workspace')) as account:
        assert pools_of(account) == []

    assert (tmp_path / 'workspace' / 'batch').is_dir()


def test_proxy_is_not_used_for_the_services_and_is_back_afterwards(
        stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY', 'http_proxy', 'https_proxy', 'all_proxy'):
        monkeypatch.setenv(name, 'http://127.0.0.1:9')
    monkeypatch.delenv('no_proxy', raising=False)
    monkeypatch.setenv('NO_PROXY', 'intranet.example')
    before = dict(os.environ)

    with local_azure.start(tmp_path / 'workspace') as account:
        assert 'intranet.example' in os.environ['NO_PROXY']
        assert pools_of(account) == []

    assert dict(os.environ) == before


def test_module_needs_neither_an_azure_sdk_nor_what_windows_lacks() -> None:
    program = ('import sys; sys.modules["fcntl"] = None; import common.local_azure; '
               'print([name for name in sys.modules if name.partition(".")[0] in ("azure", "msrest", "requests")])')

    done = subprocess.run([sys.executable, '-c', program], cwd=PROJECT, capture_output=True, text=True)

    assert (done.stdout, done.stderr) == ('[]\n', '')


def test_windows_is_told_to_use_azure(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_azure.sys, 'platform', 'win32')

    with pytest.raises(LocalAzureError, match='run on Linux and macOS, not on Windows'):
        with local_azure.start(tmp_path / 'workspace'):
            pytest.fail('started')


# How it ends.

def test_error_of_the_caller_passes_through_and_stops_everything(
        stand_in: Path, tmp_path: Path, processes: Processes) -> None:
    with pytest.raises(BlockingIOError, match="the caller's own"):
        with local_azure.start(tmp_path / 'workspace'):
            raise BlockingIOError("the caller's own")

    assert processes() == {}
    with local_azure.start(tmp_path / 'workspace'):
        pass


@pytest.mark.parametrize('broken', ['storage', 'Batch'])
def test_when_one_service_cannot_start_the_other_is_stopped(
        stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: Processes, broken: str) -> None:
    if broken == 'storage':
        stand_in.write_text('throw new Error("broken")')
    else:
        monkeypatch.setattr(local_azure, '_batch_command', lambda *_: [sys.executable, '-c', 'exit("Error: broken")'])

    with pytest.raises(LocalAzureError, match=f'The local {broken} service.* did not start: Error: broken'):
        with local_azure.start(tmp_path / 'workspace'):
            pytest.fail('started')

    assert eventually(lambda: not processes()), processes()


@pytest.mark.parametrize('slow', ['storage', 'Batch'])
def test_services_of_a_killed_run_are_waited_for(
        stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], slow: str) -> None:
    workspace = tmp_path / 'workspace'
    slow_stand_in = tmp_path / 'slow.js'
    slow_stand_in.write_text(STAND_IN.replace('server.close()', 'setTimeout(() => server.close(), 1000)'))
    scripts = {'storage': str(stand_in), 'Batch': str(stand_in), slow: str(slow_stand_in)}
    program = f'''
from pathlib import Path
from common import azurite, local_azure
from common.batch_service.settings import Settings
azurite.install = lambda: Path({scripts['storage']!r})
local_azure._batch_command = lambda *_: azurite.command(Path({scripts['Batch']!r}), Path(), 0, None, None)
local_azure._PROJECT = Path({str(tmp_path)!r})
with local_azure.start(Path({str(workspace)!r})):
    print('started', flush=True)
    input()
'''
    with subprocess.Popen([sys.executable, '-c', program], cwd=PROJECT, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as killed:
        assert killed.stdout.readline() == 'started\n'
        killed.kill()

    with local_azure.start(workspace):
        pass

    assert capsys.readouterr().err == f'Waiting for the services of an earlier run in {workspace} to end...\n'


# With Azurite itself.

def test_both_services_answer_their_sdks(
        batch_client: BatchServiceClient, blob_client: BlobServiceClient) -> None:
    assert [pool.id for pool in batch_client.pool.list()] == []
    with blob_client.create_container('local-azure') as container:
        container.upload_blob('a blob', b'its content')
        assert container.download_blob('a blob').readall() == b'its content'
        container.delete_container()


def test_two_workspaces_run_at_once_and_apart(azurite_install: Path, tmp_path: Path) -> None:
    with local_azure.start(tmp_path / 'one') as one, local_azure.start(tmp_path / 'two') as two:
        with BlobServiceClient(one.storage_account_url, credential={
                'account_name': one.storage_account_name, 'account_key': one.storage_account_key}) as client:
            client.create_container('only-here').close()

        assert containers_of(one) == ['only-here']
        assert containers_of(two) == []
        assert pools_of(one) == pools_of(two) == []


def test_storage_is_reached_around_a_dead_proxy(
        azurite_install: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('HTTP_PROXY', 'http_proxy', 'ALL_PROXY', 'all_proxy'):
        monkeypatch.setenv(name, 'http://127.0.0.1:9')

    with local_azure.start(tmp_path / 'workspace') as account:
        assert containers_of(account) == []


@needs_proc
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_command_ends_well_on_a_signal_and_leaves_nothing(
        azurite_install: Path, tmp_path: Path, processes: Processes, number: int) -> None:
    with command(tmp_path / 'workspace') as process:
        make_container('kept', variables_in(read_until_ready(process)))
        assert len(processes()) >= 3
        # As the terminal does: to the whole group.
        os.killpg(process.pid, number)
        output, errors = process.communicate()

    assert (process.returncode, output, errors) == (0, '', '')
    assert eventually(lambda: not processes()), processes()
    with local_azure.start(tmp_path / 'workspace') as account:
        assert containers_of(account) == ['kept']


@needs_proc
def test_signal_while_starting_leaves_nothing(azurite_install: Path, tmp_path: Path, processes: Processes) -> None:
    with command(tmp_path / 'workspace') as process:
        assert eventually(lambda: any('main.js' in line for line in processes().values()))
        process.terminate()
        output, errors = process.communicate()

    assert (process.returncode, output, errors) == (0, '', '')
    assert eventually(lambda: not processes()), processes()


@needs_proc
def test_killed_command_leaves_no_process_and_a_workspace_that_works(
        azurite_install: Path, tmp_path: Path, processes: Processes) -> None:
    with command(tmp_path / 'workspace') as process:
        make_container('kept', variables_in(read_until_ready(process)))
        process.kill()
    # At once, while the services may still be ending.
    with local_azure.start(tmp_path / 'workspace') as account:
        assert containers_of(account) == ['kept']
        assert pools_of(account) == []

    assert eventually(lambda: not processes()), processes()


@needs_proc
@pytest.mark.parametrize(('service', 'name'), [('main.js', 'The local storage service (Azurite)'),
                                               ('common.batch_service', 'The local Batch service')])
def test_command_ends_with_one_line_when_a_service_does(
        azurite_install: Path, tmp_path: Path, processes: Processes, service: str, name: str) -> None:
    with command(tmp_path / 'workspace') as process:
        read_until_ready(process)
        os.kill(next(id for id, line in processes().items() if f'{service} ' in line), signal.SIGKILL)
        errors = process.communicate()[1]

    assert process.returncode == 1
    assert errors == f'ERROR: {name} has ended: SIGKILL\n'
    assert eventually(lambda: not processes()), processes()


def test_export_lines_set_up_any_client_in_a_shell(azurite_install: Path, tmp_path: Path) -> None:
    program = '''
import os
from azure.batch import BatchServiceClient
from azure.batch.batch_auth import SharedKeyCredentials
from azure.batch.models import BatchErrorException, PoolPatchParameter
from azure.storage.blob import BlobServiceClient
value = os.environ
credentials = SharedKeyCredentials(value['AZURE_BATCH_ACCOUNT'], value['AZURE_BATCH_ACCESS_KEY'])
print(list(BatchServiceClient(credentials, batch_url=value['AZURE_BATCH_ENDPOINT']).pool.list()))
print(list(BlobServiceClient.from_connection_string(value['AZURE_STORAGE_CONNECTION_STRING']).list_containers()))
account = {'account_name': value['AZURE_STORAGE_ACCOUNT'], 'account_key': value['AZURE_STORAGE_KEY']}
print(list(BlobServiceClient(value['AZURE_STORAGE_SERVICE_ENDPOINT'], credential=account).list_containers()))
'''
    with command(tmp_path / 'workspace') as process:
        lines = read_until_ready(process)
        done = subprocess.run(['bash', '-euc', 'eval "$1"; "$2" -c "$3"', 'bash', '\n'.join(lines),
                               sys.executable, program], capture_output=True, text=True)

    assert (done.stdout, done.stderr) == ('[]\n[]\n[]\n', '')
    assert [line.partition("='")[0] for line in lines] == [f'export {name}' for name in VARIABLES]
    assert all(line.endswith("'") for line in lines)


def test_command_speaks_https_with_a_certificate(
        azurite_install: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = make_certificate(tmp_path)
    monkeypatch.setenv('REQUESTS_CA_BUNDLE', str(cert))

    with local_azure.start(tmp_path / 'workspace', cert=cert, key=key) as account:
        assert account.batch_account_url.startswith('https://127.0.0.1:')
        assert account.storage_account_url.startswith('https://127.0.0.1:')
        assert pools_of(account) == containers_of(account) == []
    with command(tmp_path / 'workspace', '--cert', str(cert), '--key', str(key)) as process:
        variables = variables_in(read_until_ready(process))

    assert variables['AZURE_BATCH_ENDPOINT'].startswith('https://127.0.0.1:')
    assert variables['AZURE_STORAGE_CONNECTION_STRING'].startswith('DefaultEndpointsProtocol=https;')


def test_troubles_asked_for_are_those_of_the_service(stand_in: Path, tmp_path: Path) -> None:
    with local_azure.start(tmp_path / 'workspace', settings=Settings(busy_share=1.0)) as account:
        assert is_busy(account.batch_account_name, account.batch_account_key, account.batch_account_url)


def test_command_passes_its_options_on_and_logs_requests(azurite_install: Path, tmp_path: Path) -> None:
    with command(tmp_path / 'workspace', '--busy-share', '1', '--verbose') as process:
        variables = variables_in(read_until_ready(process))
        assert is_busy(*(variables[name] for name in VARIABLES[:3]))

    log = tmp_path / 'workspace' / 'batch.log'
    assert eventually(lambda: re.search('PATCH /pools/p (429|503)', log.read_text()) is not None)


def is_busy(name: str, key: str, url: str) -> bool:
    """Whether the Batch service asks to try again later."""
    with BatchServiceClient(SharedKeyCredentials(name, key), batch_url=url) as client:
        client.config.retry_policy.retries = 0
        with pytest.raises(BatchErrorException) as raised:
            client.pool.patch('p', PoolPatchParameter())
    return raised.value.error.code in ('TooManyRequests', 'ServerBusy')


# The command line.

def test_command_shows_a_foreseeable_error_as_one_line(tmp_path: Path) -> None:
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        with command(tmp_path / 'workspace', '--blob-port', str(port)) as process:
            output, errors = process.communicate()

    assert (process.returncode, output) == (1, '')
    assert errors.startswith(f'ERROR: Port {port} ') and errors.count('\n') == 1


@pytest.mark.parametrize('port', ['-1', '65536', 'x'])
def test_command_refuses_what_is_no_port(tmp_path: Path, port: str) -> None:
    with command(tmp_path / 'workspace', f'--batch-port={port}') as process:
        errors = process.communicate()[1]

    assert process.returncode == 2
    assert '--batch-port' in errors and port in errors
    assert not (tmp_path / 'workspace').exists()


def test_help_tells_how_to_use_it() -> None:
    done = subprocess.run([sys.executable, '-m', 'common.local_azure', '--help'], cwd=PROJECT,
                          capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, '')
    options = ['--workspace', '--batch-port', '--blob-port', '--cert', '--key']
    for word in [*VARIABLES, *options, '# ready', 'REQUESTS_CA_BUNDLE', 'NO_PROXY', 'exit code']:
        assert word in done.stdout, word
