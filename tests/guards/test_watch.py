"""Waiting for tasks while something goes wrong: on the real local service, and with answers as Azure gives them."""
from __future__ import annotations

import fcntl
import os
import pty
import re
import socket
import struct
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import IO
from unittest.mock import MagicMock

import azure.batch.models as batchmodels
import pytest
import requests
from azure.core.exceptions import ServiceRequestError, ServiceResponseError
from msrest.exceptions import ClientRequestError
from pytest_mock import MockerFixture

import python_tutorial_client as client
from common.guards import WaitError, watch
from tests.batch_service.workbench import ServiceProcess, Workbench, wait_until

TWENTY_MINUTES = timedelta(minutes=20)
NODE = f'tvmps_{"0" * 64}_d'


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[..., ServiceProcess]]:
    """Starts a Batch service with options of its command line."""
    started: list[ServiceProcess] = []

    def start(*options: str) -> ServiceProcess:
        started.append(ServiceProcess(tmp_path, *options))
        return started[-1]

    yield start
    for service in started:
        if service.process.returncode is None:
            service.stop()


@pytest.fixture
def bench(start_service: Callable[..., ServiceProcess]) -> Workbench:
    """A service without troubles, and a job without a pool."""
    return a_job_on(start_service())


def a_job_on(service: ServiceProcess) -> Workbench:
    bench = Workbench(service.client(), 'mypool', 'myjob')
    bench.add_job()
    return bench


def start_task(script: str) -> batchmodels.StartTask:
    return batchmodels.StartTask(command_line=f"/bin/bash -c '{script}'", wait_for_success=True)


def wait(bench: Workbench, timeout: timedelta = TWENTY_MINUTES) -> bool:
    return client.wait_for_tasks_to_complete(bench.client, 'myjob', timeout)


def why_waiting_ended(bench: Workbench, timeout: timedelta = TWENTY_MINUTES) -> str:
    with pytest.raises(WaitError) as raised:
        wait(bench, timeout)
    return str(raised.value)


def meanwhile(bench: Workbench, act: Callable[[], object]) -> str:
    """Lets something happen while a task runs and is waited for; returns why the wait ended."""
    bench.add('long', '/bin/sleep 300')
    bench.add_pool()
    wait_until(lambda: bench.task('long').state == batchmodels.TaskState.running)
    acting = threading.Timer(0.5, act)
    acting.start()
    try:
        return why_waiting_ended(bench)
    finally:
        acting.join()


@pytest.mark.real
def test_start_task_failure_shows_its_output(bench: Workbench) -> None:
    bench.add_pool(nodes=2, start_task=start_task('echo to stdout; echo "no network: sig=secret" >&2; exit 3'))
    bench.add('waiting', '/bin/true')

    why = why_waiting_ended(bench)

    node_ids = {node.id for node in bench.nodes()}
    assert why.startswith('The start task failed on node tvmps_')
    assert any(f'on node {node_id}' in why for node_id in node_ids)
    assert 'exit code 3, usererror FailureExitCode: The task exited' in why
    assert 'The end of startup/stdout.txt:\n    | to stdout\n' in why
    assert 'The end of startup/stderr.txt:\n    | no network: sig=...\n' in why


@pytest.mark.real
def test_start_task_that_cannot_start_tells_the_failure(bench: Workbench) -> None:
    bench.add_pool(start_task=batchmodels.StartTask(command_line='no-such-program', wait_for_success=True))
    bench.add('waiting', '/bin/true')

    assert 'CommandProgramNotFound' in why_waiting_ended(bench)


@pytest.mark.real
def test_start_task_that_hangs_is_named_by_the_timeout(bench: Workbench) -> None:
    bench.add_pool(start_task=start_task('echo waiting for the lock; sleep 300'))
    bench.add('waiting', '/bin/true')
    bench.wait_for_nodes('waitingforstarttask')

    why = why_waiting_ended(bench, timedelta(seconds=1))

    assert why == '''\
ERROR: Tasks did not reach 'Completed' state within the timeout period of 0:00:01
  It ended while the start task was running.
  Tasks: 1 active, 0 running, 0 completed.
  Nodes: 1 waiting for start task.
  The end of startup/stdout.txt:
    | waiting for the lock
  startup/stderr.txt is empty.'''


