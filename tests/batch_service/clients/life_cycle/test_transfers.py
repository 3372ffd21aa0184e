"""Resource files and output files, from and to a container of real storage."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from .client import Refused

pytestmark = pytest.mark.real

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _blob_url(container_url: str, name: str) -> str:
    container, _, signature = container_url.partition('?')
    return f'{container}/{name}?{signature}'


def _put(container_url: str, name: str, content: bytes) -> None:
    _OPENER.open(urllib.request.Request(_blob_url(container_url, name), content, {'x-ms-blob-type': 'BlockBlob'},
                                        method='PUT'), timeout=10).close()


def _get(container_url: str, name: str) -> bytes:
    with _OPENER.open(_blob_url(container_url, name), timeout=10) as answer:
        return answer.read()


def test_task_gets_the_blobs_of_a_container_with_a_prefix(bench, container_url, new_id) -> None:
    prefix = new_id('in')
    for name in (f'{prefix}/a.txt', f'{prefix}/deep/b.txt', f'other-{prefix}/c.txt'):
        _put(container_url, name, name.encode())
    task = bench.run('task', '/bin/bash -c "cd inputs && find . -type f | sort"', resourceFiles=[
        {'storageContainerUrl': container_url, 'blobPrefix': f'{prefix}/', 'filePath': 'inputs'}])
    assert task['executionInfo']['result'] == 'success', task
    assert bench.output('task').decode().split() == [f'./{prefix}/a.txt', f'./{prefix}/deep/b.txt']
    assert bench.output('task', f'wd/inputs/{prefix}/a.txt') == f'{prefix}/a.txt'.encode()


def test_task_gets_a_blob_with_its_mode(bench, container_url, new_id) -> None:
    name = new_id('script')
    _put(container_url, name, b'#!/bin/sh\necho ran\n')
    task = bench.run('task', './script', resourceFiles=[
        {'httpUrl': _blob_url(container_url, name), 'filePath': 'script', 'fileMode': '0755'}])
    assert task['executionInfo']['exitCode'] == 0, task
    assert bench.output('task') == b'ran\n'


def test_missing_blob_fails_the_task_before_it_starts(bench, container_url, new_id) -> None:
    execution = bench.run('task', 'true', resourceFiles=[
        {'httpUrl': _blob_url(container_url, new_id('none')), 'filePath': 'x'}])['executionInfo']
    assert (execution['failureInfo']['code'], execution['failureInfo']['category']) == ('BlobNotFound', 'usererror')
    assert 'exitCode' not in execution


def test_outputs_go_to_the_container_when_their_condition_holds(bench, container_url, new_id) -> None:
    path = new_id('out')

    def output(pattern: str, condition: str, folder: str) -> dict[str, object]:
        return {'filePattern': pattern, 'uploadOptions': {'uploadCondition': condition},
                'destination': {'container': {'containerUrl': container_url, 'path': f'{path}/{folder}'}}}
    task = bench.run(
        'task', '/bin/bash -c "mkdir deep; echo one > deep/one.txt; echo two > two.log; echo said"', outputFiles=[
            output('**/*.txt', 'tasksuccess', 'texts'), output('../std*.txt', 'taskcompletion', 'streams'),
            output('two.log', 'taskfailure', 'logs')])
    assert task['executionInfo']['result'] == 'success', task
    assert _get(container_url, f'{path}/texts/deep/one.txt') == b'one\n'
    assert _get(container_url, f'{path}/streams/stdout.txt') == b'said\n'
    with pytest.raises(urllib.error.HTTPError, match='404'):
        _get(container_url, f'{path}/logs')


def test_failed_upload_fails_the_task(bench, container_url) -> None:
    gone, _, signature = container_url.partition('?')
    execution = bench.run('task', '/bin/bash -c "echo x > x.txt"', outputFiles=[{
        'filePattern': 'x.txt', 'uploadOptions': {'uploadCondition': 'taskcompletion'},
        'destination': {'container': {'containerUrl': f'{gone}-gone?{signature}'}}}])['executionInfo']
    assert (execution['exitCode'], execution['result']) == (0, 'failure')
    assert execution['failureInfo']['code'].startswith('FileUpload')
    assert signature not in str(execution)


def test_two_sources_of_a_resource_file_are_refused(empty_bench, container_url) -> None:
    empty_bench.add_job()
    with pytest.raises(Refused, match='^400 InvalidPropertyValue'):
        empty_bench.add('task', 'true', resourceFiles=[
            {'storageContainerUrl': container_url, 'httpUrl': container_url, 'filePath': 'x'}])
