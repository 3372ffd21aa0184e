"""Why a command on a node failed: what Batch knows, and the end of what the command has said."""
from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import MagicMock

import azure.batch.models as batchmodels
import pytest
import requests
from azure.batch import BatchServiceClient
from msrest.exceptions import ClientRequestError

from common.guards.failures import end_of_file, explain, printable, with_values
from tests.batch_service.workbench import Workbench, wait_until

PAIRS = [batchmodels.NameValuePair(name='a', value='1'), batchmodels.NameValuePair(name='b')]


def failure(**properties: object) -> batchmodels.TaskFailureInformation:
    return batchmodels.TaskFailureInformation(**{'category': 'usererror', 'code': 'FailureExitCode', **properties})


@pytest.mark.parametrize('execution, text', [
    ({}, 'Batch tells no reason'),
    ({'exit_code': 0}, 'exit code 0'),
    ({'failure_info': failure()}, 'usererror FailureExitCode'),
    ({'exit_code': -9, 'failure_info': failure(message='It was killed', details=PAIRS)},
     'exit code -9, usererror FailureExitCode: It was killed (a=1; b=)'),
    ({'failure_info': failure(category=batchmodels.ErrorCategory.server_error, message='\x1b[2Jat\nhttps://x?sig=x')},
     'servererror FailureExitCode:  [2Jat https://x?sig=...'),
    ({'failure_info': failure(details=[batchmodels.NameValuePair(name='Log', value='x' * 1000)])},
     f'usererror FailureExitCode (Log={"x" * 300})'),
], ids=['nothing', 'exit code', 'code', 'all', 'unprintable', 'long'])
def test_a_failure_is_one_line_with_what_there_is_of_it(execution: dict[str, object], text: str) -> None:
    assert explain(batchmodels.TaskExecutionInformation(retry_count=0, requeue_count=0, **execution)) == text


@pytest.mark.parametrize('message, values, text', [
    (None, None, ''), ('Why', None, ': Why'), (None, PAIRS, ' (a=1; b=)'), ('Why', PAIRS, ': Why (a=1; b=)')],
    ids=['neither', 'message', 'values', 'both'])
def test_a_message_and_its_values_follow_the_code(
        message: str | None, values: list[batchmodels.NameValuePair] | None, text: str) -> None:
    assert with_values(message, values) == text


def test_a_long_text_is_cut() -> None:
    assert printable('x' * 600) == 'x' * 600
    assert printable('x' * 601) == f'{"x" * 600}...'


def end_of(content: bytes | list[object], length: object = None) -> list[str]:
    """The lines of a file that a node has, whose content comes in pieces; one that is an error is raised."""
    def read(*_: str, custom_headers: dict[str, str] | None) -> Iterator[bytes]:
        for piece in content if isinstance(content, list) else [content]:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    length = len(content) if length is None else length
    properties = MagicMock(**{'return_value.headers': {'Content-Length': str(length)}})
    return list(end_of_file(properties, read, 'myjob', 'mytask', 'stderr.txt'))


def test_the_last_lines_are_shown_printable_and_without_secrets() -> None:
    log = ''.join(f'line {number}\n' for number in range(20)) + 'https://x/?sig=secret\t\x1b[31mgr\xfc\xdfe\n\n'

    assert end_of(log.encode('latin-1')) == [
        'The end of stderr.txt:', *(f'  | line {number}' for number in range(11, 20)),
        '  | https://x/?sig=...  [31mgr\ufffd\ufffde']


@pytest.mark.parametrize('content', [b'', b' \n\n'])
def test_an_empty_file_is_told_as_such(content: bytes) -> None:
    assert end_of(content) == ['stderr.txt is empty.']


@pytest.mark.parametrize('content, length, reason', [
    ([ClientRequestError('timed out')], 10, 'No connection to the Batch account'),
    ([b'half', requests.exceptions.ChunkedEncodingError('cut off at https://x?sig=secret')], 10,
     'cut off at https://x?sig=...'),
    ([b'half'], 'many', "invalid literal for int() with base 10: 'many'")], ids=['no answer', 'cut off', 'no length'])
def test_a_file_that_cannot_be_read_is_told_with_the_reason(content: list[object], length: object,
                                                            reason: str) -> None:
    [line] = end_of(content, length)

    assert line.startswith(f'stderr.txt cannot be read: {reason}')


def test_a_file_that_is_not_there_is_told_with_the_reason(batch_client: BatchServiceClient) -> None:
    [line] = end_of_file(batch_client.file.get_properties_from_task, batch_client.file.get_from_task,
                         'no-job', 'no-task', 'stderr.txt')

    assert line == "stderr.txt cannot be read: Operation returned an invalid status code 'Not Found'"


@pytest.mark.real
def test_of_a_long_log_only_the_end_is_fetched_and_no_part_of_a_signature_shows(
        batch_client: BatchServiceClient) -> None:
    bench = Workbench(batch_client, 'failures-pool', 'failures-job')
    bench.add_pool()
    bench.add_job()
    try:
        talker = bench.run('talker', "/bin/bash -c 'for i in $(seq 100000); do echo line $i; done; "
                           f'printf "sig={"x" * 5000}\\rlast\\033[31m\\n"\'')
        node_id, fetched = talker.node_info.node_id, []

        def counted(get):
            def counting(*place, **options):
                for piece in get(*place, **options):
                    fetched.append(len(piece))
                    yield piece
            return counting

        of_task = list(end_of_file(batch_client.file.get_properties_from_task,
                                   counted(batch_client.file.get_from_task), bench.job_id, 'talker', 'stdout.txt'))
        path = f'workitems/{bench.job_id}/job-1/talker/stdout.txt'
        of_node = list(end_of_file(batch_client.file.get_properties_from_compute_node,
                                   counted(batch_client.file.get_from_compute_node), bench.pool_id, node_id, path))
    finally:
        batch_client.job.delete(bench.job_id)
        batch_client.pool.delete(bench.pool_id)
        wait_until(lambda: not batch_client.pool.exists(bench.pool_id))

    assert of_task == ['The end of stdout.txt:', '  | ...', '  | last [31m']
    assert of_node == [f'The end of {path}:', '  | ...', '  | last [31m']
    assert sum(fetched) == 2 * 4096
