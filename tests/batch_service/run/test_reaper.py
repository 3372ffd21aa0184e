from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.batch_service.run import reaper as module
from common.batch_service.run.reaper import Reaper, end_processes_below

from ..workbench import Workbench, wait_until

linux = pytest.mark.skipif(sys.platform != 'linux', reason='other systems do not tell what is in an environment')


@pytest.fixture
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    """A process group that has nothing of a node in its environment."""
    with subprocess.Popen(['sleep', '600'], env={}, start_new_session=True) as process:
        yield process
        process.kill()


def test_group_that_it_was_told_of_is_killed(sleeping, tmp_path: Path) -> None:
    reaper = Reaper(tmp_path)
    reaper.began(sleeping.pid)
    reaper.close()
    assert sleeping.wait(timeout=10) == -9


def test_group_that_has_ended_is_left_alone(sleeping, tmp_path: Path) -> None:
    reaper = Reaper(tmp_path)
    reaper.began(sleeping.pid)
    reaper.ended(sleeping.pid)
    reaper.close()
    assert sleeping.poll() is None


def stat_of(pid: int) -> str:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(') ')[2]
    except (FileNotFoundError, ProcessLookupError):
        return ''


def is_alive(pid: int) -> bool:
    """One that has ended and waits to be noticed is not."""
    return stat_of(pid)[:1] not in ('', 'Z', 'X')


def begin(script: str, directory: Path, **environment: str) -> list[int]:
    """Runs a script that writes the ids of processes into $PIDS, two of them; returns those."""
    pids = directory / 'pids'
    subprocess.run(['/bin/bash', '-c', script], env={'PIDS': str(pids), 'PATH': '/usr/bin:/bin', **environment},
                   start_new_session=True, check=True, timeout=20)
    wait_until(lambda: pids.exists() and pids.read_text().count('\n') == 2)
    return [int(pid) for pid in pids.read_text().split()]


DAEMONS = '''
setsid sleep 600 & echo $! >> $PIDS
(setsid bash -c 'sleep 600 & echo $! >> $PIDS' &)
'''


@linux
@pytest.mark.parametrize('variable', ['AZ_BATCH_NODE_ROOT_DIR', 'AZ_BATCH_TASK_DIR'])
def test_daemons_of_a_directory_are_ended(tmp_path, variable) -> None:
    daemons = begin(DAEMONS, tmp_path, **{variable: f'{tmp_path}/nodes/node'})
    for other in ('nodes/node/below', 'nodes/nod', 'nodes/node2'):
        end_processes_below(tmp_path / other)
    assert all(map(is_alive, daemons))
    end_processes_below(tmp_path / 'nodes')
    wait_until(lambda: not any(map(is_alive, daemons)))


@linux
def test_processes_that_start_each_other_anew_are_ended(tmp_path) -> None:
    # Two that watch each other in sessions of their own, and each makes a successor of itself all the time.
    (tmp_path / 'again').write_text('echo $$ >> $PIDS\nsleep 0.01\nsetsid bash $0 &\nsetsid sleep 600 &\n')
    end = threading.Event()
    bomb = subprocess.Popen(['/bin/bash', tmp_path / 'again'], start_new_session=True, env={
        'PATH': '/usr/bin:/bin', 'PIDS': str(tmp_path / 'pids'), 'AZ_BATCH_NODE_ROOT_DIR': str(tmp_path)})
    bomb.wait()
    end.wait(0.3)
    end_processes_below(tmp_path)
    written = (tmp_path / 'pids').read_text()
    end.wait(0.3)
    assert (tmp_path / 'pids').read_text() == written
    assert written.count('\n') > 1


