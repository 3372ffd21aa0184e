"""What tasks do not get from the process of the service."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

import pytest

from common.batch_service.run.inheritance import keep_from_tasks

from ..workbench import ServiceProcess, Workbench, wait_until
from .test_trash import as_ordinary_user

linux = pytest.mark.skipif(sys.platform != 'linux', reason='only Linux has this')


@linux
def test_task_of_the_same_user_reads_neither_environment_nor_memory() -> None:
    def readable(name: str) -> bool:
        return subprocess.run(['/usr/bin/head', '-c1', f'/proc/{os.getpid()}/{name}'], capture_output=True,
                              env={}).returncode == 0

    def work() -> None:
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # to change the user has done it already
        assert readable('environ')
        keep_from_tasks()
        assert not readable('environ')
        assert not readable('maps')
        # What is started can be read again: the reaper finds processes so.
        child = subprocess.Popen(['/bin/sleep', '600'], env={'NAME': 'VALUE'})
        # Popen returns a moment before Linux has put the variables in their place.
        wait_until(lambda: subprocess.run(['/usr/bin/head', '-c10', f'/proc/{child.pid}/environ'], capture_output=True,
                                          env={}).stdout == b'NAME=VALUE')
        child.kill()
        child.wait()
    as_ordinary_user(work)


@linux
def test_task_gets_no_new_privileges() -> None:
    def work() -> None:
        keep_from_tasks()
        status = subprocess.run(['/bin/cat', '/proc/self/status'], capture_output=True, text=True).stdout
        assert 'NoNewPrivs:\t1' in status
    as_ordinary_user(work)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
def test_task_does_not_ignore_what_the_parent_of_the_service_ignores(tmp_path, number) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        service = ServiceProcess(tmp_path)
    finally:
        signal.signal(number, before)
    try:
        bench = Workbench(service.client(), 'pool', 'job')
        bench.add_pool()
        bench.add_job()
        task = bench.run('task', f'python3 -c "import os; os.kill(os.getpid(), {int(number)})"')
        assert task.execution_info.exit_code == -number
    finally:
        assert service.stop() == 0
