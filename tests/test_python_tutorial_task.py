"""The program that runs on the nodes: as functions, and as the process that a node starts."""
from __future__ import annotations

import ast
import io
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import dropwhile
from pathlib import Path
from unicodedata import category
from urllib.parse import parse_qs, urlsplit

import pytest
from azure.core.exceptions import ServiceRequestError
from azure.core.pipeline.transport import RequestsTransport
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_mock import MockerFixture

import python_tutorial_task as task

SCRIPT = Path(task.__file__)
SIGNATURE = 'c2VjcmV0%2Fsignature%3D'
SAS = f'se=2099-01-01T00%3A00%3A00Z&sp=w&sv=2024-11-04&sr=c&sig={SIGNATURE}'
IDS = {'AZ_BATCH_NODE_ID': 'tvmps_1', 'AZ_BATCH_TASK_ID': 'topNtask0', 'AZ_BATCH_JOB_ID': 'PythonTutorialJob',
       'AZ_BATCH_POOL_ID': 'PythonTutorialPool'}
RULE = '-' * 30


def count(tmp_path: Path, content: str | bytes) -> dict[str, int]:
    path = tmp_path / 'input.txt'
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return dict(task.count_words(path))


# What a word is.

@pytest.mark.parametrize(('text', 'words'), [
    ('Sea, sea... SEA!', {'sea': 3}),
    ("don't -- (don't) 'don't'", {"don't": 3}),
    ('«Straße» „STRASSE“ ¿strasse?', {'strasse': 3}),
    ('海。 「海」 、海', {'海': 3}),
    ('सागर। سمندر؟ ', {'सागर': 1, 'سمندر': 1}),
    ('C++ C $5 5', {'c++': 1, 'c': 1, '$5': 1, '5': 1}),
    ('one\u00a0two\u2028two\r\nthree\u3000three\x85three', {'one': 1, 'two': 2, 'three': 3}),
    ('well-known', {'well-known': 1}),
    ('... -- " « ?! _', {}),
    ('', {}),
    (' \t\r\n\u2003', {}),
])
def test_words_are_counted_without_case_and_punctuation(
        tmp_path: Path, text: str, words: dict[str, int]) -> None:
    assert count(tmp_path, text) == words


def test_byte_order_mark_is_dropped_at_the_beginning_only(tmp_path: Path) -> None:
    assert count(tmp_path, '\ufeffsea sea \ufeffsea') == {'sea': 2, '\ufeffsea': 1}
    assert count(tmp_path, '\ufeff') == {}


def test_every_punctuation_mark_goes_and_every_symbol_stays(tmp_path: Path) -> None:
    kinds = {kind: [char for char in map(chr, range(sys.maxunicode + 1)) if category(char)[0] == kind] for kind in 'PS'}

    assert count(tmp_path, ' '.join(f'{mark}a{mark}' for mark in kinds['P'])) == {'a': len(kinds['P'])}
    assert count(tmp_path, ' '.join(kinds['S'])) == Counter(symbol.casefold() for symbol in kinds['S'])


def test_invalid_bytes_are_replaced(tmp_path: Path) -> None:
    words = count(tmp_path, b'caf\xe9 sea \xff\xfe caf\xe9 \xe2\x82')

    assert words == {'caf\ufffd': 2, 'sea': 1, '\ufffd\ufffd': 1, '\ufffd': 1}


def naive_words(data: bytes) -> Counter[str]:
    def lstrip(word: str) -> str:
        return ''.join(dropwhile(lambda character: category(character)[0] == 'P', word))

    text = data.decode('utf-8', 'replace').removeprefix('\ufeff')
    stripped = [lstrip(lstrip(run)[::-1])[::-1] for run in text.split()]
    return Counter(word.casefold() for word in stripped if word)


texts = st.text(st.sampled_from('aAßé海𝒳.,«。_+ \u00a0\u2028\u3000\x1c\x1f\x85\r\n\ufeff')).map(str.encode)


@settings(deadline=None)
@given(data=st.lists(texts | st.binary(max_size=4)).map(b''.join), block_size=st.integers(1, 9),
       padding=st.just(0) | st.integers(io.DEFAULT_BUFFER_SIZE - 9, io.DEFAULT_BUFFER_SIZE))
def test_words_across_blocks_are_counted_as_in_the_whole_text(
        tmp_path_factory: pytest.TempPathFactory, data: bytes, block_size: int, padding: int) -> None:
    # Python reads bytes in blocks of its own: the padding puts the data, and the characters in it, across two of them.
    data = b'x' * padding + data
    path = tmp_path_factory.getbasetemp() / 'blocks.txt'
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(task, '_BLOCK_SIZE', block_size)
        assert task.count_words(path) == naive_words(data)


