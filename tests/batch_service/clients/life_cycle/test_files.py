from __future__ import annotations

from datetime import datetime, timezone

import pytest

from .client import Refused

_MAKE_FILES = ("/bin/bash -c 'mkdir -p \"dir one/deep\"; echo -n 0123456789 > \"dir one/été & co.txt\"; "
               "touch \"dir one/deep/leaf\"; echo done'")


@pytest.fixture
def ran(bench):
    """A workbench on which the task ``task`` has made files."""
    assert bench.run('task', _MAKE_FILES)['executionInfo']['exitCode'] == 0
    return bench


def test_files_of_a_task_are_listed(ran) -> None:
    client = ran.client
    files = {file['name']: file for file in client.list_task_files(ran.job_id, 'task')}
    assert {'stdout.txt', 'stderr.txt', 'wd'} <= files.keys()
    assert files['wd']['isDirectory'] is True
    assert 'properties' not in files['wd']
    properties = files['stdout.txt']['properties']
    assert (properties['contentLength'], properties['contentType']) == (5, 'text/plain')
    assert isinstance(properties['lastModified'], datetime)


def test_files_of_a_task_are_listed_recursively(ran) -> None:
    names = [file['name'] for file in ran.client.list_task_files(ran.job_id, 'task', recursive=True)]
    assert {'wd/dir one', 'wd/dir one/été & co.txt', 'wd/dir one/deep/leaf'} <= set(names)
    assert [file['name'] for file in ran.client.list_task_files(ran.job_id, 'task', recursive=True, max_results=2)
            ] == names
    assert [file['name'] for file in ran.client.list_task_files(
        ran.job_id, 'task', recursive=True, filter="startswith(name, 'wd/dir one/deep/')")] == ['wd/dir one/deep/leaf']


def test_file_of_a_task_is_read_whole_and_in_part(ran) -> None:
    path = 'wd/dir one/été & co.txt'
    read = ran.client.get_task_file
    assert read(ran.job_id, 'task', path) == b'0123456789'
    assert read(ran.job_id, 'task', path, ocp_range='bytes=2-4') == b'234'
    assert read(ran.job_id, 'task', path, ocp_range='bytes=7-100') == b'789'
    with pytest.raises(Refused, match='^416 InvalidRange'):
        read(ran.job_id, 'task', path, ocp_range='bytes=10-')


def test_file_of_a_task_tells_its_properties(ran) -> None:
    properties = ran.client.get_task_file_properties(ran.job_id, 'task', 'wd/dir one/été & co.txt')
    assert properties.content_length == 10
    assert properties.is_directory is False
    assert properties.last_modified <= datetime.now(timezone.utc)
    assert properties.mode.endswith('644')
    assert properties.url.endswith('/files/wd/dir%20one/%C3%A9t%C3%A9%20%26%20co.txt')
    assert ran.client.get_task_file_properties(ran.job_id, 'task', 'wd').is_directory is True


def test_files_of_a_task_are_deleted(ran) -> None:
    client = ran.client
    client.delete_task_file(ran.job_id, 'task', 'stdout.txt')
    with pytest.raises(Refused, match='^404 FileNotFound'):
        client.get_task_file(ran.job_id, 'task', 'stdout.txt')
    with pytest.raises(Refused, match='^4'):
        client.delete_task_file(ran.job_id, 'task', 'wd/dir one')
    client.delete_task_file(ran.job_id, 'task', 'wd/dir one', recursive=True)
    assert 'wd/dir one' not in [file['name'] for file in client.list_task_files(ran.job_id, 'task', recursive=True)]


def test_files_of_a_node_are_listed_read_and_deleted(ran) -> None:
    client, pool_id = ran.client, ran.pool_id
    node_id = ran.task('task')['nodeInfo']['nodeId']
    names = [file['name'] for file in client.list_node_files(pool_id, node_id)]
    assert sorted(names) == ['applications', 'fsmounts', 'shared', 'startup', 'volatile', 'workitems']
    output = f'workitems/{ran.job_id}/job-1/task/stdout.txt'
    assert output in [file['name'] for file in client.list_node_files(pool_id, node_id, recursive=True)]
    assert client.get_node_file(pool_id, node_id, output) == b'done\n'
    assert client.get_node_file(pool_id, node_id, output, ocp_range='bytes=0-1') == b'do'
    assert client.get_node_file_properties(pool_id, node_id, output).content_length == 5
    client.delete_node_file(pool_id, node_id, output)
    with pytest.raises(Refused, match='^404 FileNotFound'):
        client.get_node_file(pool_id, node_id, output)


def test_file_outside_the_task_is_not_found(ran) -> None:
    for path in ('../../../startup', 'wd/../../task/stdout.txt/../../../..', '/etc/passwd'):
        with pytest.raises(Refused, match='^40[04] '):
            ran.client.get_task_file(ran.job_id, 'task', path)


def test_waiting_task_has_no_files(empty_bench) -> None:
    empty_bench.add_job()
    empty_bench.add('waiting', 'true')
    with pytest.raises(Refused, match='^409 OperationInvalidForCurrentState'):
        empty_bench.client.list_task_files(empty_bench.job_id, 'waiting')
