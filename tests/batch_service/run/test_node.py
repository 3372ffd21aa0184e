"""One command on one node: real processes, files and servers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from azure.batch import models

from common.batch_service.life.outcome import Outcome
from common.batch_service.run import node as module
from common.batch_service.run.node import Command, Node, Stop
from common.batch_service.run.reaper import Reaper
from common.batch_service.run.transfers import Transfers
from common.batch_service.run.trash import Trash

from ..workbench import Workbench, wait_until
from .test_trash import as_ordinary_user

SECONDS = timedelta(seconds=1)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    reaper = Reaper(tmp_path / 'nodes')
    yield Node(tmp_path / 'nodes/node', tmp_path / 'programs', {}, Transfers(), reaper, Trash(tmp_path / 'trash'))
    reaper.close()


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that takes connections and says nothing."""
    with socket.create_server(('127.0.0.1', 0)) as listener:
        yield f'http://127.0.0.1:{listener.getsockname()[1]}'


def run(node: Node, line: str, *, stop_after: float | None = None, **rest: Any) -> Outcome:
    async def run() -> Outcome:
        stop = Stop()
        if stop_after is not None:
            asyncio.get_running_loop().call_later(stop_after, stop.set)
        return await node.run(Command(line, node.task_directory('job', 'task'), {}, **rest), stop)
    return asyncio.run(run())


def code_of(outcome: Outcome) -> str:
    return outcome.failure_info['code']


def output(pattern: str, url: str) -> dict[str, Any]:
    return {'filePattern': pattern, 'uploadOptions': {'uploadCondition': 'TaskCompletion'},
            'destination': {'container': {'containerUrl': url}}}


def file_of(node: Node, name: str) -> Path:
    return node.task_directory('job', 'task') / name


def waiting_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == 'waits']


def test_command_that_cannot_be_run_for_an_unforeseen_reason_has_an_outcome(node, caplog) -> None:
    outcome = run(node, 'true', resource_files=[{'unforeseen': ''}])
    assert (outcome.exit_code, code_of(outcome)) == (None, 'Unknown')
    assert outcome.failure_info['message'].startswith('KeyError: ')
    assert 'The node failed to run' in caplog.text


@pytest.mark.parametrize('end', [{'stop_after': 0.3}, {'time_limit': 0.3 * SECONDS}], ids=['stop', 'limit'])
def test_download_from_a_silent_server_ends_with_the_command(node, silent, end) -> None:
    began = time.monotonic()
    outcome = run(node, 'true', resource_files=[{'httpUrl': silent, 'filePath': str(number)} for number in range(9)],
                  **end)
    assert (outcome.exit_code, code_of(outcome)) == (None, 'TaskEnded')
    assert time.monotonic() - began < 3
    wait_until(lambda: not waiting_threads(), 3)


@pytest.mark.parametrize('end', [{'stop_after': 0.3}, {'time_limit': 0.3 * SECONDS}], ids=['stop', 'limit'])
def test_upload_to_a_silent_server_ends_with_the_command(node, silent, end, monkeypatch) -> None:
    monkeypatch.setattr(module, '_UPLOAD_AFTER_SECONDS', 0.5)
    began = time.monotonic()
    outcome = run(node, 'true', output_files=[output('../stdout.txt', silent)], **end)
    assert (outcome.exit_code, code_of(outcome)) == (0, 'TaskEnded')
    assert time.monotonic() - began < 3
    wait_until(lambda: not waiting_threads(), 3)


def test_pause_between_two_tries_ends_with_the_command(node) -> None:
    with socket.create_server(('127.0.0.1', 0)) as listener:
        refused = f'http://127.0.0.1:{listener.getsockname()[1]}'
    began = time.monotonic()
    assert code_of(run(node, 'true', stop_after=0.7, resource_files=[{'httpUrl': refused, 'filePath': 'x'}])) \
        == 'TaskEnded'
    assert time.monotonic() - began < 3
    wait_until(lambda: not waiting_threads(), 3)


