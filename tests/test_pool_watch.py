"""Waiting for tasks while something goes wrong: on the real local service, and with answers as Azure gives them."""
from __future__ import annotations

import os
import pty
import re
import socket
import sys
import threading
import tty
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from unittest.mock import MagicMock

import azure.batch.models as batchmodels
import pytest
import requests
from msrest.exceptions import ClientRequestError
from pytest_mock import MockerFixture

import python_tutorial_client as client
from common import pool_watch
from common.pool_watch import WaitError
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
  Nodes: 1 waitingforstarttask.
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
    monkeypatch.setattr(pool_watch, '_PATIENCE_ON_THIS_MACHINE', timedelta(seconds=0.5))
    service = start_service()
    bench = a_job_on(service)
    bench.add('waiting', '/bin/true')
    service.kill()

    assert re.match(r'The Batch service has given no useful answer for 0:00:00\.5.*\n.*refused',
                    why_waiting_ended(bench))


@pytest.mark.real
def test_a_terminal_shows_a_bar_and_then_nothing_of_it(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setenv('COLUMNS', '120')
    bench.add_pool(slots=1)
    bench.wait_for_nodes('idle')
    bench.run('done', '/bin/true')
    bench.add('first', '/bin/sleep 2')
    bench.add('second', '/bin/true')
    threads = threading.active_count()

    shown = at_a_terminal(monkeypatch, lambda: wait(bench))

    assert shown.startswith("Monitoring all tasks for 'Completed' state, timeout in 0:20:00...\n")
    assert 'nodes: 1 running; tasks: 1 active, 1 running, 1 completed' in shown
    assert lines_left(shown) == ["Monitoring all tasks for 'Completed' state, timeout in 0:20:00...",
                                 '  Success!', '']
    assert threading.active_count() == threads


@pytest.mark.real
def test_a_terminal_is_clean_after_an_error(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TERM', 'xterm')
    bench.add_pool(start_task=start_task('exit 1'))
    bench.add('waiting', '/bin/true')

    shown = at_a_terminal(monkeypatch, lambda: why_waiting_ended(bench))

    assert lines_left(shown)[1:] == ['  Success!', '']


def test_a_dumb_terminal_gets_dots(azure: MagicMock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TERM', 'dumb')
    azure.task.list.side_effect = [[]]

    shown = at_a_terminal(monkeypatch, lambda: client.wait_for_tasks_to_complete(azure, 'myjob', TWENTY_MINUTES))

    assert shown == "Monitoring all tasks for 'Completed' state, timeout in 0:20:00....\n  Success!\n"


def at_a_terminal(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> str:
    """Returns what the function, and then a line of the test, wrote to a terminal."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    chunks: list[bytes] = []
    with os.fdopen(ours, 'rb', buffering=0) as screen:
        reading = threading.Thread(target=_read_all, args=(screen, chunks))
        with os.fdopen(theirs, 'w') as terminal, monkeypatch.context() as patch:
            reading.start()
            patch.setattr(sys, 'stdout', terminal)
            act()
            print('  Success!')
        reading.join()
    return b''.join(chunks).decode()


def _read_all(screen, chunks: list[bytes]) -> None:
    try:
        while chunk := screen.read(65536):
            chunks.append(chunk)
    except OSError:
        pass  # how Linux tells that the other end has been closed


def lines_left(shown: str) -> list[str]:
    """Returns what stays on a terminal: after a carriage return, text goes over what is there."""
    assert '\x1b' not in shown.replace('\x1b[A', '')
    lines = []
    for line in shown.split('\n'):
        left = ''
        for part in line.split('\r'):
            left = part + left[len(part):]
        lines.append(left.rstrip() if left.strip() else '')
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
        task_counts=batchmodels.TaskCounts(active=1, running=0, completed=0, succeeded=0, failed=0),
        task_slot_counts=batchmodels.TaskSlotCounts(active=1, running=0, completed=0, succeeded=0, failed=0))
    return azure


@pytest.fixture
def clock(mocker: MockerFixture) -> list[float]:
    """Lets the time pass only where the program sleeps."""
    now = [1000.0]
    mocker.patch('time.monotonic', lambda: now[0])
    mocker.patch('time.sleep', lambda seconds: now.__setitem__(0, now[0] + max(seconds, 0.001)))
    return now


def nodes(*states: str) -> list[batchmodels.ComputeNode]:
    return [batchmodels.ComputeNode(id=NODE, state=state) for state in states]


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


def test_the_pool_is_found_through_the_job(azure: MagicMock, clock: list[float]) -> None:
    why(azure, timedelta(seconds=5))

    assert {call.args[0] for call in azure.pool.get.call_args_list} == {'mypool'}
    assert {call.args[0] for call in azure.compute_node.list.call_args_list} == {'mypool'}


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


@pytest.mark.parametrize('state', ['preempted', 'leavingpool', 'offline'])
def test_nodes_that_take_no_tasks_are_none(azure: MagicMock, state: str) -> None:
    azure.compute_node.list.return_value = nodes(state)

    assert f'Nodes: 1 {state}, of 2 that it asked for.' in why(azure)


@pytest.mark.parametrize('change', [
    {'allocation_state': 'resizing'},  # Batch replaces them
    {'enable_auto_scale': True},       # the formula may ask for nodes yet
])
def test_a_pool_that_may_get_nodes_is_waited_for(azure: MagicMock, clock: list[float],
                                                 change: dict[str, object]) -> None:
    azure.compute_node.list.return_value = nodes('unusable')
    for name, value in change.items():
        setattr(azure.pool.get.return_value, name, value)

    assert why(azure).startswith('ERROR: Tasks did not reach')


def test_the_timeout_gives_way_to_a_better_reason(azure: MagicMock) -> None:
    azure.compute_node.list.side_effect = [nodes('starting'), nodes('unusable')]

    assert 'Nodes: 1 unusable' in why(azure, timedelta(seconds=0.1))


def test_the_timeout_is_told_even_if_nothing_else_can_be(azure: MagicMock, clock: list[float]) -> None:
    azure.job.get_task_counts.side_effect = ClientRequestError('connection reset')

    text = why(azure)

    assert text.startswith("ERROR: Tasks did not reach 'Completed' state within the timeout period of 0:20:00\n")
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
    refusal(429, 'TooManyRequests'), refusal(500, 'InternalError'), refusal(503, 'ServerBusy'),
    ClientRequestError('timed out'), requests.ConnectionError('reset by peer'), ConnectionResetError(104, 'reset'),
], ids=repr)
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

    assert why(azure).startswith('ERROR: Tasks did not reach')


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
