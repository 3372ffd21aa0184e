"""The local Azure as a command: what it prints, how it ends, and what it refuses."""
from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from azure.batch import BatchServiceClient
from azure.batch.batch_auth import SharedKeyCredentials
from azure.batch.models import BatchErrorException, PoolPatchParameter

from common import local_azure
from tests.leftovers import eventually, needs_proc
from tests.local_azure.running import (
    PROJECT, VARIABLES, command, containers_of, make_container, pools_of, read_until_ready,
    variables_in)
from tests.stand_in import make_certificate

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='the local services run on Linux and macOS')

Processes = Callable[[], dict[int, str]]
NOBODY_READS = 'ERROR: Nobody reads the output any more, so the services are stopped.\n'


# What it prints.

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


def test_with_a_certificate_it_speaks_https(azurite_install: Path, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = make_certificate(tmp_path)
    monkeypatch.setenv('REQUESTS_CA_BUNDLE', str(cert))

    with command(tmp_path / 'workspace', '--cert', str(cert), '--key', str(key)) as process:
        variables = variables_in(read_until_ready(process))
        make_container('over-https', variables)
        assert not is_busy(*(variables[name] for name in VARIABLES[:3]))

    assert variables['AZURE_BATCH_ENDPOINT'].startswith('https://127.0.0.1:')
    assert variables['AZURE_STORAGE_CONNECTION_STRING'].startswith('DefaultEndpointsProtocol=https;')


def test_troubles_asked_for_are_those_of_the_service_and_requests_are_logged(stand_in: Path, tmp_path: Path) -> None:
    with command(tmp_path / 'workspace', '--busy-share', '1', '--verbose', storage=stand_in) as process:
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


# How it ends.

@needs_proc
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, getattr(signal, 'SIGHUP', None)])
def test_signal_ends_it_well_and_leaves_nothing(
        stand_in: Path, tmp_path: Path, processes: Processes, number: int) -> None:
    with command(tmp_path / 'workspace', storage=stand_in) as process:
        read_until_ready(process)
        assert len(processes()) >= 3
        # As the terminal does: to the whole group.
        os.killpg(process.pid, number)
        output, errors = process.communicate()

    assert (process.returncode, output, errors) == (0, '', '')
    assert eventually(lambda: not processes()), processes()


@needs_proc
def test_second_signal_does_not_cut_the_stopping_short(
        stand_in: Path, tmp_path: Path, processes: Processes) -> None:
    slow = tmp_path / 'slow.js'
    slow.write_text(stand_in.read_text().replace(
        'server.close()', 'console.log("told"), setTimeout(() => server.close(), 300)'))
    with command(tmp_path / 'workspace', storage=slow, batch=stand_in) as process:
        read_until_ready(process)
        process.send_signal(signal.SIGHUP)
        assert eventually(lambda: 'told' in (tmp_path / 'workspace' / 'azurite.log').read_text())
        process.send_signal(signal.SIGHUP)
        process.terminate()
        output, errors = process.communicate()
        left = processes()

    assert (process.returncode, output, errors) == (0, '', '')
    assert left == {}


def test_under_nohup_the_end_of_the_terminal_is_not_its_own(stand_in: Path, tmp_path: Path) -> None:
    with command(tmp_path / 'workspace', storage=stand_in, batch=stand_in, before=('nohup',)) as process:
        read_until_ready(process)
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.terminate()
        process.communicate()

    assert process.returncode == 0


@needs_proc
def test_signal_while_starting_leaves_nothing(stand_in: Path, tmp_path: Path, processes: Processes) -> None:
    mute = tmp_path / 'mute.js'
    mute.write_text('setInterval(() => {}, 1000)')
    with command(tmp_path / 'workspace', storage=mute) as process:
        assert eventually(lambda: any('mute.js' in line for line in processes().values()
                                      if 'common.local_azure' not in line))
        process.terminate()
        output, errors = process.communicate()

    assert (process.returncode, output, errors) == (0, '', '')
    assert eventually(lambda: not processes()), processes()


@needs_proc
@pytest.mark.parametrize('end', ['terminate', 'kill'])
def test_ended_command_leaves_no_process_and_a_workspace_that_works(
        azurite_install: Path, tmp_path: Path, processes: Processes, end: str) -> None:
    with command(tmp_path / 'workspace') as process:
        make_container('kept', variables_in(read_until_ready(process)))
        getattr(process, end)()
    # At once: after a kill, the services may still be ending.
    with local_azure.start(tmp_path / 'workspace') as account:
        assert containers_of(account) == ['kept']
        assert pools_of(account) == []

    assert eventually(lambda: not processes()), processes()


@needs_proc
@pytest.mark.parametrize(('service', 'name'), [('stand-in.js', 'The local storage service (Azurite)'),
                                               ('common.batch_service', 'The local Batch service')])