@settings(deadline=None)
@given(data=st.lists(texts | st.binary(max_size=4)).map(b''.join), cores=st.integers(1, 9),
       block_size=st.integers(1, 9))
def test_words_of_the_parts_are_the_words_of_the_whole(
        tmp_path_factory: pytest.TempPathFactory, data: bytes, cores: int, block_size: int) -> None:
    path = tmp_path_factory.getbasetemp() / 'parts.txt'
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(task, '_BIG_FILE', 0)
        monkeypatch.setattr(task, '_BLOCK_SIZE', block_size)
        monkeypatch.setattr(os, 'cpu_count', lambda: cores)
        parts = task.cut_into_parts(path)
        words = [task.count_part(path, begin, end) for begin, end in parts]

    assert [end for _, end in parts[:-1]] == [begin for begin, _ in parts[1:]] and len(parts) <= cores
    assert sum(words, Counter()) == naive_words(data)


def test_a_big_text_has_a_part_for_each_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'big.txt'
    path.write_text('sea \u3000 海 ' * 1000, encoding='utf-8')
    monkeypatch.setattr(os, 'cpu_count', lambda: 5)
    assert len(task.cut_into_parts(path)) == 1, 'it is small'

    monkeypatch.setattr(task, '_BIG_FILE', path.stat().st_size)
    sizes = [min(end, path.stat().st_size) - begin for begin, end in task.cut_into_parts(path)]
    assert len(sizes) == 5 and max(sizes) - min(sizes) < 20

    path.write_bytes(b'\xe6\xb5\xb7' * 5000)
    assert task.cut_into_parts(path) == [(0, sys.maxsize)], 'one word cannot be cut'


needs_fork = pytest.mark.skipif(multiprocessing.get_start_method() != 'fork',
                                reason='What is changed here reaches only processes that are forked')
BIG = """
import os, signal, sys
import python_tutorial_task as task
if __name__ == '__main__':
    task._BIG_FILE, parent, real = int(sys.argv.pop(1)), os.getpid(), task.count_part
    os.cpu_count = lambda: 3
    {change}
    sys.exit(task.main(sys.argv[1:]))
"""


def run_in_parts(path: Path, storage_url: str, big_file: int, change: str = '') -> subprocess.CompletedProcess[str]:
    """Runs the task with a change for its parts: def count_part(path, begin, end)."""
    program = BIG.format(change=change.strip().replace('\n', '\n    '))
    environment = {**os.environ, 'PYTHONPATH': str(SCRIPT.parent), 'NO_PROXY': '127.0.0.1', 'no_proxy': '127.0.0.1'}
    return subprocess.run([sys.executable, '-c', program, str(big_file), *arguments(path, storage_url)],
                          cwd=path.parent, env=environment, timeout=60, capture_output=True, text=True)


TELL = """
def count_part(path, begin, end):
    os.write(1, b'elsewhere\\n' if os.getpid() != parent else b'here\\n')
    return real(path, begin, end)
task.count_part = count_part
"""


@needs_fork
@pytest.mark.parametrize(('content', 'processes'), [
    (b'\xef\xbb\xbfSea! moon ' + b'sea ' * 999 + b'\xff', ['elsewhere'] * 3),
    (b'sea' * 1000, ['here']),
    (b'a b', ['elsewhere'] * 2),
    (b' ', ['elsewhere'] * 2),
    (b'', ['here']),
])
def test_a_big_file_is_counted_by_processes_and_uploaded_once(
        tmp_path: Path, storage: Storage, content: bytes, processes: list[str]) -> None:
    path = tmp_path / 'big.txt'
    path.write_bytes(content)

    completed = run_in_parts(path, storage.url, 0, TELL)

    assert (completed.returncode, completed.stderr) == (0, '')
    assert completed.stdout.splitlines()[:-1] == processes
    [(_, _, body)] = storage.requests
    top = task.top_words(naive_words(content), 2)
    assert [line.split() for line in body.decode().partition(RULE)[0].splitlines()] == [[w, str(n)] for w, n in top]


def test_a_small_file_needs_no_other_process(input_path: Path, storage: Storage) -> None:
    completed = run_in_parts(input_path, storage.url, task._BIG_FILE, TELL)

    assert (completed.returncode, completed.stdout.splitlines()[:-1]) == (0, ['here'])


