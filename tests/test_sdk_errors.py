"""What the reader is told when an account does not let the client in: the setting to look at, in one line."""
from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import requests
from azure.batch import BatchServiceClient, models
from azure.batch.batch_auth import SharedKeyCredentials
from azure.batch.custom.custom_errors import CreateTasksErrorException
from azure.core.exceptions import AzureError
from azure.storage.blob import BlobServiceClient, LinearRetry
from hypothesis import given, settings
from hypothesis import strategies as st
from msrest import Deserializer
from msrest.exceptions import ClientException, ClientRequestError
from pytest_mock import MockerFixture

from common.local_azure import LocalAzure
from common.sdk_errors import one_line
from tests.stand_in import Answer, make_certificate, stand_in

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
        with pytest.raises(ClientException) as raised:
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

    # Azurite does not say AuthenticationFailed, as Azure does.
    assert one_line(raised.value).startswith('The storage account at 127.0.0.1 does not let you in')


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


def test_a_network_that_the_storage_account_keeps_out() -> None:
    with stand_in(storage_answer(403, 'AuthorizationFailure')) as service:
        line = storage_line(service.url)

    assert 'networking settings in the portal, or look at _STORAGE_ACCOUNT_KEY (or AZURE_STORAGE_KEY)' in line


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


def test_a_service_that_stays_in_trouble() -> None:
    with stand_in(batch_answer(503, 'ServerBusy')) as service:
        line = batch_line(service.url.replace('127.0.0.1', 'localhost'))

    assert '503' in line


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
@settings(max_examples=300, deadline=None)
def test_any_batch_error_becomes_a_line(body: bytes, status: int) -> None:
    line = one_line(batch_error(body, status))

    assert line and '\n' not in line


@pytest.mark.parametrize('error', [
    RuntimeError(), ClientRequestError(''), MagicMock(spec=OSError),
    KeyboardInterrupt(), ValueError('a\nb'), AzureError(''), RuntimeError('\n \n')])
def test_any_error_at_all_becomes_a_line(error: BaseException) -> None:
    line = one_line(error)

    assert line and '\n' not in line


def test_the_error_of_a_collection_is_that_of_its_first_part() -> None:
    refused = batch_error(b'{"code": "JobCompleted", "message": {"value": "The job is completed."}}', 409)

    assert one_line(CreateTasksErrorException([], [], [refused])) == 'The job is completed. (JobCompleted)'