@pytest.mark.real
def test_timeout_names_the_allocation_of_nodes(start_service: Callable[..., ServiceProcess]) -> None:
    bench = a_job_on(start_service('--allocation-seconds', '300'))
    bench.add_pool()
    bench.add('waiting', '/bin/true')

    why = why_waiting_ended(bench, timedelta(seconds=0.5))

    assert 'It ended while nodes were being allocated and started.' in why
    assert 'Nodes: none.' in why


@pytest.mark.real
def test_timeout_tells_how_far_the_tasks_came(bench: Workbench) -> None:
    bench.add_pool(slots=1)
    bench.run('short', '/bin/true')
    bench.add('long', '/bin/sleep 300')
    wait_until(lambda: bench.task('long').state == batchmodels.TaskState.running)
    bench.add('queued', '/bin/true')

    why = why_waiting_ended(bench, timedelta(seconds=0.5))

    assert 'It ended while tasks were running.\n  Tasks: 1 active, 1 running, 1 completed.' in why
    assert 'Nodes: 1 running.' in why


@pytest.mark.real
def test_no_node_but_unusable_ones_ends_the_wait(start_service: Callable[..., ServiceProcess]) -> None:
    bench = a_job_on(start_service('--unusable-nodes', '2'))
    bench.add_pool(nodes=2)
    bench.add('waiting', '/bin/true')

    why = why_waiting_ended(bench)

    assert 'Nodes: 2 unusable, of 2 that it asked for.' in why
    assert 'NodeUnusable: The service was asked to make this node unusable.' in why
    assert 'What to do: ' in why


@pytest.mark.real
def test_one_usable_node_is_enough(start_service: Callable[..., ServiceProcess]) -> None:
    bench = a_job_on(start_service('--unusable-nodes', '1'))
    bench.add_pool(nodes=2)
    bench.add('task', '/bin/true')

    assert wait(bench) is True


@pytest.mark.real
def test_core_quota_ends_the_wait_when_it_leaves_no_node(start_service: Callable[..., ServiceProcess]) -> None:
    bench = a_job_on(start_service('--core-quota', '1'))
    bench.add_pool(nodes=2)
    bench.add('waiting', '/bin/true')

    why = why_waiting_ended(bench)

    assert 'AccountCoreQuotaReached: The specified account has reached core quota' in why
    assert 'Nodes: none, of 2 that it asked for.' in why
    assert 'What to do: see the quotas' in why


