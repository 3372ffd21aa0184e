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

from common.guards.accounts import Account
from common.guards.outcome import output_name, print_failed_tasks, print_top_words
from common.guards.run import Run
from python_tutorial_task import output_path_for, write_output
from tests.batch_service.workbench import Workbench, wait_until


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


def run_of(batch: BatchServiceClient, blobs: BlobServiceClient, *output_names: str, container: str = 'output') -> Run:
    return Run(Account(), batch, blobs, 'outcome-job', 'outcome-pool', ask=False,
               blob_names={'input': [], container: output_names})


def storage(*blob_names: str) -> MagicMock:
    return MagicMock(**{'get_container_client.return_value.list_blob_names.return_value': list(blob_names)})


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

    assert print_failed_tasks(run_of(bench.client, blob_client, container=output)) == 1

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

    assert print_failed_tasks(run_of(bench.client, blob_client, container=output)) == 3

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

    assert print_failed_tasks(run_of(bench.client, blob_client, 'a b_OUTPUT.txt', 'here_OUTPUT.txt',
                                     container=output)) == 1

    assert capsys.readouterr().err == '''\
ERROR: 1 of 2 completed tasks failed:
  Task without succeeded, but has left no blob [a b_OUTPUT.txt] in container [outcome].
'''


def _read_sas(blob_client: BlobServiceClient) -> str:
    return generate_container_sas(blob_client.account_name, 'outcome', permission='r',
                                  account_key=blob_client.credential.account_key,
                                  expiry=datetime.now(timezone.utc) + timedelta(hours=1))


def test_nothing_is_said_when_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    names = 'data0_OUTPUT.txt', 'data1_OUTPUT.txt'

    assert print_failed_tasks(run_of(batch(task(0), task(1)), storage(*names), *names)) == 0

    assert capsys.readouterr() == ('', '')


def test_a_failure_of_azure_is_told_with_its_details(capsys: pytest.CaptureFixture[str]) -> None:
    failure = batchmodels.TaskFailureInformation(
        category='usererror', code='BlobAccessDenied', message='Access for one of the specified blobs is denied',
        details=[batchmodels.NameValuePair(name='BlobSource', value='https://x/data0.txt?sv=1&sig=secret')])
    client = batch(task(0, 'failure', exit_code=None, failure_info=failure), task(1))
    client.file.get_properties_from_task.side_effect = ClientRequestError('timed out')

    assert print_failed_tasks(run_of(client, storage('data1_OUTPUT.txt'), 'data1_OUTPUT.txt')) == 1

    errors = capsys.readouterr().err
    assert errors.startswith('ERROR: 1 of 2 completed tasks failed:\n')
    assert ('  Task topNtask0: usererror BlobAccessDenied: Access for one of the specified blobs is denied '
            '(BlobSource=https://x/data0.txt?sv=1&sig=...') in errors
    assert '\n    stderr.txt cannot be read: ' in errors and 'secret' not in errors


def test_only_completed_tasks_are_asked_for() -> None:
    client = batch()

    assert print_failed_tasks(run_of(client, storage())) == 0

    (job_id,), options = client.task.list.call_args
    assert (job_id, options['task_list_options'].filter) == ('outcome-job', "state eq 'completed'")


def test_what_has_failed_by_either_way_is_counted_together(capsys: pytest.CaptureFixture[str]) -> None:
    without_input = task(3)
    without_input.resource_files = None
    client = batch(task(0, 'failure', exit_code=1), task(1), task(2), without_input)
    client.file.get_properties_from_task.return_value.headers = {'Content-Length': '0'}

    assert print_failed_tasks(run_of(client, storage('data1_OUTPUT.txt'), 'data0_OUTPUT.txt', 'data1_OUTPUT.txt')) == 2

    assert capsys.readouterr() == ('', '''\
ERROR: 2 of 4 completed tasks failed:
  Task topNtask0: exit code 1
    stderr.txt is empty.
  Task topNtask2 succeeded, but has left no blob [data2_OUTPUT.txt] in container [output].
''')


def test_of_many_failed_tasks_some_are_looked_into_and_all_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    client = batch(*(task(number, 'failure', exit_code=1) for number in range(100)))
    client.file.get_properties_from_task.return_value.headers = {'Content-Length': '0'}

    assert print_failed_tasks(run_of(client, storage())) == 100

    errors = capsys.readouterr().err
    assert errors.count('Task topNtask') == 100
    assert errors.count('stderr.txt is empty.') == client.file.get_properties_from_task.call_count == 10


def outputs(directory: Path, **words: list[tuple[str, int]]) -> dict[str, Path]:
    """Outputs as the task script writes them, by blob name."""
    paths = {}
    for name, counts in words.items():
        paths[f'{name}.txt'] = directory / f'{name}.txt'
        write_output(paths[f'{name}.txt'], counts)
    return paths


def test_the_top_words_stand_in_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'notes.txt').write_text('mine 1\n')
    (tmp_path / 'picture.png').write_bytes(b'\x89PNG\r\n\xff\xfe')

    print_top_words({**outputs(tmp_path, b_OUTPUT=[('lighthouse', 12), ('größe', 9)],
                               a_OUTPUT=[('of', 103), ('a', 2), ('b', 1)], none_OUTPUT=[]),
                     'notes.txt': tmp_path / 'notes.txt', 'picture.png': tmp_path / 'picture.png'})

    assert capsys.readouterr() == ('''
  a_OUTPUT.txt     of 103         a 2      b 1
  b_OUTPUT.txt     lighthouse 12  größe 9
  none_OUTPUT.txt  no words

''', '')


def test_what_is_below_the_words_is_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv('AZ_BATCH_NODE_ID', '7')

    print_top_words(outputs(tmp_path, a_OUTPUT=[('of', 103)]))

    assert capsys.readouterr().out == '\n  a_OUTPUT.txt  of 103\n\n'


def test_neither_a_word_nor_a_name_can_write_over_the_terminal(tmp_path: Path,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    [path] = outputs(tmp_path, a_OUTPUT=[('\x1b[31mred', 1), ('x' * 10000, 1)]).values()

    print_top_words({'\x1b[2Ja_OUTPUT.txt': path})

    text = capsys.readouterr().out
    assert text.startswith('\n   [2Ja_OUTPUT.txt   [31mred 1 ') and '\x1b' not in text
    assert len(text) < 1000


def test_an_output_that_is_not_utf_8_can_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [path] = outputs(tmp_path, a_OUTPUT=[('grün', 3)]).values()
    path.write_bytes(path.read_text(encoding='utf-8').encode('latin-1'))

    print_top_words({'a_OUTPUT.txt': path})

    assert capsys.readouterr().out == '\n  a_OUTPUT.txt  gr\ufffdn 3\n\n'


def test_of_a_large_blob_that_is_no_output_only_the_end_is_read(tmp_path: Path,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / 'large').open('wb') as file:
        file.truncate(1 << 42)  # more than any memory, and on the disk nearly nothing

    print_top_words({'large': tmp_path / 'large'})

    assert capsys.readouterr().out == ''


def test_the_table_stays_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [(f'word{number}', 1) for number in range(100)]
    print_top_words(outputs(tmp_path, **{f'file{number:03}': words for number in range(100)}))

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 23 and lines[-2:] == ['  ... and 80 more', '']
    assert lines[1].endswith('word4 1')
    assert max(map(len, lines)) < 80
