"""Transfers between a node and servers that behave badly."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.batch_service.run import transfers as module
from common.batch_service.run.threads import in_thread
from common.batch_service.run.transfers import TransferError, Transfers

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole'
CUT_OFF = b'HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\npart'
BUSY = b'HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n'


class Server:
    """Gives each connection the next of some answers, the last one again and again, and closes it."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.answers: list[bytes] = []
        self.requests: list[bytes] = []
        self.moments: list[float] = []
        self.port = listener.getsockname()[1]
        self.url = f'http://127.0.0.1:{self.port}'

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                with connection:
                    self.moments.append(time.monotonic())
                    self.requests.append(connection.recv(65_536))
                    connection.sendall(self.answers[min(len(self.requests), len(self.answers)) - 1])


@pytest.fixture
def server() -> Iterator[Server]:
    with socket.create_server(('127.0.0.1', 0)) as listener:
        server = Server(listener)
        thread = threading.Thread(target=server.serve)
        thread.start()
        yield server
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, '_PAUSES', tuple(seconds / 10 for seconds in module._PAUSES))


def fetch(directory: Path, url: str, *, transfers: Transfers | None = None) -> str:
    """Returns what came, having checked that there is nothing else."""
    asyncio.run((transfers or Transfers()).fetch([{'httpUrl': url, 'filePath': 'file'}], directory))
    assert [file.name for file in directory.iterdir()] == ['file']
    return (directory / 'file').read_text()


def failure_of(directory: Path, url: str) -> tuple[str, str, str]:
    """Returns category, code and message of the failure, having checked that nothing is left of the file."""
    with pytest.raises(TransferError) as error:
        fetch(directory, url)
    assert not list(directory.iterdir())
    return tuple(error.value.failure_info[name] for name in ('category', 'code', 'message'))


@pytest.mark.parametrize('path', ['file', 'folder/file', 'folder/../other/file'])
def test_what_comes_for_a_task_that_is_gone_brings_no_directory_back(server, tmp_path, path) -> None:
    server.answers = [OK]
    with pytest.raises(TransferError):
        asyncio.run(Transfers().fetch([{'httpUrl': server.url, 'filePath': path}], tmp_path / 'task' / 'wd'))
    assert not (tmp_path / 'task').exists()


def test_file_that_comes_cut_off_is_fetched_again(server, tmp_path) -> None:
    server.answers = [CUT_OFF, OK]
    assert fetch(tmp_path, server.url) == 'whole'


def test_file_that_always_comes_cut_off_is_none(server, tmp_path) -> None:
    server.answers = [CUT_OFF]
    category, code, message = failure_of(tmp_path, f'{server.url}/x?sig=secret')
    assert (category, code) == ('servererror', 'BlobDownloadMiscError')
    assert 'cut off' in message and 'secret' not in message
    assert len(server.requests) == 5


@pytest.mark.parametrize('status', [408, 429, 500, 503])
def test_server_in_trouble_is_asked_again(server, tmp_path, status) -> None:
    server.answers = [b'HTTP/1.1 %d Trouble\r\nContent-Length: 0\r\n\r\n' % status, b'', OK]
    assert fetch(tmp_path, server.url) == 'whole'


def test_pauses_grow(server, tmp_path) -> None:
    server.answers = [BUSY]
    assert failure_of(tmp_path, server.url)[1] == 'BlobDownloadMiscError'
    pauses = [after - before for before, after in zip(server.moments, server.moments[1:])]
    assert all(pause >= least for pause, least in zip(pauses, (0.05, 0.1, 0.2, 0.4)))


def test_server_says_when_to_ask_again(server, tmp_path) -> None:
    server.answers = [b'HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n', OK]
    assert fetch(tmp_path, server.url) == 'whole'
    assert server.moments[1] - server.moments[0] >= 1


@pytest.mark.parametrize(('status', 'code'), [(404, 'BlobNotFound'), (403, 'BlobAccessDenied'),
                                              (400, 'BlobDownloadMiscError')])
def test_refusal_is_not_asked_for_again(server, tmp_path, status, code) -> None:
    server.answers = [b'HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n' % status]
    assert failure_of(tmp_path, server.url)[1] == code
    assert len(server.requests) == 1


def test_server_that_is_away_for_a_while_is_waited_for(tmp_path) -> None:
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        port = taken.getsockname()[1]

        def come_back() -> None:
            time.sleep(0.3)
            with contextlib.closing(taken.dup()) as listener:
                listener.listen()
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(OK)
        thread = threading.Thread(target=come_back)
        thread.start()
        assert fetch(tmp_path, f'http://127.0.0.1:{port}') == 'whole'
        thread.join()


