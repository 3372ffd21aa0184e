from __future__ import annotations

import http.client
import json
from email.utils import formatdate
from urllib.parse import quote, urlsplit

import pytest
import requests
from azure.batch import BatchServiceClient, models
from azure.batch.batch_auth import SharedKeyCredentials

VERSION = '2024-02-01.19.0'


def test_wrong_key_is_refused(shared_service) -> None:
    client = BatchServiceClient(SharedKeyCredentials('localbatch', 'd3Jvbmc='), batch_url=shared_service.url)
    with pytest.raises(models.BatchErrorException) as error:
        list(client.pool.list())
    assert error.value.response.status_code == 403
    assert error.value.error.code == 'AuthenticationFailed'
    assert error.value.error.values[0].key == 'AuthenticationErrorDetail'


def test_other_account_is_refused(shared_service) -> None:
    credentials = SharedKeyCredentials('elsewhere', shared_service.key_file.read_text())
    with pytest.raises(models.BatchErrorException) as error:
        list(BatchServiceClient(credentials, batch_url=shared_service.url).pool.list())
    assert error.value.error.code == 'AuthenticationFailed'


def test_clock_that_is_off_is_refused(send) -> None:
    answer = send('GET', f'/pools?api-version={VERSION}', headers={'ocp-date': formatdate(0, usegmt=True)})
    assert answer.status_code == 403
    assert 'more than 15 minutes off' in answer.text


def test_nobody_is_told_of_another_scheme_because_a_client_names_it(shared_service, send) -> None:
    answer = send('GET', f'/pools?api-version={VERSION}', headers={'X-Forwarded-Proto': 'https'})
    assert answer.json()['odata.metadata'].startswith(f'{shared_service.url}/')


def test_request_without_a_signature_does_nothing(shared_service, batch) -> None:
    answer = requests.delete(f'{shared_service.url}/pools/x?api-version={VERSION}', timeout=10)
    assert answer.status_code == 403
    assert answer.json()['code'] == 'AuthenticationFailed'


@pytest.mark.parametrize(('method', 'path', 'status', 'code'), [
    ('GET', '/pools', 400, 'MissingRequiredQueryParameter'),
    ('GET', '/pools?api-version=1999-01-01.1.0', 400, 'UnsupportedRequestVersion'),
    ('GET', f'/nowhere?api-version={VERSION}', 400, 'InvalidUri'),
    ('PUT', f'/pools?api-version={VERSION}', 405, 'UnsupportedHttpVerb'),
    ('FOO', f'/pools?api-version={VERSION}', 400, 'InvalidHttpVerb'),
    ('FOO', f'/nowhere?api-version={VERSION}', 400, 'InvalidHttpVerb'),
    ('OPTIONS', f'/pools?api-version={VERSION}', 405, 'UnsupportedHttpVerb'),
    ('GET', f'/lifetimepoolstats?api-version={VERSION}', 400, 'InvalidUri'),
    *(('GET', f'/{path}?maxresults={number}&api-version={VERSION}', 400, code) for path in ('pools', 'applications')
      for number, code in ((quote('\u0661'), 'InvalidQueryParameterValue'), ('1_0', 'InvalidQueryParameterValue'),
                           ('-' + '9' * 5000, 'InvalidQueryParameterValue'), ('%201', 'InvalidQueryParameterValue'),
                           ('9' * 5000, 'OutOfRangeQueryParameterValue'))),
    *(('GET', f'/{path}?$skiptoken={token}&api-version={VERSION}', 400, 'InvalidQueryParameterValue')
      for path in ('pools', 'applications') for token in ('*', 'a', '_w', 'wrI', '%C3%A4', 'YQ==x')),
    ('GET', f'/pools?maxresults=0&api-version={VERSION}', 400, 'InvalidQueryParameterValue'),
    ('GET', f'/pools?maxresults=1001&api-version={VERSION}', 400, 'OutOfRangeQueryParameterValue'),
    ('GET', f'/pools?$filter=nonsense&api-version={VERSION}', 400, 'InvalidQueryParameterValue'),
    ('GET', f'/pools?colour=red&api-version={VERSION}', 400, 'UnsupportedQueryParameter'),
    ('GET', f'/pools?$expand=everything&api-version={VERSION}', 400, 'InvalidQueryParameterValue'),
])
def test_request_that_means_nothing_is_refused(send, method, path, status, code) -> None:
    answer = send(method, path)
    assert (answer.status_code, answer.json()['code']) == (status, code)


@pytest.mark.parametrize('path', ['pools', 'jobs'])
def test_statistics_of_a_lifetime_are_there_as_long_as_the_versions_have_them(send, path) -> None:
    statistics = send('GET', f'/lifetime{path[:-1]}stats?api-version=2022-10-01.16.0').json()
    assert {'url', 'startTime', 'lastUpdateTime'} <= statistics.keys()
    assert path == 'pools' or statistics['numSucceededTasks'] == '0'


@pytest.mark.parametrize('name', ['127.0.0.1', 'localhost', 'LOCALHOST'])
def test_links_lead_to_the_name_that_the_client_used(send, bench, shared_service, name) -> None:
    host = f'{name}:{urlsplit(shared_service.url).port}'
    answer = send('GET', f'/pools/{bench.pool_id}?api-version={VERSION}', headers={'Host': host})
    assert answer.json()['url'] == f'http://{host.lower()}/pools/{bench.pool_id}'


@pytest.mark.parametrize('host', ['evil.example', '127.0.0.1', '127.0.0.1:1', 'localhost.evil.example:{port}', '{port}',
                                  'evil.example:{port}', '127.0.0.1:{port}x', ''])
