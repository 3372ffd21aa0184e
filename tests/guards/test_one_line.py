"""What the reader is told when an account does not let the client in: the setting to look at, in one line."""
from __future__ import annotations

import base64
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import requests
from azure.batch import BatchServiceClient, models
from azure.batch.batch_auth import SharedKeyCredentials
from azure.batch.custom.custom_errors import CreateTasksErrorException
from azure.core.exceptions import AzureError, HttpResponseError
from azure.core.rest import HttpRequest, HttpResponse
from azure.storage.blob import BlobServiceClient, LinearRetry, StorageErrorCode
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msrest import Deserializer
from msrest.exceptions import ClientRequestError
from pytest_mock import MockerFixture

from common.guards.end_of_run import FORESEEABLE
from common.guards.one_line import one_line
from common.guards.patience import StorageRetries, patient
from common.local_azure import LocalAzure
from tests.stand_in import Answer, StandIn, make_certificate, stand_in

KEY = base64.b64encode(b'k' * 64).decode()
BATCH_KEY_SETTINGS = ('_BATCH_ACCOUNT_NAME (or AZURE_BATCH_ACCOUNT)', '_BATCH_ACCOUNT_KEY (or AZURE_BATCH_ACCESS_KEY)')
STORAGE_KEY_SETTINGS = ('_STORAGE_ACCOUNT_NAME (or AZURE_STORAGE_ACCOUNT)',
                        '_STORAGE_ACCOUNT_KEY (or AZURE_STORAGE_KEY)')
XML = {'Content-Type': 'application/xml', 'x-ms-request-id': '1'}


def batch_line(url: str, call: Callable[[BatchServiceClient], object] = lambda client: list(client.pool.list())) -> str:
    """Has a client of Batch fail, and returns what the reader is told."""
    with BatchServiceClient(SharedKeyCredentials('mybatch', KEY), batch_url=url) as client:
        client.config.retry_policy.retries = 1
        client.config.retry_policy.backoff_factor = 0
        with pytest.raises(FORESEEABLE) as raised:
            call(client)
    return checked(one_line(raised.value))


def storage_line(url: str) -> str:
    """Has a client of Storage fail, and returns what the reader is told."""
    with BlobServiceClient(f'{url}/mystorage', credential={'account_name': 'mystorage', 'account_key': KEY},
                           retry_policy=LinearRetry(retry_total=0)) as client:
        with pytest.raises(AzureError) as raised:
            client.create_container('input')
    return checked(one_line(raised.value))


def checked(line: str) -> str:
    assert '\n' not in line and KEY not in line
    assert not re.search(r'[A-Za-z0-9+/]{43}=', line)
    return line


def batch_answer(status: int, code: str, detail: str = '', **headers: str) -> Answer:
    body = {'code': code, 'message': {'lang': 'en-US', 'value': 'Refused.\nRequestId:1'},
            'values': [{'key': 'AuthenticationErrorDetail', 'value': detail}]}
    return Answer(status, json.dumps(body), headers)


def storage_answer(status: int, code: str, **headers: str) -> Answer:
    return Answer(status, f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>Refused.\n'
                          'RequestId:1</Message></Error>', {**XML, 'x-ms-error-code': code, **headers})


@pytest.mark.real
def test_a_wrong_batch_key(local_account: LocalAzure) -> None:
    line = batch_line(local_account.batch_account_url)

    assert line.startswith('The Batch account at 127.0.0.1 refuses the key: look at ')
    assert all(setting in line for setting in BATCH_KEY_SETTINGS)


@pytest.mark.real
def test_a_wrong_batch_key_where_the_answer_has_no_body(local_account: LocalAzure) -> None:
    line = batch_line(local_account.batch_account_url, lambda client: client.pool.exists('mypool'))

    assert line.startswith('The Batch account at 127.0.0.1 refuses the key: look at ')


@pytest.mark.real
def test_a_clock_that_is_behind(local_account: LocalAzure, mocker: MockerFixture) -> None:
    now = time.time()
    mocker.patch('time.time', lambda: now - 47 * 60)

    line = batch_line(local_account.batch_account_url)

    assert 'the clock of this machine is 47 minutes behind: set it right' in line


@pytest.mark.real
def test_a_wrong_storage_key(local_account: LocalAzure) -> None:
    url, _, name = local_account.storage_account_url.rpartition('/')
    with BlobServiceClient(f'{url}/{name}', credential={'account_name': name, 'account_key': KEY},
                           retry_policy=LinearRetry(retry_total=0)) as client:
        with pytest.raises(AzureError) as raised:
            client.create_container('input')

    # Azurite does not say AuthenticationFailed, as Azure does. There is no portal to look at.
    line = one_line(raised.value)
    assert line.startswith('The storage account at 127.0.0.1 refuses the key: look at _STORAGE_ACCOUNT_NAME')
    assert 'portal' not in line