def test_process_that_does_not_end_is_killed(node, monkeypatch) -> None:
    monkeypatch.setattr(module, 'KILL_AFTER_SECONDS', 0.3)
    outcome = run(node, "/bin/bash -c 'trap \"\" TERM; sleep 600; sleep 600'", stop_after=0.3)
    assert (outcome.exit_code, code_of(outcome)) == (-signal.SIGKILL, 'TaskEnded')


def test_command_that_is_to_end_before_it_began_is_not_run(node) -> None:
    async def stopped() -> Outcome:
        stop = Stop()
        stop.set()
        return await node.run(Command('touch ran', node.task_directory('job', 'task'), {}), stop)
    assert code_of(asyncio.run(stopped())) == 'TaskEnded'
    assert not file_of(node, 'wd/ran').exists()


@pytest.mark.real
def test_task_that_ended_in_time_succeeds_though_the_service_was_halted_beyond_its_limit(own_service, tmp_path) -> None:
    bench = Workbench(own_service.client(), 'pool', 'job')
    bench.add_pool()
    bench.add_job()
    bench.add('task', f"/bin/sh -c 'touch {tmp_path}/begun; sleep 1'",
              constraints=models.TaskConstraints(max_wall_clock_time=timedelta(seconds=2)))
    wait_until((tmp_path / 'begun').exists)
    own_service.process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    own_service.process.send_signal(signal.SIGCONT)
    assert bench.completed('task').execution_info.exit_code == 0
    assert bench.task('task').execution_info.result == models.TaskExecutionResult.success


@pytest.mark.real
def test_service_ends_at_once_though_transfers_are_under_way(own_service, silent) -> None:
    bench = Workbench(own_service.client(), 'pool', 'job')
    bench.add_pool()
    bench.add_job()
    for number in range(4):
        bench.add(f'task{number}', 'true', resource_files=[models.ResourceFile(http_url=silent, file_path='x')])
    wait_until(lambda: bench.task('task3').state == models.TaskState.running)
    began = time.monotonic()
    own_service.process.terminate()
    own_service.process.wait(10)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(('make', 'pattern'), [
    ('mkfifo pipe', 'pip*'), ('mkfifo pipe', 'pipe'), ('ln -s nowhere link', '*'), ('ln -s nowhere link', 'link'),
    ('rm -rf $AZ_BATCH_TASK_DIR', '../*.txt'), ('touch $(printf "a\\377")', '*'), ('true', '[z-a]*'),
    ('touch a', 'a'), ('rm ../fileuploadout.txt; mkdir ../fileuploadout.txt', '*')])
@pytest.mark.parametrize('exit_code', [0, 3])
def test_exit_code_stays_whatever_becomes_of_the_outputs(node, make, pattern, exit_code) -> None:
    outcome = run(node, f"/bin/bash -c '{make}; exit {exit_code}'", output_files=[output(pattern, 'no-url')],
                  time_limit=10 * SECONDS)
    assert (outcome.exit_code, code_of(outcome)) == (
        exit_code, 'FailureExitCode' if exit_code else 'FileUploadMiscError')


def test_exit_code_stays_when_an_upload_fails_for_an_unforeseen_reason(node, caplog) -> None:
    outcome = run(node, 'true', output_files=[{'unforeseen': ''}])
    assert (outcome.exit_code, code_of(outcome)) == (0, 'FileUploadMiscError')
    assert 'cannot be uploaded' in caplog.text


def test_program_whose_interpreter_is_missing_is_not_called_missing(node, tmp_path) -> None:
    for name, first_line in (('carriage', '#!/bin/bash\r\n'), ('none', '#!/no/such/program -x\n')):
        (tmp_path / name).write_text(f'{first_line}true\n')
        (tmp_path / name).chmod(0o755)
    outcome = run(node, str(tmp_path / 'carriage'))
    assert code_of(outcome) == 'CommandLaunchFailed'
    assert "not its interpreter, '/bin/bash\\r': its lines must end as on Linux" in outcome.failure_info['message']
    assert "'/no/such/program -x'" in run(node, str(tmp_path / 'none')).failure_info['message']
    assert code_of(run(node, str(tmp_path / 'missing'))) == 'CommandProgramNotFound'