@pytest.mark.real
def test_core_quota_is_a_note_when_it_leaves_a_node(start_service: Callable[..., ServiceProcess],
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    bench = a_job_on(start_service('--core-quota', '2'))
    bench.add_pool(nodes=2)
    bench.wait_for_nodes('idle')
    bench.add('task', '/bin/sleep 1.5')

    assert wait(bench) is True

    output = capsys.readouterr().out
    assert output.count('fewer nodes than it asked for, 1 of 2') == 1
    assert output.count('AccountCoreQuotaReached') == 1


@pytest.mark.real
@pytest.mark.parametrize(('act', 'reason'), [
    (lambda bench: bench.client.job.disable('myjob', 'requeue'), 'Job [myjob] is disabled'),
    (lambda bench: bench.client.job.delete('myjob'), 'The job of the tasks is gone'),
    (lambda bench: bench.client.pool.delete('mypool'), '(?:Pool .mypool. is being deleted|The pool .* is gone)'),
    (lambda bench: bench.client.pool.resize('mypool', batchmodels.PoolResizeParameter(target_dedicated_nodes=0)),
     'Pool [mypool] has no node that can run tasks'),
], ids=['disable job', 'delete job', 'delete pool', 'resize pool'])
def test_what_somebody_else_does_ends_the_wait(bench: Workbench, act: Callable[[Workbench], object],
                                               reason: str) -> None:
    pattern = reason if reason.startswith('(') else re.escape(reason)
    assert re.match(pattern, meanwhile(bench, lambda: act(bench)))


@pytest.mark.real
def test_tasks_that_are_gone_with_their_job_are_not_completed(start_service: Callable[..., ServiceProcess]) -> None:
    bench = a_job_on(start_service('--deletion-seconds', '60'))
    bench.client.job.delete('myjob')
    wait_until(lambda: bench.client.job.get('myjob').state == batchmodels.JobState.deleting)

    assert why_waiting_ended(bench).startswith('The job of the tasks is gone')


@pytest.mark.real
def test_a_job_that_somebody_terminates_ends_the_wait_for_its_active_tasks(bench: Workbench) -> None:
    def terminate() -> None:
        bench.client.job.terminate('myjob', 'my mistake')

    bench.add_pool(slots=1)
    bench.add('running', '/bin/sleep 300')
    wait_until(lambda: bench.task('running').state == batchmodels.TaskState.running)
    bench.add('active', '/bin/true')
    acting = threading.Timer(0.5, terminate)
    acting.start()

    why = why_waiting_ended(bench)

    acting.join()
    assert why.startswith('Job [myjob] is completed (my mistake), and not all of its tasks are completed')


@pytest.mark.real
def test_the_wait_survives_a_restart_of_the_service(start_service: Callable[..., ServiceProcess]) -> None:
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    service = start_service('--port', str(port))
    bench = a_job_on(service)
    bench.add_pool()
    bench.add('task', "/bin/bash -c 'until [ -e restarted ]; do sleep 0.1; done'")
    wait_until(lambda: bench.task('task').state == batchmodels.TaskState.running)

    def restart() -> None:
        service.stop()
        paused.wait(1.5)
        service.start()
        wait_until(lambda: bench.task('task').state == batchmodels.TaskState.running)
        for directory in service.workspace.rglob('task/wd'):
            (directory / 'restarted').touch()

    paused = threading.Event()
    acting = threading.Timer(0.5, restart)
    acting.start()
    assert wait(bench) is True
    acting.join()


@pytest.mark.real
def test_the_wait_survives_a_busy_service(start_service: Callable[..., ServiceProcess]) -> None:
    service = start_service()
    bench = a_job_on(service)
    bench.add_pool()
    bench.add('task', '/bin/sleep 1')
    service.stop()
    service.options = ('--busy-share', '0.5')
    service.start()

    assert wait(Workbench(service.client(), 'mypool', 'myjob')) is True


@pytest.mark.real
def test_a_service_that_stays_away_ends_the_wait(start_service: Callable[..., ServiceProcess],
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, '_PATIENCE_ON_THIS_MACHINE', timedelta(seconds=0.5))
    service = start_service()
    bench = a_job_on(service)
    bench.add('waiting', '/bin/true')
    service.kill()

    assert re.match(r'The Batch service has given no useful answer for 0:00:00\.5.*\n.*refused',
                    why_waiting_ended(bench))


@pytest.mark.real
def test_a_terminal_shows_how_far_the_tasks_are_and_then_nothing_of_it(bench: Workbench,
                                                                       terminal: Terminal) -> None:
    bench.add_pool(slots=1)
    bench.wait_for_nodes('idle')
    bench.run('done', '/bin/true')
    bench.add('first', '/bin/sleep 300')
    bench.add('second', '/bin/true')
    wait_until(lambda: bench.task('first').state == batchmodels.TaskState.running)

    def end_first() -> None:
        wait_until(lambda: 'nodes: ' in terminal.shown)
        bench.client.task.terminate('myjob', 'first')

    acting = threading.Thread(target=end_first)
    acting.start()
    shown = terminal.shows(lambda: wait(bench))
    acting.join()

    assert shown.startswith("Monitoring all tasks for 'Completed' state, timeout in 0:20:00...\n"
                            '\r\x1b[K  1 of 3 tasks completed, 1 running; nodes: 1 running\r\x1b[K')
    assert lines_left(shown) == ["Monitoring all tasks for 'Completed' state, timeout in 0:20:00...",
                                 '  Success!', '']


class Terminal:
    """A terminal of so many columns, which notes what a program writes to it."""

    def __init__(self, columns: int) -> None:
        self._chunks: list[bytes] = []
        self._ours, self._theirs = pty.openpty()
        tty.setraw(self._theirs)
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack('4H', 24, columns, 0, 0))

    @property
    def shown(self) -> str:
        return b''.join(self._chunks).decode()

    def shows(self, act: Callable[[], object]) -> str:
        """Returns what the function, and then a line of the test, writes."""
        with os.fdopen(self._ours, 'rb', buffering=0) as screen:
            reading = threading.Thread(target=self._read, args=(screen,))
            with os.fdopen(self._theirs, 'w') as stream, pytest.MonkeyPatch.context() as patch:
                reading.start()
                # The second is the one whose size shutil.get_terminal_size() looks at.
                patch.setattr(sys, 'stdout', stream)
                patch.setattr(sys, '__stdout__', stream)
                act()
                print('  Success!')
            reading.join()
        return self.shown

    def _read(self, screen: IO[bytes]) -> None:
        try:
            while chunk := screen.read(65536):
                self._chunks.append(chunk)
        except OSError:
            pass  # how Linux tells that the other end has been closed


