"""Downloading into a real directory, from blobs whose names and contents mean harm."""
from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import requests
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobServiceClient, generate_container_sas
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import python_tutorial_client as client
from common.guards.downloads import DownloadError, path_inside, whole_file

RESULT = b'word %d\n' + b'-' * 30 + b'\nNode: tvmps_1_d\nTask: topNtask0\nJob:  j\nPool: p\n'
FILE_NAMES = st.text(st.characters(exclude_characters='\0', exclude_categories=('Cs',)), min_size=1, max_size=60)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / 'results'
    made.mkdir()
    return made


@pytest.fixture
def container(blob_client: BlobServiceClient) -> Iterator[str]:
    """A container of the real storage service."""
    name = 'downloads'
    blob_client.create_container(name)
    yield name
    blob_client.delete_container(name)


class Storage:
    """A BlobServiceClient with one container. A blob whose content is an error raises it half-way."""

    def __init__(self, **blobs: bytes | Exception) -> None:
        self.blobs = blobs

    def get_container_client(self, name: str) -> Storage:
        return self

    def list_blobs(self) -> list[MagicMock]:
        listed = []
        for name in self.blobs:
            listed.append(MagicMock())
            listed[-1].name = name
        return listed

    def download_blob(self, name: str) -> MagicMock:
        def readinto(stream) -> None:
            content = self.blobs[name]
            stream.write(b'half' if isinstance(content, Exception) else content)
            if isinstance(content, Exception):
                raise content
        return MagicMock(readinto=readinto)


def download(directory: Path, **blobs: bytes | Exception) -> dict[str, Path]:
    return client.download_blobs_from_container(Storage(**blobs), 'output', directory)


def files_in(directory: Path) -> dict[str, bytes]:
    return {path.relative_to(directory).as_posix(): path.read_bytes()
            for path in directory.rglob('*') if path.is_file()}


