"""The client at a terminal: what it asks, and what Ctrl-C, Ctrl-D and ENTER mean there."""
from __future__ import annotations

import re
from collections.abc import Callable

import azure.batch.models as batchmodels
import pytest

from tests.batch_service.workbench import Workbench
from tests.faults.client_process import SLOW_TASKS, Client
from tests.faults.cloud import JOB, POOL, Cloud
from tests.faults.test_names import keep_pool

COUNTS_AS_YES = '  Ctrl-C counts as the answer that leaves nothing behind, here and from now on.\n'


def test_a_run_at_a_terminal(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    client = start_client(cloud, screen=True, patch=SLOW_TASKS.format('sleep 1'))
    client.types('y\nn\n\n')
    screen = client.screen()

    assert client.ends() == 0
    progress = re.findall(r'\r\x1b\[K([^\r]* tasks completed[^\r]*)', screen)
    assert '  0 of 1 tasks completed, 1 running; nodes: 1 running' in progress
    assert all(len(line) < 80 for line in progress)
    assert '  Success! All tasks' in screen
    assert f'  Job [{JOB}] is being deleted.' in screen or f'  Job [{JOB}] is deleted.' in screen
    assert f'  Pool [{POOL}] is kept: the next run offers to reuse it' in screen
    assert cloud.left() == {f'pool {POOL}'}


@pytest.mark.parametrize('question', ['Reuse it?', 'Delete it with its nodes, and create it anew?',
                                      'Delete it and its tasks?'])
def test_ctrl_c_at_a_question_before_the_run_changes_nothing(cloud: Cloud, start_client: Callable[..., Client],
                                                             question: str) -> None:
    if question == 'Reuse it?':
        keep_pool(cloud, start_client)
    elif question == 'Delete it and its tasks?':
        cloud.batch.job.add(batchmodels.JobAddParameter(
            id=JOB, pool_info=batchmodels.PoolInformation(pool_id='another')))
    else:
        Workbench(cloud.batch, POOL, JOB).add_pool()
    before = cloud.left()
    client = start_client(cloud, terminal=True)
    client.says(question)

    client.types('\x03')

    assert client.ends() == 130
    assert client.errors == 'ERROR: Interrupted.\n'
    assert client.output.count('? [') == 1 and 'Sample start' not in client.output
    assert cloud.left() == before


@pytest.mark.parametrize('before, question', [('', 'Delete job?'), ('y\n', 'Delete pool?'), ('n\n', 'Delete pool?')])
def test_ctrl_c_at_a_question_after_the_run_leaves_nothing(cloud: Cloud, start_client: Callable[..., Client],
                                                           before: str, question: str) -> None:
    client = start_client(cloud, terminal=True)
    client.types(before)
    client.says(question)

    client.types('\x03')

    assert client.ends() == 130
    assert client.errors == 'ERROR: Interrupted.\n'
    assert client.output.count(COUNTS_AS_YES) == 1
    # What is asked no more is shown with its answer.
    assert client.output.endswith(f'Delete pool? [Y/n] yes\n  Pool [{POOL}] is being deleted.\n') or (
        client.output.endswith(f'Delete pool? [Y/n] yes\n  Pool [{POOL}] is deleted.\n'))
    assert cloud.left() == set()


@pytest.mark.parametrize('before, question', [('', 'Delete job?'), ('y\n', 'Delete pool?')])
def test_ctrl_c_twice_the_second_time_at_a_question_leaves_nothing(
        cloud: Cloud, start_client: Callable[..., Client], before: str, question: str) -> None:
    client = start_client(cloud, terminal=True, patch=SLOW_TASKS.format('sleep 30'))
    client.says('Monitoring')
    client.types('\x03')
    client.says('Delete job?')
    client.types(before)
    client.says(question)

    client.types('\x03')

    assert client.ends() == 130
    assert client.errors == 'ERROR: Interrupted.\n'
    assert client.output.count(COUNTS_AS_YES) == 1
    assert cloud.left() == set()


def test_ctrl_c_leaves_what_the_reader_keeps(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    client = start_client(cloud, terminal=True, patch=SLOW_TASKS.format('sleep 30'))
    client.says('Monitoring')
    client.types('\x03')
    client.says('Delete job?')

    client.types('n\nn\n')

    assert client.ends() == 130
    assert f'Pool [{POOL}] is kept: the next run offers to reuse it' in client.output
    assert cloud.left() == {f'job {JOB}', f'pool {POOL}'}


@pytest.mark.parametrize('key', ['\x03', '\x04'])
def test_ctrl_c_and_ctrl_d_at_the_end_are_as_good_as_enter(
        cloud: Cloud, start_client: Callable[..., Client], key: str) -> None:
    client = start_client(cloud, terminal=True)
    client.types('\n\n')
    client.says('Press ENTER to exit...')

    client.types(key)

    assert client.ends() == 0
    assert client.errors == ''
    assert cloud.left() == set()


def test_ctrl_d_means_the_default_and_shows_it(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    client = start_client(cloud, terminal=True)
    for question in ('Delete job?', 'Delete pool?', 'Press ENTER'):
        client.says(question)
        client.types('\x04')

    assert client.ends() == 0
    assert 'Delete job? [Y/n] yes\nDelete pool? [Y/n] yes\n' in client.output
    assert cloud.left() == set()


def test_the_readers_thinking_is_not_in_the_elapsed_time(cloud: Cloud, start_client: Callable[..., Client]) -> None:
    keep_pool(cloud, start_client)
    client = start_client(cloud, terminal=True)
    client.says('Reuse it?')
    assert 'Sample start' not in client.output
    client.types('y\n')
    client.says('Delete job?')
    assert 'Elapsed time: ' in client.output

    client.types('\n\n\n')

    assert client.ends() == 0