@pytest.fixture
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """One of 80 columns, or of as many as the test's parameter says."""
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.delenv('COLUMNS', raising=False)
    return Terminal(getattr(request, 'param', 80))


def lines_left(shown: str) -> list[str]:
    """Returns what stays on a terminal: 'ESC [ K' erases, after a carriage return, the line that is there."""
    lines = [line.rpartition('\r\x1b[K')[2] for line in shown.split('\n')]
    assert not any(char in line for char in '\r\x1b' for line in lines)
    return lines


@pytest.fixture
def azure() -> MagicMock:
    """A Batch client that answers as Azure does: a job, a pool of two nodes that start, one active task."""
    azure = MagicMock()
    azure.config.batch_url = 'https://mybatch.westeurope.batch.azure.com'
    azure.task.list.side_effect = lambda *_, **__: [batchmodels.CloudTask(id='topNtask0', state='active')]
    azure.job.get.side_effect = None
    azure.job.get.return_value = batchmodels.CloudJob(
        id='myjob', state='active', pool_info=batchmodels.PoolInformation(pool_id='mypool'),
        execution_info=batchmodels.JobExecutionInformation(start_time=None, pool_id='mypool'))
    azure.pool.get.return_value = batchmodels.CloudPool(
        id='mypool', state='active', allocation_state='steady', target_dedicated_nodes=2,
        target_low_priority_nodes=0, enable_auto_scale=False)
    azure.compute_node.list.return_value = nodes('starting', 'starting')
    azure.job.get_task_counts.return_value = batchmodels.TaskCountsResult(
        task_counts=counts(active=1),
        task_slot_counts=batchmodels.TaskSlotCounts(active=1, running=0, completed=0, succeeded=0, failed=0))
    return azure


@pytest.fixture
def clock(mocker: MockerFixture) -> list[float]:
    """Lets the time pass only where the program sleeps."""
    now = [1000.0]
    mocker.patch('time.monotonic', lambda: now[0])
    mocker.patch('time.sleep', lambda seconds: now.__setitem__(0, now[0] + max(seconds, 0.001)))
    return now


def counts(active: int = 0, running: int = 0, completed: int = 0) -> batchmodels.TaskCounts:
    return batchmodels.TaskCounts(active=active, running=running, completed=completed, succeeded=completed, failed=0)


def tasks(*states: str) -> list[batchmodels.CloudTask]:
    return [batchmodels.CloudTask(id=f'topNtask{number}', state=state) for number, state in enumerate(states)]


