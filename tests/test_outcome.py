"""Telling what has come of the tasks: on the real local services, and with answers as Azure gives them."""
from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from unittest.mock import MagicMock

import azure.batch.models as batchmodels
import pytest
from azure.batch import BatchServiceClient
from azure.storage.blob import BlobServiceClient, generate_container_sas
from msrest.exceptions import ClientRequestError

from common.failures import end_of_task_file
from common.outcome import output_name, print_failed_tasks, print_top_words
from python_tutorial_task import output_path_for
from tests.batch_service.workbench import Workbench, wait_until

RULE = '-' * 30


@pytest.fixture
def bench(batch_client: BatchServiceClient) -> Iterator[Workbench]:
    """A pool of one node with four slots, and a job, on the local services."""
    bench = Workbench(batch_client, 'outcome-pool', 'outcome-job')
    bench.add_pool()
    bench.add_job()
    yield bench
    batch_client.job.delete(bench.job_id)
    batch_client.pool.delete(bench.pool_id)
    wait_until(lambda: not batch_client.pool.exists(bench.pool_id))


@pytest.fixture
def output(blob_client: BlobServiceClient) -> Iterator[str]:
    """A container for outputs."""
    blob_client.create_container('outcome')
    yield 'outcome'
    blob_client.delete_container('outcome')


def storage(*blob_names: str) -> MagicMock:
    blobs = [MagicMock() for _ in blob_names]
    for blob, name in zip(blobs, blob_names):
        blob.name = name
    return MagicMock(**{'get_container_client.return_value.list_blobs.return_value': blobs})


def batch(*tasks: batchmodels.CloudTask) -> MagicMock:
    return MagicMock(**{'task.list.return_value': list(tasks)})


def task(number: int, result: str = 'success', **execution: object) -> batchmodels.CloudTask:
    execution = {'retry_count': 0, 'requeue_count': 0, 'exit_code': 0, 'result': result} | execution
    return batchmodels.CloudTask(
        id=f'topNtask{number}', state='completed',
        execution_info=batchmodels.TaskExecutionInformation(**execution),
        resource_files=[batchmodels.ResourceFile(http_url='https://x/?sig=x', file_path=f'data{number}.txt')])


@pytest.mark.parametrize('name', ['a.txt', 'a', '.a', 'a.b.c', 'größe "1".txt', 'a.'])
def test_outputs_are_named_as_the_task_names_them(name: str) -> None:
    assert output_name(name) == output_path_for(Path(name)).name


