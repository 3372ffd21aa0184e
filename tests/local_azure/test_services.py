"""Both services together: with stand-ins where they are not what matters, with Azurite itself where it is."""
from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from azure.batch import BatchServiceClient
from azure.storage.blob import BlobServiceClient

from common import local_azure
from common.local_azure import LocalAzureError, services
from tests.leftovers import eventually, needs_proc
from tests.local_azure.running import PROJECT, STAND_IN, command, containers_of, pools_of, read_until_ready

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='the local services run on Linux and macOS')

Processes = Callable[[], dict[int, str]]


# The ports and the certificate.

def test_ports_are_those_asked_for(stand_in: Path, tmp_path: Path) -> None:
    with socket.create_server(('127.0.0.1', 0)) as one, socket.create_server(('127.0.0.1', 0)) as two:
        batch_port, blob_port = one.getsockname()[1], two.getsockname()[1]

    with local_azure.start(tmp_path / 'workspace', batch_port=batch_port, blob_port=blob_port) as account:
        assert account.batch_account_url == f'http://127.0.0.1:{batch_port}'
        assert account.storage_account_url == f'http://127.0.0.1:{blob_port}/localstorage'


@pytest.mark.parametrize('option', ['batch_port', 'blob_port'])
def test_port_in_use_is_named(stand_ins: Path, tmp_path: Path, option: str) -> None:
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalAzureError, match=f'Port {port} on 127.0.0.1 cannot be used: Address already in use'):
            with local_azure.start(tmp_path / 'workspace', **{option: port}):
                pytest.fail('started')


def test_same_port_for_both_is_refused(stand_ins: Path, tmp_path: Path) -> None:
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]

    with pytest.raises(LocalAzureError, match=f'Port {port} on 127.0.0.1 cannot be used'):
        with local_azure.start(tmp_path / 'workspace', batch_port=port, blob_port=port):
            pytest.fail('started')


def test_certificate_without_its_key_is_refused(stand_ins: Path, tmp_path: Path) -> None:
    with pytest.raises(LocalAzureError, match='give both, or neither'):
        with local_azure.start(tmp_path / 'workspace', cert=stand_ins):
            pytest.fail('started')


@pytest.mark.parametrize(('name', 'reason'), [('stand-in.js', 'PEM'), ('missing.pem', 'No such file or directory')])
def test_certificate_that_is_none_is_named(stand_ins: Path, tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(LocalAzureError, match=f'{name}.*{reason}'):
        with local_azure.start(tmp_path / 'workspace', cert=tmp_path / name, key=tmp_path / name):
            pytest.fail('started')


# What surrounds the services.

def test_services_get_none_of_the_callers_credentials(
        stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_services_are_reached_around_a_dead_proxy_which_is_back_afterwards(
        azurite_install: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY', 'http_proxy', 'https_proxy', 'all_proxy'):
        monkeypatch.setenv(name, 'http://127.0.0.1:9')
    monkeypatch.delenv('no_proxy', raising=False)
    monkeypatch.setenv('NO_PROXY', 'intranet.example')
    before = dict(os.environ)

    with local_azure.start(tmp_path / 'workspace') as account:
        assert 'intranet.example' in os.environ['NO_PROXY']
        assert pools_of(account) == containers_of(account) == []

    assert dict(os.environ) == before


def test_module_needs_neither_an_azure_sdk_nor_what_windows_lacks() -> None:
    program = ('import sys; sys.modules["fcntl"] = None; import common.local_azure.__main__; '
               'print([name for name in sys.modules if name.partition(".")[0] in ("azure", "msrest", "requests")])')

    done = subprocess.run([sys.executable, '-c', program], cwd=PROJECT, capture_output=True, text=True)

    assert (done.stdout, done.stderr) == ('[]\n', '')


def test_windows_is_told_to_use_azure(stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services.sys, 'platform', 'win32')

    with pytest.raises(LocalAzureError, match='run on Linux and macOS, not on Windows'):
        with local_azure.start(tmp_path / 'workspace'):
            pytest.fail('started')


# How it ends.

def test_error_of_the_caller_passes_through_and_stops_everything(
        stand_ins: Path, tmp_path: Path, processes: Processes) -> None:
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
        monkeypatch.setattr(services, '_batch_command', lambda *_: [sys.executable, '-c', 'exit("Error: broken")'])

    with pytest.raises(LocalAzureError, match=f'The local {broken} service.* did not start: Error: broken'):
        with local_azure.start(tmp_path / 'workspace'):
            pytest.fail('started')

    assert eventually(lambda: not processes()), processes()


@needs_proc
@pytest.mark.parametrize('slow', ['storage', 'batch'])
def test_services_of_a_killed_run_are_waited_for(
        stand_ins: Path, tmp_path: Path, processes: Processes, capsys: pytest.CaptureFixture[str], slow: str) -> None:
    workspace = tmp_path / 'workspace'
    slow_stand_in = tmp_path / 'slow.js'
    slow_stand_in.write_text(STAND_IN.replace('server.close()', 'setTimeout(() => server.close(), 1000)'))
    scripts = {'storage': stand_ins, 'batch': stand_ins, slow: slow_stand_in}
    with command(workspace, **scripts) as killed:
        read_until_ready(killed)
        killed.kill()
    assert eventually(lambda: len(processes()) == 1)

    with local_azure.start(workspace):
        pass

    assert capsys.readouterr().err == f'Waiting for the services of an earlier run in {workspace} to end...\n'


# With Azurite itself.

def test_both_services_answer_their_sdks(
        batch_client: BatchServiceClient, blob_client: BlobServiceClient) -> None:
    assert not batch_client.pool.exists('made-by-nobody')
    with blob_client.create_container('local-azure') as container:
        container.upload_blob('a blob', b'its content')
        assert container.download_blob('a blob').readall() == b'its content'
        container.delete_container()


def test_two_workspaces_run_at_once_and_apart(azurite_install: Path, tmp_path: Path) -> None:
    with local_azure.start(tmp_path / 'one') as one, local_azure.start(tmp_path / 'two') as two:
        assert (one.workspace, two.workspace) == (tmp_path / 'one', tmp_path / 'two')
        with BlobServiceClient(one.storage_account_url, credential={
                'account_name': one.storage_account_name, 'account_key': one.storage_account_key}) as client:
            client.create_container('only-here').close()

        assert containers_of(one) == ['only-here']
        assert containers_of(two) == []
        assert pools_of(one) == pools_of(two) == []
