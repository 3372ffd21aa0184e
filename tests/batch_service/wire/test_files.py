from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.batch_service import api
from common.batch_service.errors import BatchError
from common.batch_service.wire import files
from common.batch_service.wire.call import Call
from tests.batch_service.workbench import Workbench

VERSION = 'api-version=2024-02-01.19.0'
NAME = st.binary(min_size=1, max_size=3).map(os.fsdecode).filter(
    lambda name: not {'/', '\0'} & set(name) and name not in ('.', '..'))


def names(base: Path, *, recursive: bool = True, prefix: str = '', most: int = 1000) -> list[str]:
    """The names of all pages, as a client would be told them."""
    told, after = [], ''
    while True:
        page, last = files.listing(base, '', recursive=recursive, prefix=prefix, after=after, most=most)
        told += [entry['name'] for entry in page]
        assert len(page) <= most
        if last is None:
            return told
        after = last


@settings(deadline=None, max_examples=60)
@given(st.sets(st.lists(NAME, min_size=1, max_size=3).map(tuple), max_size=12), st.integers(1, 4),
       st.text('ab/', max_size=3))
def test_pages_have_every_file_once_and_each_is_found(paths: set[tuple[str, ...]], most: int, prefix: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        for path in paths:
            try:
                (base / '/'.join(path[:-1])).mkdir(parents=True, exist_ok=True)
                (base / '/'.join(path)).touch()
            except (FileExistsError, NotADirectoryError):
                continue
        there = sorted((path.relative_to(base).parts for path in base.rglob('*')))
        wanted = ['/'.join(parts) for parts in there if '/'.join(parts).startswith(prefix)]

        assert names(base, prefix=prefix, most=most) == list(map(files._readable, wanted))
        for name in map(files._readable, wanted):
            assert os.path.lexists(files.find(base, name))


def test_names_that_are_not_utf_8_are_listed_and_read_again(bench: Workbench, send) -> None:
    bench.run('odd', r"""/bin/bash -c 'printf 1 > $(printf "a\xffb"); printf 2 > %41; printf 3 > A'""")
    listed = send('GET', f'/jobs/{bench.job_id}/tasks/odd/files?{VERSION}&recursive=true').json()['value']
    found = {entry['name']: entry['url'] for entry in listed if '/' in entry['name']}
    assert sorted(found) == ['wd/%41', 'wd/A', 'wd/a%FFb']
    assert [bench.output('odd', name) for name in sorted(found)] == ['2', '3', '1']
    path = found['wd/a%FFb'].partition('/jobs')[2]
    assert send('GET', f'/jobs{path}?{VERSION}').text == '1'
    assert send('DELETE', f'/jobs{path}?{VERSION}').status_code == 200


@pytest.fixture
def odd(bench: Workbench) -> Workbench:
    """A workbench whose task has left what is no regular file."""
    program = ('import os, socket; os.mkfifo("fifo"); socket.socket(socket.AF_UNIX).bind("socket"); '
               'os.symlink("nowhere", "dangling"); os.symlink("self", "self"); os.mkdir("full"); '
               'open("full/file", "w").close(); os.symlink("full", "link")')
    bench.run('odd', f"/bin/bash -c 'python3 -W ignore -c \"{program.replace(chr(34), chr(92) + chr(34))}\"'")
    return bench


@pytest.mark.parametrize('name', ['fifo', 'socket', 'dangling', 'self', 'full', 'x' * 300, '%00'])
def test_what_is_no_regular_file_is_listed_and_not_found(odd: Workbench, send, name: str) -> None:
    path = f'/jobs/{odd.job_id}/tasks/odd/files'
    listed = [entry['name'] for entry in send('GET', f'{path}?{VERSION}&recursive=true').json()['value']]
    assert {'wd/fifo', 'wd/socket', 'wd/dangling', 'wd/self', 'wd/link', 'wd/full/file'} <= set(listed)
    assert 'wd/link/file' not in listed
    answer = send('GET', f'{path}/wd%2F{name}?{VERSION}')
    assert (answer.status_code, answer.json()['code']) == (404, 'FileNotFound')
    assert send('HEAD', f'{path}/wd%2F{name}?{VERSION}').status_code == (200 if name == 'full' else 404)


@pytest.mark.parametrize('name', ['fifo', 'socket', 'dangling', 'self', 'link'])
def test_deletion_removes_what_is_named_and_nothing_else(odd: Workbench, send, name: str) -> None:
    path = f'/jobs/{odd.job_id}/tasks/odd/files'
    assert send('DELETE', f'{path}/wd%2F{name}?{VERSION}&recursive=true').status_code == 200
    listed = [entry['name'] for entry in send('GET', f'{path}?{VERSION}&recursive=true').json()['value']]
    assert f'wd/{name}' not in listed
    assert 'wd/full/file' in listed


@pytest.mark.parametrize('name', ['.', '..', 'wd/..', 'wd/../..', '/'])
def test_nothing_at_or_above_the_base_is_deleted(tmp_path: Path, name: str) -> None:
    (tmp_path / 'task' / 'wd').mkdir(parents=True)
    with pytest.raises(BatchError) as error:
        files.delete(tmp_path / 'task', name, True, shutil.rmtree)
    assert error.value.code == 'FileNotFound'


def test_directory_with_contents_is_deleted_only_recursively(odd: Workbench, send) -> None:
    path = f'/jobs/{odd.job_id}/tasks/odd/files/wd%2Ffull?{VERSION}'
    assert send('DELETE', path).json()['code'] == 'OperationInvalidForCurrentState'
    assert send('DELETE', f'{path}&recursive=true').status_code == 200


@pytest.fixture
def changing(tmp_path: Path) -> Iterator[Path]:
    """A directory in which somebody makes and removes files and directories."""
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            for number in range(20):
                (tmp_path / f'd{number}').mkdir()
                (tmp_path / f'd{number}' / 'x').write_text('x' * 1000)
                os.truncate(tmp_path / f'd{number}' / 'x', 1)
            for number in range(20):
                shutil.rmtree(tmp_path / f'd{number}')
    thread = threading.Thread(target=change)
    thread.start()
    yield tmp_path
    over.set()
    thread.join()


def test_files_that_go_while_they_are_listed_and_read_do_no_harm(changing: Path) -> None:
    for number in range(300):
        names(changing, most=7)
        try:
            files.content(changing, f'd{number % 20}/x', '', None)
            files.properties(changing, f'd{number % 20}/x', '')
        except BatchError as error:
            assert error.code == 'FileNotFound'


def test_file_that_goes_before_it_is_opened_is_not_found(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / 'file').touch()
    monkeypatch.setattr(files, '_facts', lambda path, *_: path.unlink())
    with pytest.raises(BatchError, match='FileNotFound'):
        files.content(tmp_path, 'file', '', None)


@pytest.mark.parametrize(('happens', 'outcome'), [
    (lambda path: os.truncate(path, 1), b'x'), (lambda path: os.truncate(path, 0), b''),
    (lambda path: path.write_text('x' * 2000), b'x' * 1000)])
def test_file_that_changes_once_it_is_open_is_never_more_than_it_was(tmp_path: Path, monkeypatch, happens, outcome
                                                                     ) -> None:
    (tmp_path / 'file').write_text('x' * 1000)
    fstat = os.fstat
    monkeypatch.setattr(os, 'fstat', lambda descriptor: (fstat(descriptor), happens(tmp_path / 'file'))[0])
    assert files.content(tmp_path, 'file', '', None).body == outcome


def test_pipe_that_takes_a_file_s_place_before_it_is_opened_is_refused(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / 'file').touch()
    monkeypatch.setattr(files, '_facts', lambda path, *_: (path.unlink(), os.mkfifo(path)))
    with pytest.raises(BatchError, match='IOError'):
        files.content(tmp_path, 'file', '', None)


def test_file_that_shrinks_while_it_is_read_ends_where_it_ends(bench: Workbench, shared_service) -> None:
    bench.run('large', "/bin/bash -c 'head -c 5000000 /dev/zero > large'")
    parts = bench.client.file.get_from_task(bench.job_id, 'large', 'wd/large')
    first = next(iter(parts))
    [path] = shared_service.workspace.glob(f'batch/nodes/*/*/workitems/{bench.job_id}/job-1/large/wd/large')
    os.truncate(path, 1)
    assert len(first) + sum(map(len, parts)) <= 5_000_000
    assert bench.output('large', 'wd/large') == '\0'


@pytest.fixture
def closed() -> Iterator[Path]:
    """A directory with a directory and a file that nobody may read; the test is an ordinary user."""
    privileged = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        for name in ('closed', 'closed/file', 'secret'):
            (base / name).mkdir() if name == 'closed' else (base / name).touch()
        if privileged:
            for path in (base, *base.rglob('*')):
                os.chown(path, 65534, 65534)
        for name in ('closed', 'secret'):
            (base / name).chmod(0)
        if privileged:
            os.seteuid(65534)
        yield base
        if privileged:
            os.seteuid(0)
        (base / 'closed').chmod(0o700)


def test_what_a_task_closed_to_its_own_user_is_refused_by_name(closed: Path) -> None:
    assert names(closed) == ['closed', 'secret']
    for act in (lambda: files.content(closed, 'closed/file', '', None),
                lambda: files.content(closed, 'secret', '', None),
                lambda: files.properties(closed, 'closed/file', ''),
                lambda: names(closed / 'closed'),
                lambda: files.delete(closed, 'closed', False, shutil.rmtree),
                lambda: files.delete(closed, 'closed/file', False, os.unlink)):
        with pytest.raises(BatchError) as error:
            act()
        assert error.value.code == 'IOError'


@pytest.mark.parametrize('seconds', [-1e10, 1e12])
def test_file_of_any_age_is_listed_and_read(tmp_path: Path, seconds: float) -> None:
    (tmp_path / 'old').touch()
    os.utime(tmp_path / 'old', (seconds, seconds))
    assert names(tmp_path) == ['old']
    assert files.properties(tmp_path, 'old', '').headers['Last-Modified'].endswith('GMT')


def test_name_does_not_choose_a_header(tmp_path: Path) -> None:
    name = 'data:text\r\nX-Mine: 1,x'
    (tmp_path / name.replace('/', '')).touch()
    assert files.content(tmp_path, name, '', None).headers['Content-Type'] == 'application/octet-stream'


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.from_regex(r'bytes=[0-9]{0,40}-[0-9]{0,40}', fullmatch=True) | st.text(max_size=12))
def test_any_range_is_part_of_the_file_or_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / 'file').write_bytes(b'0123456789')
    try:
        part = files.content(tmp_path, 'file', '', text or None).body
        assert part and part in b'0123456789'
    except BatchError as error:
        assert error.code in ('InvalidHeaderValue', 'InvalidRange')