def test_program_in_the_shared_or_the_working_directory_is_called_by_its_name(node) -> None:
    (node.root / 'shared/greet').write_text('#!/bin/sh\necho hello > wd-greet; chmod +x wd-greet\n')
    (node.root / 'shared/greet').chmod(0o755)
    outcome = run(node, "/bin/sh -c 'greet && printf \"#!/bin/sh\\nexit 5\\n\" > wd-greet && wd-greet'")
    assert outcome.exit_code == 5
    assert run(node, "/bin/sh -c 'echo $PATH'").exit_code == 0
    path = file_of(node, 'stdout.txt').read_text().strip().split(':')
    assert path[-2:] == [str(node.root / 'shared'), str(file_of(node, 'wd'))]


def test_command_line_as_long_as_linux_takes_is_run(node) -> None:
    line = "/bin/sh -c 'echo $#' " + ' '.join(["'" + 'x' * 100_000 + "'"] * 9)
    assert run(node, line).exit_code == 0
    assert file_of(node, 'stdout.txt').read_text() == '8\n'


@pytest.mark.parametrize('line', ["echo '" + 'x' * 200_000 + "'", 'echo' + ' a' * 450_000, 'echo ' + '\\a' * 450_000])
def test_longer_command_line_fails_and_nobody_waits_for_that(node, line) -> None:
    longest = 0.0

    async def run() -> Outcome:
        running = asyncio.ensure_future(node.run(Command(line, node.task_directory('job', 'task'), {}),
                                                 Stop()))
        nonlocal longest
        while not running.done():
            before = time.thread_time()
            await asyncio.sleep(0.001)
            longest = max(longest, time.thread_time() - before)
        return running.result()
    assert code_of(asyncio.run(run())) == 'CommandLaunchFailed'
    assert longest < 0.1


def test_directory_is_empty_when_a_command_begins_whatever_the_last_one_left(free_for_all) -> None:
    def work() -> None:
        told = SimpleNamespace(began=lambda group: None, ended=lambda group: None)
        node = Node(free_for_all / 'node', free_for_all, {}, Transfers(), told, Trash(free_for_all / 'trash'))
        run(node, "/bin/bash -c 'mkdir -p deep/er; touch deep/er/x; chmod 000 deep/er deep . ..'")
        assert run(node, "/bin/bash -c 'ls -A'").exit_code == 0
        assert file_of(node, 'stdout.txt').read_text() == ''
        wait_until(lambda: not any((free_for_all / 'trash').iterdir()))
    as_ordinary_user(work)


def test_task_cannot_hide_from_its_node(node) -> None:
    async def hide() -> Outcome:
        return await node.run(Command('/usr/bin/env', node.task_directory('job', 'task'), {
            'AZ_BATCH_NODE_ROOT_DIR': '/', 'AZ_BATCH_TASK_DIR': '/', 'PATH': '/bin'}), Stop())
    assert asyncio.run(hide()).exit_code == 0
    lines = file_of(node, 'stdout.txt').read_text().splitlines()
    assert {f'AZ_BATCH_NODE_ROOT_DIR={node.root}', f'AZ_BATCH_TASK_DIR={file_of(node, ".")}', 'PATH=/bin'} < set(lines)


def test_starting_a_program_needs_nothing_of_the_services_own_environment(node, monkeypatch) -> None:
    monkeypatch.setenv('SECRET', 'value')
    assert run(node, '/usr/bin/env').exit_code == 0
    assert 'SECRET' not in file_of(node, 'stdout.txt').read_text()


def test_killed_reaper_takes_no_exit_code_along(node) -> None:
    os.kill(node._reaper._process.pid, signal.SIGKILL)
    node._reaper._process.wait()
    assert [run(node, f"/bin/sh -c 'exit {code}'").exit_code for code in (0, 3)] == [0, 3]
