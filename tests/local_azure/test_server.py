"""A server process, good or bad: real processes that stand in for the services."""
from __future__ import annotations

import os
import queue
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.local_azure import LocalAzureError
from common.local_azure.lock import hold_lock
from common.local_azure.server import LocalServer
from tests.leftovers import eventually, needs_proc

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='the local services run on Linux and macOS')

SERVE = '''
import http.server, os, pathlib, signal, subprocess, sys, threading

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(STATUS)
        self.end_headers()
    def log_message(self, *arguments):
        pass

STATUS = 200
server = http.server.HTTPServer(('127.0.0.1', 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()

def say_ready():
    print(f'Stand-in listens on http://127.0.0.1:{server.server_port}', flush=True)

'''
UNTIL_STDIN_ENDS = '''
say_ready()
sys.stdin.read()
pathlib.Path('stopped').write_text('in order')
'''

Start = Callable[[str], LocalServer]


@pytest.fixture
def start(tmp_path: Path, processes: Callable[[], dict[int, str]]) -> Iterator[Start]:
    """Starts a Python program as a server; at the end, all are stopped and nothing of them is left."""
    servers = []

    def started(program: str) -> LocalServer:
        servers.append(LocalServer('The stand-in', [sys.executable, '-c', program], log=tmp_path / 'log',
                                   environment=dict(os.environ), directory=tmp_path))
        return servers[-1]

    yield started
    for server in servers:
        server.stop(0)
    assert eventually(lambda: not processes()), processes()


def test_ready_server_answers_at_the_url_that_it_names(start: Start) -> None:
    url = start(SERVE + UNTIL_STDIN_ENDS).wait_until_ready(20)

    with urllib.request.urlopen(url) as response:
        assert response.status == 200


@pytest.mark.parametrize(('program', 'line'), [
    ('import sys; sys.exit("first\\nDisk error: full")', 'Disk error: full'),
    ('import sys; sys.exit("Error: Cannot find module x\\n    at stack\\n\\nNode.js v24.0.0")',
     'Error: Cannot find module x'),
    ('import sys; sys.exit("gone wrong")', 'gone wrong'),
    ('print("no reason"); raise SystemExit(3)', 'no reason'),
    ('raise SystemExit(3)', 'exit code 3'),
    ('import os; print("no reason", flush=True); os.kill(os.getpid(), 9)', 'SIGKILL'),
])
def test_one_that_ends_at_once_is_quoted(start: Start, tmp_path: Path, program: str, line: str) -> None:
    with pytest.raises(LocalAzureError) as raised:
        start(program).wait_until_ready(20)

    assert str(raised.value) == f'The stand-in did not start: {line} (its log: {tmp_path / "log"})'


def test_one_that_does_not_listen_is_not_waited_for_any_longer(start: Start) -> None:
    with pytest.raises(LocalAzureError, match='The stand-in does not listen yet, after 0 s of waiting'):
        start('import sys; sys.stdin.read()').wait_until_ready(0.1)


def test_much_output_does_not_block_it_and_is_in_the_log(start: Start, tmp_path: Path) -> None:
    start(SERVE + '''
say_ready()
print('x' * 1_000_000, flush=True)
pathlib.Path('printed').touch()
sys.stdin.read()
''').wait_until_ready(20)

    assert eventually((tmp_path / 'printed').exists)
    assert eventually(lambda: b'x' * 1_000_000 in (tmp_path / 'log').read_bytes())


def test_stop_lets_it_end_in_order_and_may_come_twice(start: Start, tmp_path: Path) -> None:
    server = start(SERVE + UNTIL_STDIN_ENDS)
    server.wait_until_ready(20)

    server.stop(20)
    server.stop(20)

    assert (tmp_path / 'stopped').read_text() == 'in order'


@needs_proc
def test_one_that_will_not_stop_is_killed_with_its_children(
        start: Start, processes: Callable[[], dict[int, str]]) -> None:
    server = start(SERVE + '''
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])
say_ready()
signal.pause()
''')
    server.wait_until_ready(20)
    assert eventually(lambda: len(processes()) == 2)

    server.stop(0.1)

    assert eventually(lambda: not processes())


def test_it_has_a_session_of_its_own(start: Start, tmp_path: Path) -> None:
    start(SERVE + 'pathlib.Path("session").write_text(str(os.getsid(0)))\n' + UNTIL_STDIN_ENDS).wait_until_ready(20)

    assert int((tmp_path / 'session').read_text()) != os.getsid(0)


def test_its_end_is_told(tmp_path: Path) -> None:
    ended: queue.SimpleQueue[LocalServer] = queue.SimpleQueue()
    server = LocalServer('The stand-in', [sys.executable, '-c', SERVE + UNTIL_STDIN_ENDS], log=tmp_path / 'log',
                         environment=dict(os.environ), directory=tmp_path, ended=ended)
    server.wait_until_ready(20)
    assert ended.empty()

    server.stop(20)

    assert ended.get(timeout=20) is server


def test_it_holds_the_locks_that_it_was_given_until_it_has_ended(tmp_path: Path) -> None:
    with hold_lock(tmp_path / 'lock') as lock:
        server = LocalServer('The stand-in', [sys.executable, '-c', SERVE + UNTIL_STDIN_ENDS], log=tmp_path / 'log',
                             environment=dict(os.environ), directory=tmp_path, locks=[lock])
        server.wait_until_ready(20)
    with pytest.raises(BlockingIOError):
        with hold_lock(tmp_path / 'lock'):
            pytest.fail('held twice')

    server.stop(20)

    with hold_lock(tmp_path / 'lock'):
        pass