@needs_fork
@pytest.mark.parametrize('end, text', [
    ('os.kill(os.getpid(), signal.SIGKILL)', 'memory'), ('raise MemoryError', 'memory'),
    ('raise OSError(5, "Input/output error")', 'Input/output error')])
def test_a_part_that_fails_ends_the_task_with_one_line(
        tmp_path: Path, storage: Storage, end: str, text: str) -> None:
    path = tmp_path / 'big.txt'
    path.write_text('sea ' * 1000)

    completed = run_in_parts(path, storage.url, 0, f"""
def count_part(path, begin, end):
    if 0 < begin < 2000:
        {end}
    return real(path, begin, end)
task.count_part = count_part
""")

    assert (completed.returncode, completed.stdout, storage.requests) == (1, '', [])
    assert_one_clear_line(completed.stderr, 'big.txt', text)


@needs_fork
def test_the_processes_end_when_the_task_is_killed(tmp_path: Path, storage: Storage) -> None:
    path = tmp_path / 'big.txt'
    path.write_text('sea ' * 1000)

    completed = run_in_parts(path, storage.url, 0, """
def count_part(path, begin, end):
    if begin == 0:
        os.kill(parent, signal.SIGKILL)
    while True:
        real(path, begin, end)
task.count_part = count_part
""")

    # One that is left would hold stdout open, for longer than the timeout.
    assert completed.returncode == -signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='Windows has no named pipes')
def test_a_pipe_is_counted(tmp_path: Path) -> None:
    path = tmp_path / 'pipe'
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_text('sea, ' * 300_000 + 'moon'))
    writer.start()
    try:
        assert task.count_words(path) == {'sea': 300_000, 'moon': 1}
    finally:
        writer.join()


@given(pieces=st.lists(st.text(st.sampled_from('ab \n\u2028'))))
def test_text_may_be_cut_anywhere(pieces: list[str]) -> None:
    assert task.count_tokens(pieces) == Counter(''.join(pieces).split())


def test_time_for_a_very_long_word_does_not_grow_with_its_square() -> None:
    started = time.process_time()

    assert task.count_tokens(['sea ', *['x' * 100] * 40_000, ' sea']) == {'sea': 2, 'x' * 4_000_000: 1}
    assert time.process_time() - started < 2, 'it takes some 0.05 s, and more than 10 s where each piece is joined'


@pytest.mark.parametrize('separator', [' ', '\n', '\u3000'])
def test_memory_does_not_grow_with_the_text(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, separator: str) -> None:
    path = tmp_path / 'large.txt'
    path.write_text(separator.join(['wave', 'sea', 'moon'] * 100_000), encoding='utf-8')
    monkeypatch.setattr(task, '_BLOCK_SIZE', 4096)
    tracemalloc.start()
    try:
        assert task.count_words(path) == {'wave': 100_000, 'sea': 100_000, 'moon': 100_000}
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 4
    finally:
        tracemalloc.stop()


@given(counts=st.dictionaries(st.text(min_size=1, max_size=2), st.integers(1, 3)), number=st.integers(1, 5))
def test_top_words_come_by_count_and_then_by_alphabet(counts: dict[str, int], number: int) -> None:
    ordered = sorted(sorted(counts.items()), key=lambda item: item[1], reverse=True)
    assert task.top_words(Counter(counts), number) == ordered[:number]


@pytest.mark.parametrize(('name', 'top_three'), [
    ('taskdata1.txt', ['job', 'cards', 'queue']),
    ('taskdata2.txt', ['wave', 'sea', 'moon']),
    ('taskdata3.txt', ['flour', 'water', 'salt']),
])
def test_texts_of_the_tutorial_are_about_their_top_words(name: str, top_three: list[str]) -> None:
    counts = task.count_words(SCRIPT.with_name('data') / name)

    assert [word for word, _ in task.top_words(counts, 3)] == top_three
    assert 300 <= counts.total() <= 500
    assert len({count for _, count in task.top_words(counts, 4)}) == 4, 'the order rests on the alphabet'


# The output file.

@pytest.mark.parametrize(('name', 'output_name'), [
    ('taskdata1.txt', 'taskdata1_OUTPUT.txt'),
    ('no extension', 'no extension_OUTPUT'),
    ('two.dots.txt', 'two.dots_OUTPUT.txt'),
    ('.hidden', '.hidden_OUTPUT'),
    ("it's größe.txt", "it's größe_OUTPUT.txt"),
])
def test_output_goes_to_the_current_directory(name: str, output_name: str) -> None:
    assert task.output_path_for(Path('/somewhere/else') / name) == Path(output_name)