@pytest.mark.real
def test_a_failed_task_is_shown_with_its_stderr(bench: Workbench, blob_client: BlobServiceClient, output: str,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    bench.run('good', '/bin/true')
    bench.run('bad', "/bin/bash -c 'echo first; echo cannot upload to https://x/?sig=secret >&2; exit 3'")

    assert print_failed_tasks(bench.client, bench.job_id, blob_client, output) == 1

    assert capsys.readouterr() == ('', '''\
ERROR: 1 of 2 completed tasks failed:
  Task bad: exit code 3, usererror FailureExitCode: The task exited with an exit code representing a failure
    The end of stderr.txt:
      | cannot upload to https://x/?sig=...
''')


@pytest.mark.real
def test_a_killed_task_and_one_that_could_not_start_are_shown(
        bench: Workbench, blob_client: BlobServiceClient, output: str,
        capsys: pytest.CaptureFixture[str]) -> None:
    bench.run('killed', "/bin/bash -c 'kill -9 $$'")
    bench.run('unstarted', 'no-such-program')
    bench.run('unfed', '/bin/true', resource_files=[
        batchmodels.ResourceFile(http_url='http://127.0.0.1:1/gone?sig=secret', file_path='gone.txt')])

    assert print_failed_tasks(bench.client, bench.job_id, blob_client, output) == 3

    errors = capsys.readouterr().err
    assert 'Task killed: exit code -9, usererror FailureExitCode' in errors
    assert 'Task unstarted: usererror CommandProgramNotFound' in errors
    assert 'Task unfed: ' in errors and 'secret' not in errors


@pytest.mark.real
def test_a_task_that_left_no_output_has_failed(bench: Workbench, blob_client: BlobServiceClient, output: str,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    blob_client.get_blob_client('outcome', 'a b.txt').upload_blob(b'words')
    blob_client.get_blob_client('outcome', 'here_OUTPUT.txt').upload_blob(b'words')
    url = f'{blob_client.url}outcome/a%20b.txt'
    for task_id, name in (('without', 'a b.txt'), ('with', 'here.txt')):
        bench.add(task_id, '/bin/true', resource_files=[batchmodels.ResourceFile(
            http_url=f'{url}?{_read_sas(blob_client)}', file_path=name)])
    bench.completed('without', 'with')

    assert print_failed_tasks(bench.client, bench.job_id, blob_client, output) == 1

    assert capsys.readouterr().err == '''\
ERROR: 1 of 2 completed tasks failed:
  Task without succeeded, but has left no blob [a b_OUTPUT.txt] in container [outcome].
'''


def _read_sas(blob_client: BlobServiceClient) -> str:
    return generate_container_sas(blob_client.account_name, 'outcome', permission='r',
                                  account_key=blob_client.credential.account_key,
                                  expiry=datetime.now(timezone.utc) + timedelta(hours=1))


def test_nothing_is_said_when_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_failed_tasks(batch(task(0), task(1)), 'myjob',
                              storage('data0_OUTPUT.txt', 'data1_OUTPUT.txt'), 'output') == 0

    assert capsys.readouterr() == ('', '')


def test_a_failure_of_azure_is_told_with_its_details(capsys: pytest.CaptureFixture[str]) -> None:
    failure = batchmodels.TaskFailureInformation(
        category='usererror', code='BlobAccessDenied', message='Access for one of the specified blobs is denied',
        details=[batchmodels.NameValuePair(name='BlobSource', value='https://x/data0.txt?sv=1&sig=secret')])
    client = batch(task(0, 'failure', exit_code=None, failure_info=failure), task(1))
    client.file.get_properties_from_task.side_effect = ClientRequestError('timed out')

    assert print_failed_tasks(client, 'myjob', storage('data1_OUTPUT.txt'), 'output') == 1

    errors = capsys.readouterr().err
    assert ('  Task topNtask0: usererror BlobAccessDenied: Access for one of the specified blobs is denied '
            '(BlobSource=https://x/data0.txt?sv=1&sig=...') in errors
    assert '\n    stderr.txt cannot be read: ' in errors and 'secret' not in errors


def test_only_completed_tasks_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    client = batch(task(0))

    print_failed_tasks(client, 'myjob', storage('data0_OUTPUT.txt'), 'output')

    assert client.task.list.call_args.kwargs['task_list_options'].filter == "state eq 'completed'"


def test_of_many_failed_tasks_some_are_looked_into_and_all_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    client = batch(*(task(number, 'failure', exit_code=1) for number in range(100)))
    client.file.get_properties_from_task.return_value.headers = {'Content-Length': '0'}

    assert print_failed_tasks(client, 'myjob', storage(), 'output') == 100

    errors = capsys.readouterr().err
    assert errors.count('Task topNtask') == 100
    assert errors.count('stderr.txt is empty.') == client.file.get_properties_from_task.call_count == 10


@pytest.mark.real
def test_of_a_long_log_only_the_end_is_fetched_and_no_part_of_a_signature_shows(bench: Workbench) -> None:
    signature = 'x' * 5000
    bench.run('talker', f"/bin/bash -c 'for i in $(seq 100000); do echo line $i >&2; done; "
                        f'printf "sig={signature}\\rlast\\033[31m\\n" >&2\'')

    lines = list(end_of_task_file(bench.client, bench.job_id, 'talker', 'stderr.txt'))

    assert lines[0] == 'The end of stderr.txt:'
    assert lines[-1] == '  | last [31m'
    assert not any('xxx' in line or '\x1b' in line or '\r' in line for line in lines)


def outputs(directory: Path, **contents: str) -> dict[str, Path]:
    paths = {}
    for name, content in contents.items():
        paths[f'{name}.txt'] = directory / f'{name}.txt'
        paths[f'{name}.txt'].write_text(content, encoding='utf-8')
    return paths


def test_the_top_words_stand_in_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_top_words(outputs(tmp_path,
                            b_OUTPUT=f'lighthouse 12\nthe        9\n{RULE}\nNode: 1\n',
                            a_OUTPUT=f'of 103\na  2\nb  1\n{RULE}\nNode: 2\n',
                            none_OUTPUT=f'{RULE}\nNode: 3\n', notes='mine 1\n'))

    assert capsys.readouterr().out == '''
  a_OUTPUT.txt  of 103         a 2    b 1
  b_OUTPUT.txt  lighthouse 12  the 9

'''


def test_without_outputs_there_is_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_top_words(outputs(tmp_path, notes='mine 1\n'))

    assert capsys.readouterr().out == ''


def test_the_table_stays_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = '\n'.join(f'word{number} 1' for number in range(100))
    print_top_words(outputs(tmp_path, **{f'file{number:03}': f'{words}\n{RULE}\n' for number in range(100)}))

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 23 and lines[-2:] == ['  ... and 80 more', '']
    assert max(map(len, lines)) < 80