@pytest.mark.parametrize('url', ['file:///etc/hostname', 'ftp://127.0.0.1/x', 'data:,x', '/etc/hostname', 'x', '',
                                 'http:///x', 'http://[::1', 'http://127.0.0.1:port/', 'http://127.0.0.1:99999/'])
def test_what_is_no_http_url_is_the_users_error(tmp_path, url) -> None:
    assert failure_of(tmp_path, url)[:2] == ('usererror', 'BlobDownloadMiscError')


@pytest.mark.parametrize('target', ['file:///etc/hostname', 'ftp://storage.invalid/x'])
def test_redirect_to_what_is_no_http_url_is_refused(server, tmp_path, monkeypatch, target) -> None:
    monkeypatch.setenv('ftp_proxy', server.url)
    server.answers = [f'HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n'.encode(), OK]
    assert failure_of(tmp_path, server.url)[1] == 'BlobDownloadMiscError'
    assert len(server.requests) == 1


def test_redirect_is_followed(server, tmp_path) -> None:
    server.answers = [b'HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n', OK]
    assert fetch(tmp_path, server.url) == 'whole'
    assert server.requests[1].startswith(b'GET /other ')


def test_proxy_of_the_environment_is_for_other_machines_only(server, tmp_path, monkeypatch) -> None:
    server.answers = [OK]
    for name in ('http_proxy', 'ftp_proxy'):
        monkeypatch.setenv(name, server.url)
    monkeypatch.delenv('no_proxy', raising=False)
    monkeypatch.delenv('NO_PROXY', raising=False)
    assert fetch(tmp_path, 'http://storage.invalid/blob') == 'whole'
    assert server.requests[0].startswith(b'GET http://storage.invalid/blob ')
    fetch(tmp_path, f'http://localhost:{server.port}/blob')
    assert server.requests[1].startswith(b'GET /blob ')


def test_address_is_written_as_urls_are(server, tmp_path) -> None:
    server.answers = [OK]
    assert fetch(tmp_path, f'{server.url}/a b/ä%20?x=1') == 'whole'
    assert server.requests[0].startswith(b'GET /a%20b/%C3%A4%20?x=1 ')


def test_answer_that_is_no_list_of_blobs_fails(server, tmp_path) -> None:
    server.answers = [OK]
    with pytest.raises(TransferError) as error:
        asyncio.run(Transfers().fetch([{'storageContainerUrl': server.url}], tmp_path))
    assert error.value.failure_info['code'] == 'ResourceContainerListMiscError'


def test_several_files_come_at_once(tmp_path) -> None:
    together = threading.Barrier(3, timeout=10)

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            together.wait()
            connection.sendall(OK)
    with socket.create_server(('127.0.0.1', 0)) as listener:
        threads = [threading.Thread(target=serve, args=[listener]) for _ in range(3)]
        for thread in threads:
            thread.start()
        url = f'http://127.0.0.1:{listener.getsockname()[1]}'
        asyncio.run(Transfers().fetch([{'httpUrl': url, 'filePath': f'{number}'} for number in range(3)], tmp_path))
        for thread in threads:
            thread.join()
    assert sorted(file.name for file in tmp_path.iterdir()) == ['0', '1', '2']


def upload(path: Path, url: str) -> None:
    async def run() -> None:
        await asyncio.wait_for(in_thread(lambda: Transfers().upload(path, url, path.name, {})), 5)
    asyncio.run(run())


def test_upload_is_tried_again_from_its_beginning(server, tmp_path) -> None:
    (tmp_path / 'file').write_text('content')
    server.answers = [BUSY, b'HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n']
    upload(tmp_path / 'file', f'{server.url}/container')
    assert [request.startswith(b'PUT /container/file ') for request in server.requests] == [True, True]


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize('make', [
    os.mkfifo, make_socket, lambda path: path.symlink_to('nowhere'),
    lambda path: path.symlink_to('/dev/zero'), lambda path: path.mkdir(),
], ids=['pipe', 'socket', 'dangling link', 'device', 'directory'])
def test_what_is_no_file_is_not_uploaded(server, tmp_path, monkeypatch, make: Callable[[Path], None]) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    make(Path('x'))
    with pytest.raises(TransferError) as error:
        upload(Path('x'), f'{server.url}/container')
    assert error.value.failure_info['code'] == 'FileUploadMiscError'
    assert not server.requests


@pytest.mark.parametrize('url', ['file:///tmp', 'container', ''])
def test_output_to_what_is_no_http_url_is_refused(tmp_path, url) -> None:
    (tmp_path / 'x').touch()
    with pytest.raises(TransferError) as error:
        upload(tmp_path / 'x', url)
    assert error.value.failure_info['code'] == 'FileUploadMiscError'