def test_output_made_outside_of_a_node_has_dashes_for_where_it_was_counted(tmp_path: Path) -> None:
    task.write_output(tmp_path / 'output.txt', [('größe', 12), ('sea', 3)])

    assert (tmp_path / 'output.txt').read_bytes().decode('utf-8').splitlines() == [
        'größe 12', 'sea   3', RULE, 'Node: -', 'Task: -', 'Job:  -', 'Pool: -']


# The process, and what it uploads.

class Storage(ThreadingHTTPServer):
    """Answers each PUT as a blob service does, and keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), _StorageHandler)
        self.url = f'http://127.0.0.1:{self.server_port}/mystorage'
        self.answer, self.error_code = 201, ''
        self.requests: list[tuple[str, dict[str, str], bytes]] = []


class _StorageHandler(BaseHTTPRequestHandler):
    server: Storage

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers['Content-Length']))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.path, headers, body))
        self.send_response(self.server.answer)
        if self.server.error_code:
            self.send_header('x-ms-error-code', self.server.error_code)
        self.send_header('Content-Length', '0')
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def storage() -> Iterator[Storage]:
    with Storage() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def input_path(tmp_path: Path) -> Path:
    path = tmp_path / "it's größe.txt"
    path.write_text('Sea! Sea and moon, moon, sea.', encoding='utf-8')
    return path


def arguments(path: Path, storage_url: str, **changed: str) -> list[str]:
    values = {'filepath': str(path), 'numwords': '2', 'storageaccount': 'mystorage',
              'storagecontainer': 'output', 'sastoken': SAS, 'storageurl': storage_url, **changed}
    return [part for name, value in values.items() for part in (f'--{name}', value)]


def run(directory: Path, argv: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **IDS, 'NO_PROXY': '127.0.0.1', 'no_proxy': '127.0.0.1', 'PYTHONUTF8': '1'}
    return subprocess.run([sys.executable, str(SCRIPT), *argv], cwd=directory, env=environment, timeout=60,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding='utf-8')


def assert_one_clear_line(text: str, *parts: str) -> None:
    assert text.count('\n') == 1 and text.endswith('\n'), text
    assert text.startswith('python_tutorial_task.py: ')
    assert all(part in text for part in parts), text
    assert SIGNATURE not in text and 'signature' not in text


def test_task_uploads_its_output_with_the_sas_alone(
        tmp_path: Path, input_path: Path, storage: Storage) -> None:
    working_directory = tmp_path / 'wd'
    working_directory.mkdir()
    completed = run(working_directory, arguments(input_path, storage.url))

    assert (completed.returncode, completed.stderr) == (0, '')
    assert SIGNATURE not in completed.stdout
    [(url, headers, body)] = storage.requests
    assert urlsplit(url).path == '/mystorage/output/it%27s%20gr%C3%B6%C3%9Fe_OUTPUT.txt'
    assert f'sig={SIGNATURE}' in url and parse_qs(urlsplit(url).query)['sp'] == ['w']
    assert headers['x-ms-blob-type'] == 'BlockBlob'
    assert 'authorization' not in headers
    assert 'if-none-match' not in headers, 'a task that Batch runs again must overwrite its output'
    assert body.decode().splitlines() == ['sea  3', 'moon 2', RULE, 'Node: tvmps_1', 'Task: topNtask0',
                                          'Job:  PythonTutorialJob', 'Pool: PythonTutorialPool']
    assert body == (working_directory / "it's größe_OUTPUT.txt").read_bytes()


def test_task_leaves_an_empty_table_for_an_empty_file(tmp_path: Path, storage: Storage) -> None:
    (tmp_path / 'empty.txt').touch()

    assert run(tmp_path, arguments(tmp_path / 'empty.txt', storage.url)).returncode == 0
    assert storage.requests[0][2].decode().startswith(f'{RULE}\nNode: tvmps_1\n')


@pytest.mark.parametrize(('answer', 'error_code', 'said'), [
    (403, 'AuthorizationPermissionMismatch', 'expired'),
    (404, 'ContainerNotFound', 'deleted'),
    (409, 'ContainerBeingDeleted', ''),
    (400, '', '400 Bad Request'),
])
def test_refused_upload_ends_the_task_with_one_line(
        tmp_path: Path, input_path: Path, storage: Storage,
        answer: int, error_code: str, said: str) -> None:
    storage.answer, storage.error_code = answer, error_code
    completed = run(tmp_path, arguments(input_path, storage.url))

    assert completed.returncode == 1
    assert_one_clear_line(completed.stderr, f'{answer} {error_code}', said, '[output]', storage.url)


def test_storage_that_cannot_be_reached_ends_the_task_with_one_line(
        tmp_path: Path, input_path: Path, monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture,
        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    sleep = mocker.patch.object(RequestsTransport, 'sleep')
    with socket.socket() as closed:
        closed.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{closed.getsockname()[1]}/mystorage'
        assert task.main(arguments(input_path, url)) == 1

    assert_one_clear_line(capsys.readouterr().err, 'cannot upload', url)
    assert 0 < sum(call.args[0] for call in sleep.call_args_list) < 30, 'it asks again, but not for minutes'


def test_signature_in_the_error_of_the_sdk_is_not_shown(
        tmp_path: Path, input_path: Path, monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture,
        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    sdk_text = f'HTTPSConnectionPool: Max retries exceeded with url: /output/x?{SAS} (Caused by\nSSLError)'
    mocker.patch('azure.storage.blob.BlobClient', side_effect=ServiceRequestError(sdk_text))

    assert task.main(arguments(input_path, 'https://127.0.0.1/mystorage')) == 1
    assert_one_clear_line(capsys.readouterr().err, 'Max retries exceeded', 'SSLError')


def test_account_without_url_is_the_public_clouds(
        tmp_path: Path, input_path: Path, monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture) -> None:
    monkeypatch.chdir(tmp_path)
    blob_client = mocker.patch('azure.storage.blob.BlobClient')
    argv = arguments(input_path, '')

    assert task.main(argv[:argv.index('--storageurl')]) == 0
    assert blob_client.call_args.args == ('https://mystorage.blob.core.windows.net', 'output',
                                          "it's größe_OUTPUT.txt")


# Mistakes.

@pytest.mark.parametrize('number', ['0', '-3', '1.5', 'three', '', '٠'])
def test_number_of_words_must_be_positive(
        input_path: Path, number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        task.main(arguments(input_path, '', numwords=number))

    assert ended.value.code == 2
    assert_one_clear_line(capsys.readouterr().err, '--numwords', number)


@pytest.mark.parametrize('missing', [
    'filepath', 'numwords', 'storageaccount', 'storagecontainer', 'sastoken'])
def test_missing_argument_is_named(
        input_path: Path, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = arguments(input_path, '')
    position = argv.index(f'--{missing}')
    with pytest.raises(SystemExit) as ended:
        task.main(argv[:position] + argv[position + 2:])

    assert ended.value.code == 2
    assert_one_clear_line(capsys.readouterr().err, f'--{missing}')


def test_mistyped_argument_does_not_show_the_signature(
        input_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        task.main([*arguments(input_path, ''), '--sastokn', SAS])

    assert_one_clear_line(capsys.readouterr().err, '--sastokn')


def test_input_that_cannot_be_read_ends_the_task_with_one_line(tmp_path: Path) -> None:
    completed = run(tmp_path, arguments(tmp_path / 'absent.txt', 'http://127.0.0.1:1/mystorage'))
    assert completed.returncode == 1
    assert_one_clear_line(completed.stderr, 'absent.txt', 'No such file')

    completed = run(tmp_path, arguments(tmp_path, 'http://127.0.0.1:1/mystorage'))
    assert completed.returncode == 1
    assert_one_clear_line(completed.stderr, str(tmp_path))


def test_output_that_cannot_be_written_ends_the_task_with_one_line(tmp_path: Path, input_path: Path) -> None:
    (tmp_path / "it's größe_OUTPUT.txt").mkdir()

    completed = run(tmp_path, arguments(input_path, 'http://127.0.0.1:1/mystorage'))

    assert completed.returncode == 1
    assert_one_clear_line(completed.stderr, 'cannot write', "it's größe_OUTPUT.txt")


# What the script needs on a node.

def test_script_imports_the_standard_library_and_azure_alone() -> None:
    imported = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add('' if node.level else str(node.module).partition('.')[0])

    assert imported - sys.stdlib_module_names == {'azure'}


def test_azure_is_not_loaded_before_the_words_are_counted(input_path: Path) -> None:
    program = ('import pathlib, sys, python_tutorial_task as task\n'
               'task.count_words(pathlib.Path(sys.argv[1]))\n'
               'sys.exit("azure" in sys.modules)')
    command = [sys.executable, '-c', program, str(input_path)]

    assert subprocess.run(command, cwd=SCRIPT.parent, timeout=60).returncode == 0