def test_end_of_a_service_is_told_in_one_line(
        stand_in: Path, tmp_path: Path, processes: Processes, service: str, name: str) -> None:
    with command(tmp_path / 'workspace', storage=stand_in) as process:
        read_until_ready(process)
        os.kill(next(id for id, line in processes().items() if f'{service} --' in line), signal.SIGKILL)
        errors = process.communicate()[1]

    assert process.returncode == 1
    assert errors == f'ERROR: {name} has ended: SIGKILL\n'
    assert eventually(lambda: not processes()), processes()


@needs_proc
@pytest.mark.parametrize('lines', [0, 1])
def test_output_that_nobody_reads_ends_it_with_one_line(
        stand_in: Path, tmp_path: Path, processes: Processes, lines: int) -> None:
    with command(tmp_path / 'workspace', storage=stand_in, batch=stand_in) as process:
        for _ in range(lines):
            process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        process.wait()

    assert (process.returncode, errors) == (1, NOBODY_READS)
    assert eventually(lambda: not processes()), processes()


@pytest.mark.parametrize('redirection', ['>azure.env', '>&-'])
def test_output_may_be_a_file_or_closed(stand_in: Path, tmp_path: Path, redirection: str) -> None:
    shell = ('bash', '-c', f'cd "$0"; exec "$@" {redirection}', str(tmp_path))
    with command(tmp_path / 'workspace', storage=stand_in, batch=stand_in, before=shell) as process:
        if redirection == '>azure.env':
            assert eventually(lambda: (tmp_path / 'azure.env').exists())
            assert eventually(lambda: (tmp_path / 'azure.env').read_text().count('\n# ready\n# To watch'))
        else:
            assert eventually((tmp_path / 'workspace' / 'environment.json').exists)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.terminate()
        output, errors = process.communicate()

    assert (process.returncode, output, errors) == (0, '', '')


def test_the_page_to_watch_is_named_below_the_settings_and_opened_on_demand(
        azurite_install: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = tmp_path / 'browser'
    browser.write_text('#!/bin/sh\necho "$1" > "$0.new"; mv "$0.new" "$0.address"\n')
    browser.chmod(0o755)
    monkeypatch.setenv('BROWSER', str(browser))
    with command(tmp_path / 'workspace', '--open') as process:
        endpoint = variables_in(read_until_ready(process))['AZURE_BATCH_ENDPOINT']
        address = process.stdout.readline().removeprefix('# To watch pools, nodes, jobs and tasks: ')
        assert re.fullmatch(rf'{endpoint}/page/\?token=[\w-]{{32}}\n', address)
        assert 'Azure Batch on this machine' in requests.get(address.strip(), timeout=10).text
        assert eventually((tmp_path / 'browser.address').exists)

    assert (tmp_path / 'browser.address').read_text() == address
    assert address.rpartition('=')[2].strip() not in (tmp_path / 'workspace' / 'batch.log').read_text()


# What it refuses, and how it explains itself.

def test_foreseeable_error_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        with command(tmp_path / 'workspace', '--blob-port', str(port)) as process:
            output, errors = process.communicate()

    assert (process.returncode, output) == (1, '')
    assert errors.startswith(f'ERROR: Port {port} ') and errors.count('\n') == 1


@pytest.mark.parametrize(('option', 'value', 'refusal'), [
    ('--batch-port', '-1', '-1 is not a whole number from 0 to 65535'),
    ('--blob-port', '65536', '65536 is not a whole number from 0 to 65535'),
    ('--batch-port', 'abc', "'abc' is not a whole number from 0 to 65535"),
    ('--core-quota', '-1', '-1 is not a whole number from 0 to 1000000'),
    ('--busy-share', 'nan', 'nan is not a number from 0 to 1'),
])
def test_number_out_of_range_is_refused_with_the_range(
        tmp_path: Path, option: str, value: str, refusal: str) -> None:
    with command(tmp_path / 'workspace', option, value) as process:
        output, errors = process.communicate()

    assert (process.returncode, output) == (2, '')
    assert errors.splitlines()[-1] == f'python -m common.local_azure: error: argument {option}: {refusal}'
    assert not (tmp_path / 'workspace').exists()


def test_help_tells_how_to_use_it(tmp_path: Path) -> None:
    environment = os.environ | {'AZURE_BATCH_TUTORIAL_WORKSPACE': str(tmp_path), 'COLUMNS': '300'}
    done = subprocess.run([sys.executable, '-m', 'common.local_azure', '--help'], cwd=PROJECT,
                          capture_output=True, text=True, env=environment)

    assert (done.returncode, done.stderr) == (0, '')
    options = ['--workspace', '--batch-port', '--blob-port', '--cert', '--key']
    for word in [*VARIABLES, *options, '# ready', 'REQUESTS_CA_BUNDLE', 'NO_PROXY', 'exit code',
                 'AZURE_BATCH_TUTORIAL_WORKSPACE', str(tmp_path)]:
        assert word in done.stdout, word