@pytest.mark.parametrize('size', [0, 1, files._CHUNK - 1, files._CHUNK, files._CHUNK + 1, 3 * files._CHUNK])
def test_file_of_any_size_comes_whole(bench: Workbench, size: int) -> None:
    bench.run('sized', f"/bin/bash -c 'head -c {size} /dev/zero > file'")
    assert len(bench.output('sized', 'wd/file')) == size


def test_ten_of_very_many_files_keep_nobody_waiting(bench: Workbench, send, milliseconds: Callable[..., float]) -> None:
    bench.run('many', "/bin/bash -c 'seq 1 20000 | xargs touch'")
    path = f'/jobs/{bench.job_id}/tasks/many/files'
    prefix = quote("startswith(name,'wd/1')")
    listed = send('GET', f'{path}?{VERSION}&recursive=true&maxresults=10&$filter={prefix}').json()
    assert [entry['name'] for entry in listed['value']][:3] == ['wd/1', 'wd/10', 'wd/100']
    assert len(listed['value']) == 10 and 'odata.nextLink' in listed
    assert milliseconds(lambda: send('DELETE', f'{path}/wd?{VERSION}&recursive=true')) < 1000


def test_listing_looks_at_no_more_files_than_it_names(tmp_path: Path, monkeypatch) -> None:
    for number in range(50):
        (tmp_path / f'{number:02}').touch()
    lstat, looked_at = os.lstat, []
    monkeypatch.setattr(os, 'lstat', lambda path: looked_at.append(path) or lstat(path))
    found, last = files.listing(tmp_path, '', recursive=False, prefix='', after='19', most=10)
    assert [entry['name'] for entry in found] == [f'{number}' for number in range(20, 30)] and last == '29'
    assert len(looked_at) == 10


@pytest.mark.parametrize(('handler', 'work'), [
    (api.list_files, 'listing'), (api.get_file, 'content'), (api.get_file_properties, 'properties'),
    (api.delete_file, 'delete')])
def test_nobody_waits_for_the_disk(monkeypatch, handler: Callable[..., object], work: str) -> None:
    threads = []
    monkeypatch.setattr(files, work, lambda *_, **__: threads.append(threading.current_thread()) or ([], None))
    monkeypatch.setattr(api, '_files', lambda call: api._Files(Path(), ''))
    asyncio.run(handler(Call(SimpleNamespace(throw_away=None), 'GET', '/files', {}, {}, '', {'path': 'file'})))
    assert len(threads) == 1 and threads[0] is not threading.main_thread()


@pytest.fixture
def milliseconds(send) -> Callable[..., float]:
    """Measures the longest wait of others while something is done."""
    def measure(act: Callable[[], object]) -> float:
        thread, longest = threading.Thread(target=act), 0.0
        thread.start()
        while thread.is_alive():
            began = time.monotonic()
            assert send('GET', f'/nodecounts?{VERSION}').status_code == 200
            longest = max(longest, time.monotonic() - began)
        thread.join()
        return longest * 1000
    return measure