def test_a_storage_key_that_azure_refuses() -> None:
    with stand_in(storage_answer(403, 'AuthenticationFailed')) as service:
        line = storage_line(service.url)

    assert line.startswith('The storage account at 127.0.0.1 refuses the key: look at ')
    assert all(setting in line for setting in STORAGE_KEY_SETTINGS)


def test_a_clock_that_is_ahead_of_storage() -> None:
    with stand_in(storage_answer(403, 'AuthenticationFailed', Date='Mon, 23 Nov 2020 01:00:00 GMT')) as service:
        line = storage_line(service.url)

    assert re.search(r'the clock of this machine is \d+ minutes ahead: set it right', line)


def test_accounts_without_shared_keys() -> None:
    # The words of Batch: https://github.com/Azure/BatchExplorer/issues/239
    detail = 'The specified type of authentication SharedKey is not allowed for this account.'
    with stand_in(batch_answer(403, 'AuthenticationFailed', detail)) as batch:
        line = batch_line(batch.url)
    with stand_in(storage_answer(403, 'KeyBasedAuthenticationNotPermitted')) as storage:
        lines = [line, storage_line(storage.url)]

    for line in lines:
        assert 'takes no account keys: leave both account keys empty to sign in with Entra ID' in line
        assert '_BATCH_ACCOUNT_KEY' in line and '_STORAGE_ACCOUNT_KEY' in line


def test_accounts_that_are_disabled() -> None:
    with stand_in(batch_answer(403, 'AccountIsDisabled')) as batch:
        assert batch_line(batch.url) == 'The Batch account at 127.0.0.1 is disabled: see the portal.'
    with stand_in(storage_answer(403, 'AccountIsDisabled')) as storage:
        assert storage_line(storage.url) == 'The storage account at 127.0.0.1 is disabled: see the portal.'


def refused_elsewhere(code: str, **headers: str) -> HttpResponseError:
    """What the Storage client raises for a 403 of an account on Azure."""
    request = HttpRequest('PUT', 'https://mystorage.blob.core.windows.net/input', headers=headers)
    response = MagicMock(spec=HttpResponse, status_code=403, reason='Forbidden', request=request,
                         headers={'x-ms-request-id': '1'})
    error = HttpResponseError('This request is not authorized.')
    error.response, error.error_code = response, StorageErrorCode(code)
    return error


@pytest.mark.parametrize('token, or_else', [
    ('SharedKey mystorage:c2ln',
     'look at _STORAGE_ACCOUNT_NAME (or AZURE_STORAGE_ACCOUNT), _STORAGE_ACCOUNT_KEY (or AZURE_STORAGE_KEY)'),
    ('Bearer eyJ', 'ask for the role Storage Blob Data Contributor')])
def test_a_network_that_the_storage_account_keeps_out(token: str, or_else: str) -> None:
    assert one_line(refused_elsewhere('AuthorizationFailure', Authorization=token)) == (
        'The storage account at mystorage.blob.core.windows.net does not let you in from here (AuthorizationFailure): '
        f'look at its networking settings in the portal, or {or_else}.')


@pytest.mark.parametrize('status, advice', [
    (404, 'look at _BATCH_ACCOUNT_URL (or AZURE_BATCH_ENDPOINT)'), (502, 'try again later')])
def test_an_answer_that_is_not_from_batch(status: int, advice: str) -> None:
    with stand_in(Answer(status, '<html>Some page</html>', {'Content-Type': 'text/html'})) as service:
        line = batch_line(service.url, lambda client: client.pool.add(models.PoolAddParameter(id='p', vm_size='s')))

    assert line.startswith(f'What answers at 127.0.0.1, {status} ')
    assert line.endswith(f'is not a Batch account: {advice}.')


def test_an_answer_that_is_not_from_storage() -> None:
    with stand_in(Answer(404, '<html>Some page</html>', {'Content-Type': 'text/html'})) as service:
        line = storage_line(service.url)

    assert 'is not a storage account: look at _STORAGE_ACCOUNT_NAME' in line


@pytest.mark.parametrize('answer', [Answer(200, '<html>', {'Content-Type': 'text/plain'}), Answer(200, 'not JSON'),
                                    Answer(200, '"a string"')])
def test_an_answer_that_can_not_be_read(answer: Answer) -> None:
    with stand_in(answer) as service:
        line = batch_line(service.url, lambda client: client.pool.get('mypool'))

    assert line.startswith('What answers as the Batch account does not answer as Batch does: look at _BATCH')


