"""The workspace: where it is, its keys, who may use it, and a full disk under it."""
from __future__ import annotations

import base64
import os
import shutil
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from platformdirs import user_state_path

from common import local_azure
from common.local_azure import LocalAzureError
from tests.local_azure.running import PROJECT

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='the local services run on Linux and macOS')

ANOTHER = 'choose another with AZURE_BATCH_TUTORIAL_WORKSPACE, or with --workspace of "python -m common.local_azure".'

# Runs with a small disk of its own, which is gone with it.
ON_A_SMALL_DISK = '''
import logging, os, subprocess, sys
from pathlib import Path
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobServiceClient
from common import local_azure

# Of an answer without a body it says a word each time.
logging.disable()
disk = Path(sys.argv[1])
subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=4m', 'none', disk], check=True)

def fill(free):
    descriptor = os.open(disk / 'filler', os.O_WRONLY | os.O_CREAT)
    try:
        while os.write(descriptor, bytes(4096)):
            pass
    except OSError:
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - free)
    os.close(descriptor)

def open_client(account):
    credential = {'account_name': account.storage_account_name, 'account_key': account.storage_account_key}
    return BlobServiceClient(account.storage_account_url, credential=credential, retry_total=0)
'''


# Where it is.

def test_variable_chooses_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_ins: Path) -> None:
    monkeypatch.setenv('AZURE_BATCH_TUTORIAL_WORKSPACE', str(tmp_path / 'chosen'))

    assert local_azure.default_workspace() == tmp_path / 'chosen'
    with local_azure.start() as account:
        assert account.workspace == tmp_path / 'chosen'
        assert (tmp_path / 'chosen' / 'batch.key').is_file()


def test_relative_one_is_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('AZURE_BATCH_TUTORIAL_WORKSPACE', 'chosen')

    assert local_azure.default_workspace() == tmp_path / 'chosen'


def test_empty_variable_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('AZURE_BATCH_TUTORIAL_WORKSPACE', '')

    assert local_azure.default_workspace() == user_state_path('azure-batch-tutorial')


# What is in it.

def test_keys_are_random_kept_and_readable_by_the_owner_alone(stand_ins: Path, tmp_path: Path) -> None:
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
def test_file_that_holds_no_key_is_named(stand_ins: Path, tmp_path: Path, content: str) -> None:
    key_file = tmp_path / 'workspace' / 'storage.key'
    key_file.parent.mkdir()
    key_file.write_text(content)

    with pytest.raises(LocalAzureError) as raised:
        with local_azure.start(key_file.parent):
            pytest.fail('started')

    assert str(raised.value) == f'{key_file} holds no account key: delete it, and a new one is made.'


def test_workspace_in_use_is_refused_at_once_and_goes_on_working(
        stand_ins: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with local_azure.start(tmp_path / 'workspace') as account:
        with pytest.raises(LocalAzureError) as raised:
            with local_azure.start(tmp_path / 'workspace'):
                pytest.fail('started twice')

        assert str(raised.value) == (
            f'Another run is using {tmp_path / "workspace"}: wait for its end, or {ANOTHER}')
        assert capsys.readouterr().err == ''
        with urllib.request.urlopen(account.storage_account_url) as answer:
            assert answer.status == 200


def test_workspace_that_is_a_file_is_named(stand_ins: Path, tmp_path: Path) -> None:
    with pytest.raises(LocalAzureError) as raised:
        with local_azure.start(stand_ins):
            pytest.fail('started')

    assert str(raised.value) == f'The workspace {stand_ins} cannot be used: Not a directory; {ANOTHER}'


# A full disk.

def on_a_small_disk(program: str, directory: Path) -> list[str]:
    """Runs the program in a mount namespace of its own; returns the lines that it prints."""
    enter = ['unshare', '--mount', *([] if os.geteuid() == 0 else ['--map-root-user'])]
    if shutil.which('unshare') is None or subprocess.run([*enter, 'true'], capture_output=True).returncode:
        if os.environ.get('CI'):
            pytest.fail('A small disk takes Linux, and the right to mount.')
        pytest.skip('A small disk takes Linux, and the right to mount.')
    directory.mkdir()
    done = subprocess.run([*enter, sys.executable, '-c', ON_A_SMALL_DISK + program, str(directory)],
                          cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    return done.stdout.splitlines()


@pytest.mark.parametrize('free', [0, 8 * 1024, 40 * 1024])
def test_full_disk_is_the_reason_at_the_start(azurite_install: Path, tmp_path: Path, free: int) -> None:
    printed = on_a_small_disk(f'''
fill({free})
try:
    with local_azure.start(disk / 'workspace'):
        print('started')
except local_azure.LocalAzureError as error:
    print(error)
''', tmp_path / 'disk')

    assert printed == [f'The services cannot start: the disk that holds {tmp_path / "disk" / "workspace"} is full: '
                       f'0.0 MB are free; make room, or {ANOTHER}']


def test_full_disk_is_found_to_be_why_an_upload_fails(azurite_install: Path, tmp_path: Path) -> None:
    printed = on_a_small_disk('''
def upload(account, size):
    # Azurite closes the connection on which an upload has failed.
    with open_client(account) as client:
        client.get_blob_client('container', f'{size}').upload_blob(bytes(size))

with local_azure.start(disk / 'workspace') as account:
    with open_client(account) as client:
        client.create_container('container').close()
    # So much is free again after an upload of more has failed.
    for free, size in ((0, 10), (1_000_000, 1_500_000)):
        fill(free)
        try:
            upload(account, size)
        except HttpResponseError as error:
            print(error.status_code, error.error_code)
        print(local_azure.why_storage_fails(account.workspace, size))
        print(local_azure.why_storage_fails(account.workspace))
    (disk / 'filler').unlink()
    upload(account, 1000)
    print(local_azure.why_storage_fails(account.workspace, 1000))
''', tmp_path / 'disk')

    full = f'the disk that holds {tmp_path / "disk" / "workspace"} is full: '
    assert printed == ['500 None', f'{full}0.0 MB are free', f'{full}0.0 MB are free',
                       '500 None', f'{full}1.0 MB are free', f'{full}1.0 MB are free', 'None']


def test_workspace_that_is_gone_is_why_an_upload_fails(tmp_path: Path) -> None:
    assert local_azure.why_storage_fails(tmp_path / 'gone') == (
        f'the workspace {tmp_path / "gone"} cannot be used: No such file or directory')


def test_server_is_heard_though_its_log_takes_no_more(tmp_path: Path) -> None:
    printed = on_a_small_disk('''
from common.local_azure.server import LocalServer
fill(0)
program = 'import sys; print("It listens on http://127.0.0.1:1", flush=True); sys.stdin.read()'
server = LocalServer('It', [sys.executable, '-c', program], log=disk / 'log', directory=disk,
                     environment=dict(os.environ))
print(server.wait_until_ready(20))
server.stop(20)
''', tmp_path / 'disk')

    assert printed == ['http://127.0.0.1:1']