def nodes(*states: str) -> list[batchmodels.ComputeNode]:
    known = {state.value: state for state in batchmodels.ComputeNodeState}
    return [batchmodels.ComputeNode(id=NODE, state=known.get(state, state)) for state in states]


def refusal(status: int, code: str | None) -> batchmodels.BatchErrorException:
    response = requests.Response()
    response.status_code = status
    response.request = requests.Request('GET', 'https://mybatch.westeurope.batch.azure.com/jobs').prepare()
    error = batchmodels.BatchError(code=code, message=batchmodels.ErrorMessage(value=f'It is {code}.'))
    return batchmodels.BatchErrorException(lambda *_: error, response)


def why(azure: MagicMock, timeout: timedelta = TWENTY_MINUTES) -> str:
    with pytest.raises(WaitError) as raised:
        client.wait_for_tasks_to_complete(azure, 'myjob', timeout)
    return str(raised.value)


def states_at_a_terminal(azure: MagicMock, terminal: Terminal) -> list[str]:
    """Returns the line that shows how far the tasks are, as often as it is written."""
    azure.task.list.side_effect = [tasks('active'), tasks('active'), []]
    shown = terminal.shows(lambda: client.wait_for_tasks_to_complete(azure, 'myjob', TWENTY_MINUTES))
    head, *lines, last = shown.split('\r\x1b[K')
    assert (head.count('\n'), last) == (1, '  Success!\n')
    return lines


def test_the_line_fits_a_terminal_of_80_columns_whatever_the_two_nodes_do(
        azure: MagicMock, clock: list[float], terminal: Terminal) -> None:
    azure.compute_node.list.return_value = nodes('waitingforstarttask', 'running')
    azure.job.get_task_counts.return_value.task_counts = counts(active=1, running=1, completed=1)

    assert set(states_at_a_terminal(azure, terminal)) == {
        '  1 of 3 tasks completed, 1 running; nodes: 1 waiting for start task, 1 running'}


@pytest.mark.parametrize('terminal', [80, 40, 2], ids='{} columns'.format, indirect=True)
def test_the_line_is_never_wrapped(azure: MagicMock, clock: list[float], terminal: Terminal,
                                   request: pytest.FixtureRequest) -> None:
    azure.compute_node.list.return_value = nodes(
        'waitingforstarttask', 'leavingpool', 'reimaging', 'rebooting', 'creating', 'starting', 'unknown')
    azure.job.get_task_counts.return_value.task_counts = counts(active=10_000, running=100, completed=20_000)

    columns = request.node.callspec.params['terminal']
    whole = '  20000 of 30100 tasks completed, 100 running; nodes: 1 waiting for start task, 1 leaving pool, '
    for line in states_at_a_terminal(azure, terminal):
        # In the last column, the cursor would already be on its way to the next line.
        assert len(line) == columns - 1
        assert line == whole[:len(line)]


def test_a_terminal_shows_nothing_that_is_not_known(azure: MagicMock, clock: list[float],
                                                    terminal: Terminal) -> None:
    azure.compute_node.list.side_effect = refusal(503, 'ServerBusy')

    assert states_at_a_terminal(azure, terminal) == []


def test_a_terminal_is_clean_after_an_error(azure: MagicMock, clock: list[float], terminal: Terminal) -> None:
    azure.compute_node.list.side_effect = [nodes('waitingforstarttask', 'idle'), nodes('starttaskfailed', 'idle')]

    shown = terminal.shows(lambda: why(azure))

    assert '\r\x1b[K  0 of 1 tasks completed; nodes: 1 waiting for start task, 1 idle\r\x1b[K' in shown
    assert lines_left(shown)[1:] == ['  Success!', '']


