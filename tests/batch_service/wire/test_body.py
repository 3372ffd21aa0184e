from __future__ import annotations

import json
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from azure.batch.batch_auth import SharedKeyAuth
from hypothesis import given, settings
from hypothesis import strategies as st

from common.batch_service.errors import BatchError
from common.batch_service.wire import body
from tests.batch_service.workbench import ACCOUNT, ServiceProcess, Workbench

VERSION = 'api-version=2024-02-01.19.0'
UNHURRIED = settings(deadline=None)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1 << 63, (1 << 63) - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=20)


@UNHURRIED
@given(JSON, st.booleans())
def test_any_json_is_read(value: object, ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii).encode('utf-8', 'surrogatepass')
    assert body.parse(text) == value


@UNHURRIED
@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()[:-1]))
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    try:
        json.dumps(body.parse(text), allow_nan=False)
    except BatchError as error:
        assert error.code == 'InvalidRequestBody'


@pytest.mark.parametrize('text', [
    'NaN', '[Infinity]', '{"a":-Infinity}', '1e999', '-' + '9' * 5000, '0.' + '1' * 5000, '[' * 101 + ']' * 101,
    '{"a":' * 101 + '1' + '}' * 101, '[' * 100_000, '{"a":1,"a":1}', '[{"a":{"b":1,"b":2}}]'])
def test_what_no_answer_may_carry_is_refused(text: str) -> None:
    with pytest.raises(BatchError) as error:
        body.parse(text.encode())
    assert error.value.code == 'InvalidRequestBody' and error.value.values['Reason']


def test_hundred_levels_are_read() -> None:
    assert body.parse(b'[' * 99 + b'1' + b']' * 99)


@UNHURRIED
@given(st.lists(JSON, min_size=1, max_size=5), st.sampled_from(['', ' ', '\n\t ']))
def test_large_collection_is_split_into_its_tasks(tasks: list[object], blank: str) -> None:
    text = f'{blank}{{{blank}"value"{blank}:{blank}[' + f'{blank},{blank}'.join(map(json.dumps, tasks)) + f'{blank}]}}'
    split = body._split(bytearray(text.encode()))
    assert [body.parse(task) for task in split['value']] == tasks


@pytest.mark.parametrize(('text', 'code'), [
    ('{"value":[1', 'InvalidRequestBody'), ('{"value":[1]', 'InvalidRequestBody'),
    ('{"value":[1]}x', 'InvalidRequestBody'), ('{"value":[\xe4]}', 'InvalidRequestBody'),
    ('{"value":[1 2]}', 'InvalidRequestBody'), ('[]', 'InvalidRequestBody'),
    ('{"value":["' + 'x' * 1_000_000 + '"]}', 'RequestBodyTooLarge'),
    ('{"value":[' + '1,' * 100 + '1]}', 'InvalidPropertyValue')])
def test_what_is_no_collection_is_refused(text: str, code: str) -> None:
    with pytest.raises(BatchError) as error:
        body._split(bytearray(text.encode('latin-1')))
    assert error.value.code == code


@pytest.fixture
def signed(shared_service: ServiceProcess):
    """A connection on which a signed request's head has been sent, whose body is to have so many bytes."""
    connections = []

    def begin(path: str, size: int, *, chunked: bool = False) -> socket.socket:
        length = {} if chunked else {'Content-Length': str(size)}
        request = requests.Request('POST', f'{shared_service.url}{path}?{VERSION}', headers={
            'Content-Type': 'application/json', **length}).prepare()
        if chunked:
            request.headers = {**{name: value for name, value in request.headers.items() if name != 'Content-Length'},
                               'Transfer-Encoding': 'chunked'}
        SharedKeyAuth('Authorization', ACCOUNT, shared_service.key_file.read_text())(request)
        address = urlsplit(shared_service.url)
        connection = socket.create_connection((address.hostname, address.port), timeout=10)
        connections.append(connection)
        head = ''.join(f'{name}: {value if isinstance(value, str) else value.decode()}\r\n'
                       for name, value in request.headers.items())
        connection.sendall(f'POST {path}?{VERSION} HTTP/1.1\r\nHost: {address.netloc}\r\n{head}\r\n'.encode())
        return connection

    yield begin
    for connection in connections:
        connection.close()


def test_large_body_is_refused_before_it_is_sent(signed) -> None:
    assert b' 413 ' in signed('/pools', 5_000_000).recv(100)


def test_large_body_of_unknown_size_is_refused_as_soon_as_it_is_too_large(signed) -> None:
    connection = signed('/pools', 0, chunked=True)
    for _ in range(5):
        connection.sendall(b'100000\r\n' + b' ' * 0x100000 + b'\r\n')
    assert b' 413 ' in connection.recv(100)


def test_connection_serves_on_after_a_body_that_was_too_large(send) -> None:
    for _ in range(2):
        answer = send('POST', f'/pools?{VERSION}', data=b' ' * 6_000_000)
        assert (answer.status_code, answer.json()['code']) == (413, 'RequestBodyTooLarge')


def test_collection_may_be_larger_than_other_bodies(send, empty_bench: Workbench) -> None:
    empty_bench.add_pool(nodes=0)
    empty_bench.add_job()
    path = f'/jobs/{empty_bench.job_id}/addtaskcollection?{VERSION}'
    tasks = [{'id': f't{number}', 'commandLine': 'true',
              'environmentSettings': [{'name': 'A', 'value': 'ä' * 450_000}]} for number in range(6)]
    tasks[2]['id'] = 'a b'
    answer = send('POST', path, data=json.dumps({'value': tasks}, ensure_ascii=False).encode()).json()
    assert [result['status'] for result in answer['value']] == [
        'success', 'success', 'clienterror', 'success', 'success', 'success']
    assert empty_bench.task('t5').environment_settings[0].value == 'ä' * 450_000


def test_body_takes_no_more_memory_than_it_has_bytes(own_service: ServiceProcess) -> None:
    auth = SharedKeyAuth('Authorization', ACCOUNT, own_service.key_file.read_text())
    text = b'{"value":[' + b'[],' * 20_000_000 + b'[]]}'
    answer = requests.post(f'{own_service.url}/jobs/j/addtaskcollection?{VERSION}', auth=auth, data=text, timeout=60,
                           headers={'Content-Type': 'application/json'}, proxies={'http': ''})
    assert answer.status_code == 400
    status = Path(f'/proc/{own_service.process.pid}/status').read_text()
    assert int(status.partition('VmHWM:')[2].split()[0]) < 150_000