@example('../x')
@example('/etc/passwd')
@example('a/../../x')
@example('..\\..\\x')
@example('C:\\x')
@example('a//b/')
@example('..')
@given(FILE_NAMES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_name_leads_out_of_the_directory(directory: Path, name: str) -> None:
    path = path_inside(directory, name)

    assert path.resolve().is_relative_to(directory.resolve()) and path != directory
    assert path.parent.is_dir()


@pytest.mark.real
def test_a_blob_named_to_lead_out_does_not_keep_the_others_back(
        blob_client: BlobServiceClient, container: str, tmp_path: Path, directory: Path) -> None:
    sas = generate_container_sas(blob_client.account_name, container, permission='w',
                                 account_key=blob_client.credential.account_key,
                                 expiry=datetime.now(timezone.utc) + timedelta(hours=1))
    # The SDK would take the way that the name tells.
    requests.put(f'{blob_client.url}{container}/..%2Fx?{sas}', data=b'bad', timeout=10,
                 headers={'x-ms-blob-type': 'BlockBlob', 'x-ms-version': '2021-12-02'}).raise_for_status()
    for name in ('a/b/c.txt', 'größe "5".txt'):
        blob_client.get_blob_client(container, name).upload_blob(b'good')
    before = set(tmp_path.rglob('*'))

    with pytest.raises(DownloadError, match=r'^1 blob .*\n  \[\.\./x\]: '):
        client.download_blobs_from_container(blob_client, container, directory)

    assert files_in(directory) == {'a/b/c.txt': b'good', 'größe "5".txt': b'good'}
    assert all(path.is_relative_to(directory) for path in set(tmp_path.rglob('*')) - before)


def test_a_name_that_leads_out_stays_inside(tmp_path: Path, directory: Path) -> None:
    download(directory, **{'../x': b'1', '/etc/y': b'2', 'a/..': b'3', '..\\z': b'4'})

    assert files_in(tmp_path) == {'results/_/x': b'1', 'results/_/etc/y': b'2', 'results/a/_': b'3',
                                  'results/_/z': b'4'}


def test_a_folder_that_is_a_link_to_elsewhere_is_not_followed(tmp_path: Path, directory: Path) -> None:
    (tmp_path / 'elsewhere').mkdir()
    (directory / 'folder').symlink_to(tmp_path / 'elsewhere')

    with pytest.raises(DownloadError, match=r'\[folder/x\]: .*folder is a symbolic link'):
        download(directory, **{'folder/x': b'new', 'good': b'good'})

    assert os.listdir(tmp_path / 'elsewhere') == []
    assert (directory / 'good').read_bytes() == b'good'


def test_a_blob_that_fails_leaves_no_half_and_does_not_keep_the_others_back(
        directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DownloadError) as raised:
        download(directory, first=HttpResponseError('reset by peer'), second=b'whole')

    assert str(raised.value) == ('1 blob of container [output] could not be downloaded:\n'
                                 '  [first]: reset by peer')
    assert files_in(directory) == {'second': b'whole'}
    output = capsys.readouterr().out
    assert '[second]' in output and 'Download complete!' not in output


def test_an_interrupted_download_leaves_what_was_there(directory: Path) -> None:
    (directory / 'x').write_bytes(b'own')

    with pytest.raises(KeyboardInterrupt), whole_file(directory / 'x') as file:
        file.write(b'half')
        file.flush()
        raise KeyboardInterrupt

    assert files_in(directory) == {'x': b'own'}


def test_ctrl_c_leaves_no_half_of_any_blob(directory: Path, default_ctrl_c: None) -> None:
    all_here = threading.Barrier(8, timeout=10)

    class Endless(Storage):
        def download_blob(self, name: str) -> MagicMock:
            def readinto(stream) -> None:
                stream.write(b'half')
                if all_here.wait() == 0:
                    os.kill(os.getpid(), signal.SIGINT)
                while True:
                    time.sleep(0.01)
            return MagicMock(readinto=readinto)

    with pytest.raises(KeyboardInterrupt):
        client.download_blobs_from_container(Endless(**{str(number): b'' for number in range(9)}), 'output', directory)

    assert os.listdir(directory) == []


def test_blobs_that_get_the_same_name_here_are_all_kept(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(path: Path) -> bool:
        found = os.path.isfile(path)
        time.sleep(0.05)
        return found

    monkeypatch.setattr(os.path, 'lexists', slowly)

    download(directory, **{'.': b'1', '..': b'2', '_': b'3', 'a/.': b'4', 'a\\..': b'5', 'a/_': b'6'})

    assert sorted(files_in(directory).values()) == [b'1', b'2', b'3', b'4', b'5', b'6']


def test_your_own_file_of_the_same_name_is_kept(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / 'x').write_bytes(b'own')

    download(directory, x=b'first run')
    download(directory, x=b'second run')

    assert files_in(directory) == {'x': b'second run', 'x.bak1': b'own', 'x.bak2': b'first run'}
    assert f'  Kept the file that was there before as {directory}/x.bak1\n' in capsys.readouterr().out


def test_the_result_of_an_earlier_run_is_replaced(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / 'x').write_bytes(b'long 1\n' * 1000 + RESULT % 1)
    (directory / 'y').write_bytes(RESULT % 1 + b'and what I thought of it\n')

    download(directory, x=RESULT % 2, y=RESULT % 2)

    assert files_in(directory) == {'x': RESULT % 2, 'y': RESULT % 2,
                                   'y.bak1': RESULT % 1 + b'and what I thought of it\n'}


def test_a_file_of_the_same_content_needs_no_copy(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / 'x').write_bytes(b'same')

    download(directory, x=b'same')

    assert files_in(directory) == {'x': b'same'}
    assert 'Kept' not in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == 'win32', reason='Windows fills what was left out with zeros')
def test_of_a_large_file_of_yours_only_the_end_is_read(directory: Path) -> None:
    with (directory / 'x').open('wb') as file:
        file.truncate(1 << 42)  # more than any memory, and on the disk nearly nothing

    download(directory, x=b'new')

    assert (directory / 'x').read_bytes() == b'new'
    assert (directory / 'x.bak1').stat().st_size == 1 << 42


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='Windows has no named pipes')
def test_a_pipe_of_the_same_name_is_kept_and_not_read(directory: Path) -> None:
    os.mkfifo(directory / 'x')

    download(directory, x=b'new')

    assert (directory / 'x').read_bytes() == b'new' and (directory / 'x.bak1').is_fifo()


@pytest.mark.parametrize('target', ['result', 'nowhere'])
def test_a_link_of_the_same_name_is_kept_and_not_written_through(directory: Path, target: str) -> None:
    (directory / 'result').write_bytes(RESULT % 1)
    (directory / 'x').symlink_to(directory / target)

    download(directory, x=b'new')
    download(directory, x=b'newer')

    assert (directory / 'result').read_bytes() == RESULT % 1
    assert (directory / 'x.bak1').is_symlink() and (directory / 'x.bak2').read_bytes() == b'new'
    assert (directory / 'x').read_bytes() == b'newer'


def test_a_directory_of_the_same_name_is_left_alone(directory: Path) -> None:
    (directory / 'x').mkdir()
    (directory / 'x' / 'own').write_bytes(b'own')

    with pytest.raises(DownloadError, match=r'\[x\]: .*x is a directory'):
        download(directory, x=b'new', y=b'new')

    assert files_in(directory) == {'x/own': b'own', 'y': b'new'}


@pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no umask')
def test_a_download_has_the_permissions_of_any_new_file(directory: Path) -> None:
    (directory / 'ordinary').touch()

    download(directory, x=b'new')

    assert (directory / 'x').stat().st_mode == (directory / 'ordinary').stat().st_mode


def test_a_full_disk_is_told_in_a_few_lines(directory: Path) -> None:
    blobs = {f'blob{number}': OSError(28, 'No space left on device') for number in range(100)}

    with pytest.raises(DownloadError) as raised:
        download(directory, **blobs)

    lines = str(raised.value).splitlines()
    assert lines[0].startswith('100 blobs ') and 'No space left' in lines[1]
    assert len(lines) < 30 and lines[-1] == '  ... and 80 more'