def test_other_host_is_refused_before_anything_else(shared_service, host) -> None:
    host = host.replace('{port}', str(urlsplit(shared_service.url).port))
    answer = requests.get(f'{shared_service.url}/pools', headers={'Host': host}, timeout=10, proxies={'http': ''})
    assert (answer.status_code, answer.json()['code']) == (400, 'InvalidHeaderValue')
    assert answer.json()['odata.metadata'].startswith(shared_service.url)


@pytest.mark.parametrize('name', ['If-Modified-Since', 'If-Unmodified-Since'])
@pytest.mark.parametrize('date', [
    'Sat, 31 Jan 2026 08:00:00', 'Sat, 31 Jan 2026 08:00:00 -0000', 'Sat, 31 Jan 0000 08:00:00 GMT',
    'Sat, 31 Jan 10000 08:00:00 GMT', 'Sat, 31 Jan ' + '9' * 5000 + ' 08:00:00 GMT', 'x', '',
    'Fri, 31 Dec 9999 23:59:59 -2359'])
def test_any_date_is_compared_or_refused(send, bench, name, date) -> None:
    answer = send('GET', f'/pools/{bench.pool_id}?api-version={VERSION}', headers={name: date})
    assert answer.status_code in (200, 304) or answer.json()['code'] in ('InvalidHeaderValue', 'ConditionNotMet')
    assert answer.status_code < 500


@pytest.mark.parametrize('body', ['0', 'false', '[]', '""', '"x"', '[{}]'])
@pytest.mark.parametrize('path', ['jobs/{job}/terminate', 'pools/{pool}/nodes/{node}/reboot'])
def test_body_that_may_be_left_out_is_an_object_all_the_same(send, bench, path, body) -> None:
    [node] = bench.wait_for_nodes('idle')
    path = path.format(job=bench.job_id, pool=bench.pool_id, node=node.id)
    answer = send('POST', f'/{path}?api-version={VERSION}', data=body)
    assert (answer.status_code, answer.json()['code']) == (400, 'InvalidRequestBody')


def test_asterisk_selects_everything(send, bench) -> None:
    whole = send('GET', f'/jobs/{bench.job_id}?api-version={VERSION}').json()
    assert send('GET', f'/jobs/{bench.job_id}?$select=*&api-version={VERSION}').json() == whole
    [listed] = send('GET', f"/jobs?$select=*&$filter=id eq '{bench.job_id}'&api-version={VERSION}").json()['value']
    assert listed.keys() == whole.keys() - {'odata.metadata'}


def test_what_an_error_repeats_is_bounded(send) -> None:
    answer = send('POST', f'/pools?api-version={VERSION}', json={'id': 'x' * 1_000_000})
    assert answer.status_code == 400 and len(answer.content) < 10_000


def test_body_of_another_type_is_refused(send) -> None:
    answer = send('POST', f'/pools?api-version={VERSION}', data=b'{}', headers={'Content-Type': 'text/plain'})
    assert (answer.status_code, answer.json()['code']) == (400, 'InvalidHeaderValue')


@pytest.mark.parametrize('body', [b'{', b'[]', b'"x"', b'\xff', b'[' * 100_000])
def test_body_that_is_no_object_is_refused(send, body) -> None:
    answer = send('POST', f'/pools?api-version={VERSION}', data=body)
    assert (answer.status_code, answer.json()['code']) == (400, 'InvalidRequestBody')


@pytest.mark.parametrize(('body', 'code', 'name'), [
    ({'vmSize': 'x'}, 'MissingRequiredProperty', 'id'),
    ({'id': 'p', 'vmSize': 5}, 'InvalidPropertyValue', 'vmSize'),
    ({'id': 'p', 'colour': 'red'}, 'UnsupportedProperty', 'colour'),
    ({'id': 'p', 'mountConfiguration': [{}]}, 'UnsupportedProperty', 'mountConfiguration'),
])
def test_bad_property_is_named(send, body, code, name) -> None:
    document = send('POST', f'/pools?api-version={VERSION}', json=body).json()
    assert document['code'] == code
    assert {'key': 'PropertyName', 'value': name} in document['values']


def test_answers_carry_the_headers_of_the_service(send) -> None:
    answer = send('GET', f'/pools?api-version={VERSION}',
                  headers={'client-request-id': 'my-id', 'return-client-request-id': 'true'})
    assert answer.headers['DataServiceVersion'] == '3.0'
    assert answer.headers['client-request-id'] == 'my-id'
    assert answer.headers['request-id']
    assert answer.headers['Content-Type'] == 'application/json; odata=minimalmetadata'


def test_bytes_that_are_no_request_do_not_harm_the_service(shared_service, batch) -> None:
    address = urlsplit(shared_service.url)
    for garbage in (b'\x16\x03\x01' * 50, b'GET /\xff\xfe HTTP/1.1\r\n\r\n', b'POST /pools HTTP/1.1\r\nA'):
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
        connection.connect()
        connection.sock.sendall(garbage)
        connection.close()
    assert isinstance(list(batch.pool.list()), list)


def test_pages_link_to_the_next_one_absolutely(send, bench) -> None:
    for number in range(3):
        bench.add(f'task{number}', 'true')
    answer = send('GET', f'/jobs/{bench.job_id}/tasks?api-version={VERSION}&maxresults=2&$select=id').json()
    assert answer['value'] == [{'id': 'task0'}, {'id': 'task1'}]
    link = urlsplit(answer['odata.nextLink'])
    assert link.scheme == 'http'
    last = send('GET', f'{link.path}?{link.query}').json()
    assert json.dumps(last['value']) == '[{"id": "task2"}]'
    assert 'odata.nextLink' not in last