def test_a_service_that_stays_in_trouble() -> None:
    with stand_in(batch_answer(500, 'InternalError')) as service:
        assert batch_line(service.url, lambda client: client.job.delete('j')) == (
            'No connection to the Batch account at 127.0.0.1: too many 500 error responses. Is the service on this '
            'machine running?')
        assert batch_line(service.url, lambda client: patient(client).job.delete('j')) == 'Refused. (InternalError)'


@pytest.mark.parametrize('url', ['https://nobody.invalid', 'http://nobody.invalid'])
def test_a_name_that_nobody_knows(url: str) -> None:
    assert batch_line(url) == ('No connection to the Batch account at nobody.invalid: nobody knows this name. Look at '
                               '_BATCH_ACCOUNT_URL (or AZURE_BATCH_ENDPOINT), then at your network.')
    assert storage_line(url).startswith('No connection to the storage account at nobody.invalid: nobody knows this '
                                        'name. Look at _STORAGE_ACCOUNT_NAME (or AZURE_STORAGE_ACCOUNT)')


def test_a_service_on_this_machine_that_has_ended() -> None:
    with stand_in() as service:
        url = service.url

    line = batch_line(url)

    assert line == ('No connection to the Batch account at 127.0.0.1: it is refused. '
                    'Is the service on this machine running?')
    assert 'storage account at 127.0.0.1: it is refused' in storage_line(url)


@pytest.mark.parametrize('line_of', [batch_line, storage_line])
def test_a_service_that_does_not_speak_https(line_of: Callable[[str], str]) -> None:
    with stand_in() as service:
        line = line_of(service.url.replace('http:', 'https:'))

    assert ': it does not speak https.' in line


def test_a_service_that_takes_too_long() -> None:
    def call(client: BatchServiceClient) -> None:
        client.config.connection.timeout = 0.1
        client.pool.get('mypool')

    with socket.create_server(('127.0.0.1', 0)) as silent:
        line = batch_line(f'http://localhost:{silent.getsockname()[1]}', call)

    assert ' account at localhost: it does not answer.' in line


@pytest.mark.parametrize('line_of', [batch_line, storage_line])
def test_a_certificate_that_is_not_trusted(line_of: Callable[[str], str], tmp_path: Path) -> None:
    with stand_in(certificate=make_certificate(tmp_path)) as service:
        line = line_of(service.url)

    assert 'is not trusted' in line and 'REQUESTS_CA_BUNDLE' in line


@pytest.mark.parametrize('line_of', [batch_line, storage_line])
def test_a_proxy_that_does_not_let_us_through(line_of: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    with stand_in() as gone:
        monkeypatch.setenv('HTTPS_PROXY', gone.url)
    monkeypatch.setenv('NO_PROXY', '')

    line = line_of('https://mine.example.com')

    assert 'the proxy does not let us through; look at HTTPS_PROXY and NO_PROXY' in line


def test_any_other_batch_error_shows_its_message_and_code() -> None:
    with stand_in(batch_answer(409, 'PoolExists')) as service:
        assert batch_line(service.url) == 'Refused. (PoolExists)'


def batch_error(body: bytes, status: int) -> models.BatchErrorException:
    response = requests.Response()
    response.status_code, response.reason, response._content = status, 'Reason', body
    response.headers['Content-Type'] = 'application/json'
    response.request = requests.Request('POST', 'https://mybatch.westeurope.batch.azure.com/pools').prepare()
    classes = {name: kind for name, kind in vars(models).items() if isinstance(kind, type)}
    return models.BatchErrorException(Deserializer(classes), response)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(['code', 'message', 'values', 'value', 'key', 'error']), inner, max_size=4))


@given(body=st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()),
       status=st.integers(400, 599))
@example(b'{"code": "AuthenticationFailed", "values": [null]}', 403)
@example(b'{"code": {"value": "x"}, "message": "text", "values": {"key": 5}}', 403)
@example(b'{"code": ["x"], "message": {"value": {"value": null}}, "values": "x"}', 409)
@settings(max_examples=settings.default.max_examples * 3, deadline=None)
def test_any_batch_error_becomes_a_line(body: bytes, status: int) -> None:
    line = one_line(batch_error(body, status))

    assert line and len(line.splitlines()) == 1


@pytest.fixture(scope='module')
def service() -> Iterator[StandIn]:
    with stand_in() as service:
        yield service


@given(body=st.text(max_size=20) | JSON.map(json.dumps), status=st.sampled_from([200, 201, 202, 206, 404, 409, 500]),
       kind=st.sampled_from(['application/json', 'text/html', 'text/plain', 'application/xml', 'image/png', '', 'x']))
