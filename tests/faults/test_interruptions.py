"""Signals, Ctrl-C, a terminal that is closed, nobody who reads: the run ends in one line, and nothing is left."""
from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

import python_tutorial_client
from tests.faults.client_process import SLOW_TASKS, Client, hold_at
from tests.faults.cloud import JOB, POOL, Cloud

SIGNALS = [(signal.SIGINT, 130, 'Interrupted'), (signal.SIGTERM, 143, 'Terminated'), (signal.SIGHUP, 129, 'Hung up')]


@pytest.mark.parametrize('number, code, word', SIGNALS)
@pytest.mark.parametrize('moment', ['taskdata1.txt to', 'Creating pool', 'Monitoring', 'Downloading',
                                    'Deleting containers', 'Delete pool?'])
def test_a_signal_leaves_nothing(cloud: Cloud, start_client: Callable[..., Client], moment: str,
                                 number: signal.Signals, code: int, word: str) -> None:
    client = start_client(cloud, '--yes', patch=hold_at(moment))
    client.says(moment)

    client.process.send_signal(number)

    assert client.ends() == code, client.output + client.errors
    assert client.errors == f'ERROR: {word}.\n'
    assert cloud.left() == set()


def test_a_signal_at_a_terminal_is_not_followed_by_questions(
        cloud: Cloud, start_client: Callable[..., Client]) -> None:
    client = start_client(cloud, terminal=True, patch=SLOW_TASKS.format('sleep 30'))
    client.says('Monitoring')

    client.process.send_signal(signal.SIGHUP)

    assert client.ends() == 129
    assert 'Delete job? [Y/n] yes\n' in client.output
    assert cloud.left() == set()


@pytest.mark.parametrize('moment, seconds', [('Monitoring', 30), ('Delete job?', 0)])
def test_a_terminal_that_is_closed_leaves_nothing(cloud: Cloud, start_client: Callable[..., Client], moment: str,
                                                  seconds: int) -> None:
    client = start_client(cloud, screen=True, patch=SLOW_TASKS.format(f'sleep {seconds}'))
    assert moment in client.screen(until=moment)

    client.close_terminal()

    assert client.ends() == 129
    assert cloud.left() == set()


def test_under_nohup_the_run_goes_on(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    client = start_client(cloud, patch=hold_at('Monitoring') + 'signal.signal(signal.SIGHUP, signal.SIG_IGN)')
    client.says('Monitoring')
    client.process.send_signal(signal.SIGHUP)
    client.go_on('Monitoring')

    assert client.ends() == 0, client.errors


def test_ctrl_c_that_cuts_off_any_answer_leaves_nothing(
        cloud: Cloud, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The service has done what it was asked for, and the client does not hear of it."""
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, 'argv', ['python_tutorial_client.py', '--yes'])
    monkeypatch.setattr(python_tutorial_client, '_INPUT_FILES', python_tutorial_client._INPUT_FILES[:1])
    send = requests.Session.send
    cut_off: list[str] = []
    countdown = 0

    def send_and_interrupt(*arguments, **options) -> requests.Response:
        nonlocal countdown
        response = send(*arguments, **options)
        countdown -= 1
        if countdown == 0:
            cut_off.append(f'{response.request.method} {response.request.path_url}')
            response.close()
            raise KeyboardInterrupt
        return response

    for calls in itertools.count(1):
        with monkeypatch.context() as patch:
            countdown = calls
            patch.setattr(requests.Session, 'send', send_and_interrupt)
            assert python_tutorial_client.main() == 130
        assert cloud.left() == set(), f'after {cut_off[-1]}'
        if cut_off[-1].startswith(f'PATCH /jobs/{JOB}'):
            break

    for creation in ('PUT /storage/application', 'PUT /storage/output', 'POST /pools', 'POST /jobs',
                     f'POST /jobs/{JOB}/addtaskcollection'):
        assert any(call.startswith(creation) for call in cut_off), creation


def test_ctrl_c_while_cleaning_up_leaves_at_once_and_says_what_is_left(
        cloud: Cloud, start_client: Callable[..., Client]) -> None:
    client = start_client(cloud, patch=SLOW_TASKS.format('sleep 30') + hold_at('Monitoring', 'Delete job?'))
    client.says('Monitoring')

    client.process.send_signal(signal.SIGINT)
    client.says('Delete job? [Y/n] yes')
    client.process.send_signal(signal.SIGINT)
    assert client.ends() == 130

    for left in (f'Job [{JOB}]', f'Pool [{POOL}]', 'Container [application]', 'Container [output]'):
        assert f'{left} may be left; ' in client.errors
    assert {f'job {JOB}', f'pool {POOL}', 'container output'} <= cloud.left()


def test_the_first_lines_are_enough_for_the_reader(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    with subprocess.Popen(['head', '-3'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as head:
        client = start_client(cloud, patch=hold_at('Creating pool'), stdout=head.stdin.fileno())
        head.stdin.close()
        assert len(head.stdout.read().splitlines()) == 3
    client.go_on('Creating pool')

    assert client.ends() == 1
    assert client.errors == 'ERROR: Standard output cannot be written to.\n'
    assert cloud.left() == set()


def test_nobody_reads_even_the_errors(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    reading, writing = os.pipe()
    client = start_client(cloud, patch=hold_at('Creating job'), stdout=writing, stderr=writing)
    os.close(writing)
    with open(reading, 'rb') as pipe:
        assert any(b'Creating job' in line for line in pipe)
    client.go_on('Creating job')

    assert client.ends() == 1
    assert cloud.left() == set()
