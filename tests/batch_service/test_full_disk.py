"""The service on a disk that has no room, or no inodes, left: what it answers, what it keeps, how it goes on."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import pytest
from azure.batch import models

from .workbench import ACCOUNT, PROJECT, ServiceProcess, Workbench, wait_until

pytestmark = pytest.mark.real

NO_ROOM, NO_INODES = 'size=2m', 'nr_inodes=200'
EXIT_CODES = {'zero': 0, 'three': 3}


@dataclass(frozen=True)
class Disk:
    """A small file system."""

    root: Path

    @property
    def _filler(self) -> Path:
        return self.root / 'filler'

    def fill(self) -> None:
        self._filler.mkdir(exist_ok=True)
        taken = len(list(self._filler.iterdir()))
        with pytest.raises(OSError) as error:
            for number in itertools.count(taken):
                (self._filler / str(number)).write_bytes(bytes(1 << 16))
        assert error.value.errno == errno.ENOSPC

    def make_room(self) -> None:
        shutil.rmtree(self._filler)


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    root = tmp_path / 'disk'
    root.mkdir()
    try:
        mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', request.param, 'tmpfs', root],
                                 capture_output=True, text=True)
        if mounted.returncode != 0:
            skip_unless_ci(f'a small file system cannot be mounted: {mounted.stderr.strip()}')
        yield Disk(root)
    finally:
        if os.path.ismount(root):
            # Without waiting for what may still end there.
            subprocess.run(['umount', '--lazy', root], check=True)


def skip_unless_ci(reason: str) -> NoReturn:
    if os.environ.get('CI'):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def stderr(tmp_path: Path) -> Iterator[IO[str]]:
    with open(tmp_path / 'stderr', 'w') as file:
        yield file


@pytest.fixture
def service(disk: Disk, stderr: IO[str]) -> Iterator[ServiceProcess]:
    service = ServiceProcess(disk.root, stderr=stderr)
    service.options = ('--port', service.url.rpartition(':')[2])
    try:
        yield service
    finally:
        service.kill()


@pytest.fixture
def bench(service: ServiceProcess, tmp_path: Path) -> Workbench:
    """A workbench with two nodes, on which two tasks run until there is a file that ends them."""
    bench = Workbench(service.client(), 'pool', 'job')
    bench.add_pool(nodes=2)
    bench.add_job()
    bench.wait_for_nodes('idle', 'idle')
    for id, code in EXIT_CODES.items():
        bench.add(id, f"/bin/bash -c 'echo {id}; until [ -e {tmp_path}/end ]; do sleep 0.05; done; "
                      f"touch {tmp_path}/{id}; exit {code}'")
    wait_until(lambda: all(bench.task(id).state == models.TaskState.running for id in EXIT_CODES))
    return bench


def changes(bench: Workbench) -> dict[str, Callable[[], object]]:
    """Requests for as many changes, by what they change."""
    client, node = bench.client, bench.nodes()[0].id
    return {
        'a job': lambda: client.job.add(models.JobAddParameter(
            id='new', pool_info=models.PoolInformation(pool_id='pool'))),
        'a task': lambda: bench.add('new', 'true'),
        'some tasks': lambda: client.task.add_collection('job', [
            models.TaskAddParameter(id=f'new{number}', command_line='true') for number in range(3)]),
        'a pool': lambda: Workbench(client, 'new', 'job').add_pool(),
        'a priority': lambda: client.job.patch('job', models.JobPatchParameter(priority=7)),
        'a property': lambda: client.pool.patch('pool', models.PoolPatchParameter(
            metadata=[models.MetadataItem(name='name', value='value')])),
        'the size': lambda: client.pool.resize('pool', models.PoolResizeParameter(target_dedicated_nodes=3)),
        'the scheduling': lambda: client.compute_node.disable_scheduling('pool', node, 'taskCompletion')}


def code_of(change: Callable[[], object]) -> str:
    """The code of the error that a request is answered with; '' if it is granted."""
    try:
        change()
    except models.BatchErrorException as error:
        return error.error.code
    return ''


def found(bench: Workbench) -> dict[str, Any]:
    """All that clients are told."""
    client = bench.client
    lists = {'pools': client.pool.list(), 'jobs': client.job.list(), 'tasks': client.task.list('job'),
             'nodes': bench.nodes()}
    return {name: {document.id: document.as_dict() for document in listed} for name, listed in lists.items()}


def end_tasks(tmp_path: Path) -> None:
    (tmp_path / 'end').touch()
    wait_until(lambda: all((tmp_path / id).exists() for id in EXIT_CODES))


def check_ends(bench: Workbench) -> None:
    for id, code in EXIT_CODES.items():
        assert bench.completed(id).execution_info.exit_code == code
        assert bench.output(id) == f'{id}\n'


@pytest.mark.parametrize('disk', [NO_ROOM], indirect=True)
def test_change_that_a_full_disk_does_not_take_is_refused_as_a_whole(
        disk: Disk, bench: Workbench, stderr: IO[str]) -> None:
    wanted = {**changes(bench), 'an end': lambda: bench.client.task.terminate('job', 'zero')}
    # On such an answer the SDK sends a collection again, for ever.
    some_tasks = wanted.pop('some tasks')
    before = found(bench)
    disk.fill()

    assert {what: code_of(change) for what, change in wanted.items()} == dict.fromkeys(wanted, 'InternalError')
    assert found(bench) == before
    assert bench.output('zero') == 'zero\n'
    assert bench.client.job.get_task_counts('job').task_counts.running == 2

    disk.make_room()
    for change in (*wanted.values(), some_tasks):
        change()
    assert bench.completed('new', 'new2').execution_info.exit_code == 0
    check_log(stderr, lines=len(wanted))


def check_log(stderr: IO[str], lines: int) -> None:
    """Each failure is one line that says why; the engine may have failed at something of its own, too."""
    logged = Path(stderr.name).read_text().splitlines()
    assert len(logged) >= lines and all(line.endswith('disk is full') for line in logged), logged


@pytest.mark.parametrize('disk', [NO_ROOM], indirect=True)
def test_end_of_a_task_that_a_full_disk_does_not_take_is_written_when_there_is_room(
        disk: Disk, bench: Workbench, stderr: IO[str], tmp_path: Path) -> None:
    disk.fill()
    end_tasks(tmp_path)
    assert code_of(lambda: bench.client.job.disable('job', 'wait')) == 'InternalError'
    wait_until(lambda: Path(stderr.name).read_text().count('tries again') == 2)
    assert all(bench.task(id).state == models.TaskState.running for id in EXIT_CODES)

    disk.make_room()
    check_ends(bench)
    assert all(bench.task(id).execution_info.requeue_count == 0 for id in EXIT_CODES)
    check_log(stderr, lines=3)


@pytest.mark.parametrize('disk', [NO_INODES], indirect=True)
def test_without_inodes_changes_are_kept_but_a_task_and_a_node_get_no_directory(
        disk: Disk, bench: Workbench, stderr: IO[str], tmp_path: Path) -> None:
    wanted = changes(bench)
    disk.fill()

    assert {what: code_of(change) for what, change in wanted.items()} == dict.fromkeys(wanted, '')
    failed = bench.completed('new0', 'new1', 'new2', 'new').execution_info
    assert failed.failure_info.code == 'ResourceDirectoryCreateFailed' and failed.exit_code is None
    unusable, = Workbench(bench.client, 'new', 'job').wait_for_nodes('unusable')
    assert 'No space left on device' in unusable.errors[0].message
    assert {job.id: job.priority for job in bench.client.job.list()} == {'job': 7, 'new': 0}
    end_tasks(tmp_path)
    check_ends(bench)

    disk.make_room()
    assert bench.run('next', 'echo next').execution_info.exit_code == 0
    check_log(stderr, lines=0)


@pytest.mark.parametrize('end', [ServiceProcess.kill, ServiceProcess.stop])
@pytest.mark.parametrize('disk', [NO_ROOM, NO_INODES], indirect=True)
def test_what_was_answered_is_there_after_an_end_and_a_start_on_a_full_disk(
        disk: Disk, service: ServiceProcess, bench: Workbench, tmp_path: Path,
        end: Callable[[ServiceProcess], object]) -> None:
    bench.add('before', 'true', constraints=models.TaskConstraints(max_task_retry_count=5))
    bench.completed('before')
    disk.fill()
    for change in ('a job', 'a priority'):
        code_of(changes(bench)[change])
    before = found(bench)
    end(service)
    disk.fill()

    served = starts(service)
    if served:
        bench.client = service.client()
        assert found(bench)['jobs'] == before['jobs']
        assert bench.task('before').state == models.TaskState.completed
        service.kill()
    disk.make_room()
    service.start()
    bench.client = service.client()
    after = found(bench)
    assert after['jobs'] == before['jobs'] and after['pools'] == before['pools']
    assert after['tasks']['before'] == before['tasks']['before']
    (tmp_path / 'end').touch()
    if not served:
        check_ends(bench)
    for id in EXIT_CODES:
        ended = bench.completed(id).execution_info
        assert ended.exit_code == EXIT_CODES[id] or ended.failure_info.code == 'ResourceDirectoryCreateFailed'


def starts(service: ServiceProcess) -> bool:
    """Whether a service can start; otherwise it says so in one line that names the reason."""
    tried = subprocess.run(
        [sys.executable, '-m', 'common.batch_service', '--workspace', service.workspace, '--account', ACCOUNT,
         '--key-file', service.key_file, '--exit-with-stdin', *service.options],
        cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    if tried.returncode == 0:
        service.start()
        return True
    assert tried.returncode == 1
    line, = tried.stderr.splitlines()
    assert 'disk is full' in line or 'No space left' in line
    return False
