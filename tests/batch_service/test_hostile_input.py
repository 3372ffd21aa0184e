"""Whatever is sent, the service answers: no 5xx, nothing outside its directories."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

VERSION = 'api-version=2024-02-01.19.0'
WITHOUT_PAUSE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


@WITHOUT_PAUSE
@given(method=st.sampled_from(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE']),
       segments=st.lists(st.sampled_from(['pools', 'jobs', 'nodes', 'tasks', 'files', '..', '%2e%2e', '%00'])
                         | st.text(max_size=6).map(lambda text: quote(text, safe='')), max_size=6),
       query=st.dictionaries(
           st.sampled_from(['$filter', '$select', '$expand', 'maxresults', '$skiptoken', 'recursive']),
           st.text(max_size=12), max_size=3),
       body=st.none() | st.binary(max_size=40) | st.recursive(
           st.none() | st.text(max_size=5) | st.integers(), lambda inner: st.lists(inner, max_size=2)).map(json.dumps))
def test_no_request_gets_a_server_error(send, method, segments, query, body) -> None:
    parameters = '&'.join([VERSION, *(f'{name}={quote(value, safe="")}' for name, value in query.items())])
    answer = send(method, f'/{"/".join(segments)}?{parameters}', data=body)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400 and method != 'HEAD':
        assert answer.json()['code']


@pytest.mark.parametrize('command_line', ['\ud800', 'echo \ud800', '\0', 'echo ' + 'x' * 300_000, '"', '\\', ' '])
def test_no_command_line_leaves_a_task_running(bench, send, command_line: str) -> None:
    answer = send('POST', f'/jobs/{bench.job_id}/tasks?{VERSION}',
                  data=json.dumps({'id': 'odd', 'commandLine': command_line}))
    if answer.status_code == 201:
        assert bench.completed('odd').execution_info.failure_info is not None
    else:
        assert answer.status_code == 400


@pytest.mark.parametrize('setting', [
    {'name': 'A=B', 'value': 'c'}, {'name': 'A', 'value': '\0'}, {'name': '=', 'value': ''}])
def test_no_environment_leaves_a_task_running(bench, send, setting: dict[str, str]) -> None:
    answer = send('POST', f'/jobs/{bench.job_id}/tasks?{VERSION}',
                  json={'id': 'odd', 'commandLine': 'true', 'environmentSettings': [setting]})
    assert answer.status_code == 400 or bench.completed('odd').execution_info.failure_info is not None


def test_task_that_writes_without_end_is_read_in_part(bench) -> None:
    bench.run('large', "/bin/bash -c 'head -c 50000000 /dev/zero'")
    part = bench.client.file.get_from_task(bench.job_id, 'large', 'stdout.txt')
    assert sum(map(len, part)) == 50_000_000
