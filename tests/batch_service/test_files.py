from __future__ import annotations

import pytest
from azure.batch import models


def names(files) -> list[str]:
    return [file.name for file in files]


@pytest.fixture
def written(bench):
    """A workbench whose task has written some files."""
    bench.run('write', "/bin/bash -c 'mkdir \"a b\"; printf 0123456789 > \"a b/ä.txt\"; ln -s /etc/passwd link'")
    return bench


def test_list_names_what_is_below_the_task(written) -> None:
    client = written.client.file
    assert names(client.list_from_task(written.job_id, 'write')) == ['certs', 'stderr.txt', 'stdout.txt', 'wd']
    assert names(client.list_from_task(written.job_id, 'write', recursive=True)) == [
        'certs', 'stderr.txt', 'stdout.txt', 'wd', 'wd/a b', 'wd/a b/ä.txt', 'wd/link']


def test_node_lists_its_directories(written) -> None:
    listed = written.client.file.list_from_compute_node(written.pool_id, written.nodes()[0].id)
    assert names(listed) == ['applications', 'fsmounts', 'shared', 'startup', 'volatile', 'workitems']


def test_file_with_blank_and_umlaut_is_read_whole_and_in_part(written) -> None:
    assert written.output('write', 'wd/a b/ä.txt') == '0123456789'
    part = written.client.file.get_from_task(written.job_id, 'write', 'wd/a b/ä.txt', models.FileGetFromTaskOptions(
        ocp_range='bytes=3-5'))
    assert b''.join(part) == b'345'


def test_properties_come_without_the_content(written) -> None:
    answer = written.client.file.get_properties_from_task(written.job_id, 'write', 'wd/a b/ä.txt', raw=True)
    assert answer.headers['Content-Length'] == 10
    assert answer.headers['ocp-batch-file-isdirectory'] is False
    assert answer.headers['ocp-batch-file-url'].endswith('/files/wd/a%20b/%C3%A4.txt')


@pytest.mark.parametrize('name', ['missing.txt', '../../../../startup/stdout.txt', 'wd/link', 'wd/../../write2/x'])
def test_nothing_outside_the_task_is_read(written, name) -> None:
    with pytest.raises(models.BatchErrorException) as error:
        written.output('write', name)
    assert error.value.error.code == 'FileNotFound'


def test_deleted_file_is_gone(written) -> None:
    written.client.file.delete_from_task(written.job_id, 'write', 'wd/a b', recursive=True)
    with pytest.raises(models.BatchErrorException) as error:
        written.output('write', 'wd/a b/ä.txt')
    assert error.value.error.code == 'FileNotFound'


def test_files_of_a_task_that_has_not_run_are_refused(empty_bench) -> None:
    empty_bench.add_pool(nodes=0)
    empty_bench.add_job()
    empty_bench.add('waiting', 'true')
    with pytest.raises(models.BatchErrorException) as error:
        empty_bench.output('waiting')
    assert error.value.error.code == 'OperationInvalidForCurrentState'