@example('[]', 200, 'application/json')
@example('{"values": [null]}', 403, 'application/json')
@settings(max_examples=60, deadline=None)
def test_whatever_answers_as_batch_ends_in_a_line(service: StandIn, body: str, status: int, kind: str) -> None:
    service.answer = lambda _: Answer(status, body, {'Content-Type': kind})
    with BatchServiceClient(SharedKeyCredentials('mybatch', KEY), batch_url=service.url) as client:
        client.config.retry_policy.backoff_factor = 0
        patient(client)
        for call in (lambda: client.pool.get('p'), lambda: client.job.delete('j'),
                     lambda: client.pool.add(models.PoolAddParameter(id='p', vm_size='s'))):
            try:
                call()
            except FORESEEABLE as error:
                line = one_line(error)
                assert line and len(line.splitlines()) == 1


@given(body=st.text(max_size=20) | JSON.map(json.dumps), status=st.sampled_from([200, 201, 302, 400, 403, 404, 409]),
       kind=st.sampled_from(['application/json', 'text/html', 'text/plain', 'application/xml', 'image/png', '', 'x']))
@example('0', 201, '')
@settings(max_examples=60, deadline=None)
def test_whatever_answers_as_storage_ends_in_a_line(service: StandIn, body: str, status: int, kind: str) -> None:
    service.answer = lambda _: Answer(status, body, {'Content-Type': kind})
    with BlobServiceClient(f'{service.url}/mystorage', credential={'account_name': 'mystorage', 'account_key': KEY},
                           retry_policy=StorageRetries()) as client:
        container_client = client.get_container_client('input')
        for call in (lambda: list(container_client.list_blob_names()), container_client.get_container_properties):
            with pytest.raises(AzureError) as raised:
                call()
            assert 'is not a storage account: look at _STORAGE_ACCOUNT_NAME' in one_line(raised.value)


@pytest.mark.parametrize('error', [
    RuntimeError(), ClientRequestError(''), MagicMock(spec=OSError), KeyboardInterrupt(), ValueError('a\nb'),
    AzureError(''), RuntimeError('\n \n'), RuntimeError('a\x0bb\u2028c')])
def test_any_error_at_all_becomes_a_line(error: BaseException) -> None:
    line = one_line(error)

    assert line and len(line.splitlines()) == 1


def test_the_error_of_a_collection_is_that_of_its_first_part() -> None:
    refused = batch_error(b'{"code": "JobCompleted", "message": {"value": "The job is completed."}}', 409)

    assert one_line(CreateTasksErrorException([], [], [refused])) == 'The job is completed. (JobCompleted)'


@pytest.mark.parametrize('number, more', [(1, ''), (3, ', and 2 more')])
def test_tasks_that_are_refused(number: int, more: str) -> None:
    error = models.BatchError(code='InvalidValue', message=models.ErrorMessage(value='Too long.\nRequestId:1'))
    refused = [models.TaskAddResult(status='clienterror', task_id=f't{index}', error=error) for index in range(number)]

    assert one_line(CreateTasksErrorException([], refused, [])) == (
        f'Batch refuses task t0{more}: Too long. (InvalidValue)')


def test_an_output_that_nobody_reads() -> None:
    assert one_line(BrokenPipeError(32, 'Broken pipe')) == 'Standard output cannot be written to.'


@pytest.mark.parametrize('before', [
    OSError(28, 'No space left on device'), KeyboardInterrupt(), KeyError('x'),
    RuntimeError('CERTIFICATE_VERIFY_FAILED')])
def test_an_error_while_another_one_is_dealt_with_is_not_taken_for_it(before: BaseException) -> None:
    with stand_in() as service:
        url = service.url
    try:
        raise before
    except BaseException:
        lines = [batch_line(url), storage_line(url)]

    assert all(': it is refused. Is the service on this machine running?' in line for line in lines)


def test_an_error_while_an_answer_that_is_not_from_batch_is_dealt_with() -> None:
    # Of this one, str() fails.
    before = batch_error(b'<html>', 502)
    with pytest.raises(AttributeError):
        str(before)

    with stand_in() as service:
        url = service.url
    try:
        raise before
    except models.BatchErrorException:
        assert ': it is refused.' in batch_line(url)


def test_a_line_never_shows_a_signature() -> None:
    url = 'https://mystorage.blob.core.windows.net/output?sp=w&sig=c2VjcmV0&se=2026'

    assert one_line(RuntimeError(f'No answer from {url}')) == (
        'No answer from https://mystorage.blob.core.windows.net/output?sp=w&sig=...&se=2026')