@linux
def test_search_among_many_processes_is_quick(tmp_path) -> None:
    with contextlib.ExitStack() as ending:
        for _ in range(200):
            process = ending.enter_context(subprocess.Popen(['sleep', '600'], env={'PATH': '/bin:/usr/bin'}))
            ending.callback(process.kill)
        began = time.thread_time()
        end_processes_below(tmp_path)
        assert time.thread_time() - began < 0.1


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGSTOP])
def test_reaper_that_is_no_more_is_replaced_and_told_of_all(sleeping, tmp_path, number, caplog, monkeypatch) -> None:
    monkeypatch.setattr(module, '_PATIENCE_SECONDS', 0.5)
    reaper = Reaper(tmp_path)
    reaper.began(sleeping.pid)
    first = reaper._process
    os.kill(first.pid, number)
    if number == signal.SIGKILL:
        first.wait()
    for process_group in range(10_000_000, 10_020_000):
        if reaper._process is first:
            reaper.ended(process_group)
    assert reaper._process is not first
    assert caplog.text.count('there is another one') == 1
    reaper.close()
    assert sleeping.wait(timeout=10) == -9


def test_service_does_the_reapers_work_when_that_is_gone_at_the_end(sleeping, tmp_path) -> None:
    reaper = Reaper(tmp_path)
    reaper.began(sleeping.pid)
    reaper._process.kill()
    reaper.close()
    assert sleeping.wait(timeout=10) == -9


def test_service_does_the_reapers_work_when_there_can_be_no_other(sleeping, tmp_path, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError('too many processes')

    reaper = Reaper(tmp_path)
    reaper._process.kill()
    reaper._process.wait()
    monkeypatch.setattr(module.subprocess, 'Popen', refuse)
    reaper.began(sleeping.pid)
    reaper.close()
    monkeypatch.undo()
    assert sleeping.wait(timeout=10) == -9


def test_its_end_is_seen_though_very_many_files_are_open(tmp_path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2_048, limits[1]))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)]
    try:
        Reaper(tmp_path).close()
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@linux
def test_reaper_shows_tasks_nothing_of_the_services_environment(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv('SECRET', 'value')
    reaper = Reaper(tmp_path)
    assert 'SECRET' not in Path(f'/proc/{reaper._process.pid}/environ').read_text()
    reaper.close()


@pytest.mark.real
@linux
def test_next_service_ends_what_one_left_that_was_killed_with_its_reaper(own_service, tmp_path) -> None:
    bench = Workbench(own_service.client(), 'pool', 'job')
    bench.add_pool()
    bench.add_job()
    bench.add('task', f"/bin/bash -c 'echo $$ >> {tmp_path}/pids; setsid sleep 600 & echo $! >> {tmp_path}/pids; wait'")
    wait_until(lambda: (tmp_path / 'pids').exists() and (tmp_path / 'pids').read_text().count('\n') == 2)
    pids = [int(pid) for pid in (tmp_path / 'pids').read_text().split()]
    for stat in Path('/proc').glob('[0-9]*/stat'):
        pid = int(stat.parent.name)
        if stat_of(pid).split()[1:2] == [str(own_service.process.pid)] and b'reaper.py' in Path(
                f'/proc/{pid}/cmdline').read_bytes():
            os.kill(pid, signal.SIGKILL)
    own_service.kill()
    assert all(map(is_alive, pids))
    own_service.start()
    assert not any(map(is_alive, pids))


@pytest.mark.real
@linux
def test_daemon_of_a_task_is_gone_when_its_pool_is(own_service, tmp_path) -> None:
    bench = Workbench(own_service.client(), 'pool', 'job')
    bench.add_pool()
    bench.add_job()
    script, written = tmp_path / 'daemon', tmp_path / 'pid'
    script.write_text(f'echo $$ > {written}\nexec sleep 600\n')
    bench.run('task', f"/bin/bash -c 'setsid bash {script} & until [ -s {written} ]; do sleep 0.01; done'")
    pid = int(written.read_text())
    assert is_alive(pid)
    bench.client.pool.delete('pool')
    wait_until(lambda: not is_alive(pid))