def test_a_terminal_keeps_what_is_noted(azure: MagicMock, clock: list[float], terminal: Terminal) -> None:
    azure.pool.get.return_value.resize_errors = [batchmodels.ResizeError(code='Few', message='There are few.')]
    azure.task.list.side_effect = [*[tasks('active')] * 20, []]

    shown = terminal.shows(lambda: client.wait_for_tasks_to_complete(azure, 'myjob', TWENTY_MINUTES))

    assert azure.pool.get.call_count > 1
    assert lines_left(shown)[1:] == [
        '  Pool [mypool] has fewer nodes than it asked for, 2 of 2; the tasks take longer.',
        '  Few: There are few.', '  Success!', '']


def test_a_dumb_terminal_gets_dots(azure: MagicMock, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TERM', 'dumb')
    azure.task.list.side_effect = [[]]

    shown = terminal.shows(lambda: client.wait_for_tasks_to_complete(azure, 'myjob', TWENTY_MINUTES))

    assert shown == "Monitoring all tasks for 'Completed' state, timeout in 0:20:00....\n  Success!\n"


def test_without_a_terminal_no_tasks_are_counted(azure: MagicMock, clock: list[float]) -> None:
    azure.task.list.side_effect = [tasks('active'), tasks('active'), []]

    client.wait_for_tasks_to_complete(azure, 'myjob', TWENTY_MINUTES)

    azure.job.get_task_counts.assert_not_called()


def test_the_pool_is_found_through_the_job(azure: MagicMock, clock: list[float]) -> None:
    why(azure, timedelta(seconds=5))

    assert {call.args[0] for call in azure.pool.get.call_args_list} == {'mypool'}
    assert {call.args[0] for call in azure.compute_node.list.call_args_list} == {'mypool'}


def test_the_pool_that_batch_made_for_the_job_is_looked_at(azure: MagicMock) -> None:
    azure.job.get.return_value.pool_info = batchmodels.PoolInformation(auto_pool_specification=None)
    azure.job.get.return_value.execution_info.pool_id = 'itsown'

    why(azure, timedelta(seconds=0.1))

    assert {call.args[0] for call in azure.pool.get.call_args_list} == {'itsown'}


def test_a_pool_that_batch_is_still_to_make_for_the_job_is_waited_for(azure: MagicMock, clock: list[float]) -> None:
    azure.job.get.return_value.pool_info = batchmodels.PoolInformation(auto_pool_specification=None)
    azure.job.get.return_value.execution_info = None

    text = why(azure, timedelta(seconds=5))

    assert 'It ended while nodes were being allocated and started.' in text
    azure.pool.get.assert_not_called()


def test_a_job_that_knows_only_the_id_of_its_pool_is_enough(azure: MagicMock, clock: list[float]) -> None:
    azure.job.get.return_value.execution_info = None

    why(azure, timedelta(seconds=5))

    assert {call.args[0] for call in azure.pool.get.call_args_list} == {'mypool'}


def test_a_job_that_batch_cannot_schedule_tells_why(azure: MagicMock) -> None:
    azure.job.get.return_value.state = batchmodels.JobState.disabled
    azure.job.get.return_value.execution_info.scheduling_error = batchmodels.JobSchedulingError(
        category='usererror', code='AutoPoolCreationFailed', message='There is no such size',
        details=[batchmodels.NameValuePair(name='Size', value='HUGE')])

    assert why(azure).splitlines() == [
        "Job [myjob] is disabled, and not all of its tasks are completed: without somebody's doing they will not be.",
        '  AutoPoolCreationFailed: There is no such size (Size=HUGE)']


def test_a_pool_that_somebody_deletes_ends_the_wait(azure: MagicMock) -> None:
    azure.pool.get.return_value.state = batchmodels.PoolState.deleting

    assert why(azure).startswith('Pool [mypool] is being deleted, and not all tasks are completed')


def test_a_start_task_that_failed_on_several_nodes_says_on_how_many(azure: MagicMock) -> None:
    azure.compute_node.list.return_value = nodes('starttaskfailed', 'idle', 'starttaskfailed', 'starttaskfailed')

    text = why(azure)

    assert text.startswith(f'The start task failed on node {NODE}, and on 2 more of 4 nodes, so that no task can run')
    assert text.splitlines()[-1].startswith('  What to do: put right what the start task runs (start_task_commands);')


def test_nodes_without_future_tell_their_first_errors_and_all_that_was_asked_for(azure: MagicMock) -> None:
    azure.pool.get.return_value.target_low_priority_nodes = 3
    azure.compute_node.list.return_value = nodes('offline', *['unusable'] * 4)
    for node in azure.compute_node.list.return_value:
        node.errors = [batchmodels.ComputeNodeError(code='DiskFull', message='Its disk is full.')]

    text = why(azure)

    assert text.splitlines()[0].endswith('Nodes: 4 unusable, 1 offline, of 5 that it asked for.')
    assert text.count(f'  Node {NODE}: DiskFull: Its disk is full.') == 3


def test_nodes_that_somebody_took_away_need_no_advice(azure: MagicMock) -> None:
    azure.compute_node.list.return_value = []

    assert why(azure) == ('Pool [mypool] has no node that can run tasks, and none is on its way. '
                          'Nodes: none, of 2 that it asked for.')


def test_the_timeout_with_idle_nodes_is_one_of_the_tasks(azure: MagicMock, clock: list[float]) -> None:
    azure.compute_node.list.return_value = nodes('idle', 'waitingforstarttask')

    text = why(azure, timedelta(seconds=5))

    assert 'It ended while tasks were running.' in text
    assert 'startup/' not in text


def test_the_pool_is_looked_at_once_a_second_at_most(azure: MagicMock, clock: list[float]) -> None:
    why(azure, timedelta(seconds=30))

    assert azure.task.list.call_count > azure.pool.get.call_count
    assert 10 < azure.pool.get.call_count <= 31


def test_allocation_failure_tells_code_message_and_values(azure: MagicMock) -> None:
    azure.compute_node.list.return_value = []
    azure.pool.get.return_value.resize_errors = [batchmodels.ResizeError(
        code='AllocationFailed', message='Desired number of dedicated nodes could not be allocated',
        values=[batchmodels.NameValuePair(name='Reason', value='The VM size is not available')])]

    text = why(azure)

    assert ('AllocationFailed: Desired number of dedicated nodes could not be allocated '
            '(Reason=The VM size is not available)') in text
    assert 'What to do: try again later, or use another VM size' in text


@pytest.mark.parametrize(('state', 'words'), [
    ('preempted', 'preempted'), ('leavingpool', 'leaving pool'), ('offline', 'offline')])
def test_nodes_that_take_no_tasks_are_none(azure: MagicMock, state: str, words: str) -> None:
    azure.compute_node.list.return_value = nodes(state)

    assert f'Nodes: 1 {words}, of 2 that it asked for.' in why(azure)


@pytest.mark.parametrize('change', [
    {'allocation_state': 'resizing'},  # Batch replaces them
    {'enable_auto_scale': True},       # the formula may ask for nodes yet
])
def test_a_pool_that_may_get_nodes_is_waited_for(azure: MagicMock, clock: list[float],
                                                 change: dict[str, object]) -> None:
    azure.compute_node.list.return_value = nodes('unusable')
    for name, value in change.items():
        setattr(azure.pool.get.return_value, name, value)

    assert why(azure, timedelta(minutes=1)).startswith('ERROR: Tasks did not reach')


def test_the_timeout_gives_way_to_a_better_reason(azure: MagicMock) -> None:
    azure.compute_node.list.side_effect = [nodes('starting'), nodes('unusable')]

    assert 'Nodes: 1 unusable' in why(azure, timedelta(seconds=0.1))


def test_the_timeout_is_told_even_if_nothing_else_can_be(azure: MagicMock, clock: list[float]) -> None:
    azure.job.get_task_counts.side_effect = ClientRequestError('connection reset')

    text = why(azure, timedelta(minutes=1))

    assert text.startswith("ERROR: Tasks did not reach 'Completed' state within the timeout period of 0:01:00\n")
    assert 'How far they came is not known: ' in text


def test_logs_that_cannot_be_read_are_no_error(azure: MagicMock) -> None:
    azure.compute_node.list.return_value = [batchmodels.ComputeNode(
        id=NODE, state='starttaskfailed', start_task_info=batchmodels.StartTaskInformation(
            state='completed', start_time=None, retry_count=0, exit_code=7, result='failure'))]
    azure.file.get_properties_from_compute_node.side_effect = refusal(409, 'NodeNotReady')

    text = why(azure)

    assert f'The start task failed on node {NODE}, so that no task can run there.\n  exit code 7\n' in text
    assert 'startup/stderr.txt cannot be read: ' in text


@pytest.mark.parametrize('trouble', [
    refusal(408, 'OperationTimedOut'), refusal(429, 'TooManyRequests'), refusal(500, 'InternalError'),
    refusal(503, 'ServerBusy'), ClientRequestError('timed out'), ServiceRequestError('no token'),
    ServiceResponseError('no token'), requests.ConnectionError('reset by peer'), ConnectionResetError(104, 'reset'),
], ids=['408', '429', '500', '503', 'timed out', 'token not asked for', 'token not got', 'requests', 'reset'])
@pytest.mark.parametrize('call', ['task.list', 'job.get', 'pool.get', 'compute_node.list'])
def test_transient_trouble_does_not_end_the_wait(azure: MagicMock, clock: list[float], trouble: Exception,
                                                 call: str) -> None:
    group, verb = call.split('.')
    operation = getattr(getattr(azure, group), verb)
    usual = operation.side_effect or (lambda *_, **__: operation.return_value)
    looks = 0

    def troubled(*args: object, **kwargs: object) -> object:
        nonlocal looks
        looks += 1
        if looks < 30:
            raise trouble
        azure.task.list.side_effect = lambda *_, **__: []
        return usual(*args, **kwargs) if call != 'task.list' else []

    operation.side_effect = troubled

    assert client.wait_for_tasks_to_complete(azure, 'myjob', TWENTY_MINUTES) is True


def test_transient_trouble_that_lasts_ends_the_wait(azure: MagicMock, clock: list[float]) -> None:
    azure.task.list.side_effect = refusal(503, 'ServerBusy')

    text = why(azure)

    assert text.startswith('The Batch service has given no useful answer for 0:02:00;')
    assert 'ServerBusy' in text
    assert 1120 <= clock[0] < 1130


def test_trouble_now_and_then_is_not_trouble_that_lasts(azure: MagicMock, clock: list[float]) -> None:
    looks = iter(range(10_000))
    active = [batchmodels.CloudTask(id='topNtask0', state='active')]

    def every_second_look(*_: object, **__: object) -> list[batchmodels.CloudTask]:
        if next(looks) % 2:
            raise refusal(503, 'ServerBusy')
        return active

    azure.task.list.side_effect = every_second_look

    assert why(azure, timedelta(minutes=5)).startswith('ERROR: Tasks did not reach')


def test_a_refusal_is_no_transient_trouble(azure: MagicMock) -> None:
    azure.pool.get.side_effect = refusal(403, 'AuthenticationFailed')

    with pytest.raises(batchmodels.BatchErrorException):
        client.wait_for_tasks_to_complete(azure, 'myjob', TWENTY_MINUTES)


def test_a_job_that_ends_with_its_last_task_is_no_trouble(azure: MagicMock, clock: list[float]) -> None:
    azure.task.list.side_effect = [[batchmodels.CloudTask(id='topNtask0', state='running')], []]
    azure.job.get.return_value.state = 'completed'

    assert client.wait_for_tasks_to_complete(azure, 'myjob', TWENTY_MINUTES) is True


def test_a_mocked_client_that_says_nothing_of_pools_is_waited_with(clock: list[float]) -> None:
    bare = MagicMock()
    bare.task.list.return_value = [batchmodels.CloudTask(id='topNtask0', state='running')]

    assert why(bare, timedelta(seconds=10)).startswith('ERROR: Tasks did not reach')
