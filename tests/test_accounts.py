"""Which accounts the settings and the environment name."""
from __future__ import annotations

import base64
import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from azure.core.exceptions import ServiceRequestError
from azure.storage.blob import BlobServiceClient
from pytest_mock import MockerFixture

from common import local_azure
from common.accounts import Account, SettingsError, open_account
from common.first_contact import QuickToGiveUpAtFirst
from common.redaction import without_secrets

KEY = base64.b64encode(b'a key of this test').decode()
OTHER_KEY = base64.b64encode(b'another key').decode()
TYPED_IN = Account(batch_account_name='mybatch', batch_account_key=KEY,
                   batch_account_url='https://mybatch.westeurope.batch.azure.com',
                   storage_account_name='mystorage', storage_account_key=OTHER_KEY)
ENVIRONMENT = {'AZURE_BATCH_ACCOUNT': 'envbatch', 'AZURE_BATCH_ACCESS_KEY': KEY,
               'AZURE_BATCH_ENDPOINT': 'https://envbatch.westeurope.batch.azure.com',
               'AZURE_STORAGE_ACCOUNT': 'envstorage', 'AZURE_STORAGE_KEY': OTHER_KEY}
REQUIRED = ['batch_account_name', 'batch_account_key', 'batch_account_url', 'storage_account_name',
            'storage_account_key']


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith('AZURE_') or name.lower().endswith('_proxy'):
            monkeypatch.delenv(name)


def set_environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def opened(settings: Account) -> Account:
    with open_account(settings) as account:
        return account


def test_settings_alone_name_the_account() -> None:
    assert opened(TYPED_IN) == dataclasses.replace(
        TYPED_IN, storage_account_url='https://mystorage.blob.core.windows.net')


def test_empty_settings_take_the_variables_of_the_azure_cli(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, **ENVIRONMENT)

    assert opened(Account()) == Account('envbatch', KEY, 'https://envbatch.westeurope.batch.azure.com',
                                        'envstorage', OTHER_KEY, 'https://envstorage.blob.core.windows.net')


def test_settings_go_before_variables_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, **ENVIRONMENT)

    account = opened(Account(storage_account_name='mystorage'))

    assert (account.batch_account_name, account.storage_account_name) == ('envbatch', 'mystorage')
    assert account.storage_account_url == 'https://mystorage.blob.core.windows.net'


def test_the_blob_url_of_another_cloud_comes_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch,
                    AZURE_STORAGE_SERVICE_ENDPOINT='https://mystorage.blob.core.usgovcloudapi.net/')

    assert opened(TYPED_IN).storage_account_url == 'https://mystorage.blob.core.usgovcloudapi.net'


def test_a_batch_address_as_the_azure_cli_prints_it_becomes_a_url() -> None:
    settings = dataclasses.replace(TYPED_IN, batch_account_url=' mybatch.westeurope.batch.azure.com\n')

    assert opened(settings).batch_account_url == 'https://mybatch.westeurope.batch.azure.com'


@pytest.mark.parametrize('missing', REQUIRED)
def test_a_gap_is_named_with_its_setting_and_its_variable(missing: str) -> None:
    variable = dict(zip(REQUIRED, ENVIRONMENT))[missing]

    with pytest.raises(SettingsError) as raised:
        opened(dataclasses.replace(TYPED_IN, **{missing: ''}))

    assert f'_{missing.upper()} (or {variable})' in str(raised.value)
    assert str(raised.value).count('(or AZURE_') == 1
    assert KEY not in str(raised.value) and OTHER_KEY not in str(raised.value)


def test_the_blob_url_alone_is_a_gap_not_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, AZURE_STORAGE_SERVICE_ENDPOINT='https://mystorage.blob.core.windows.net')

    with pytest.raises(SettingsError, match='_BATCH_ACCOUNT_NAME'):
        opened(Account())


@pytest.mark.parametrize('setting, value', [
    ('batch_account_name', 'My-Batch'), ('batch_account_name', 'a' * 25),
    ('storage_account_name', 'mystorage.blob.core.windows.net'), ('storage_account_name', 'ab'),
    ('storage_account_name', 'größe'),
    ('batch_account_url', 'https://mybatch.westeurope.batch.azure.com/pools'),
    ('batch_account_url', 'ftp://mybatch.westeurope.batch.azure.com'),
    ('batch_account_url', 'http://mybatch.westeurope.batch.azure.com'),
    ('batch_account_url', 'https://mybatch.westeurope.batch.azure.com?a=b'),
    ('batch_account_url', 'https://me:secret@mybatch.westeurope.batch.azure.com'),
    ('batch_account_url', 'https://my batch'), ('batch_account_url', 'https://mybatch:port'),
    ('batch_account_url', 'https://'), ('batch_account_url', 'https://[::1')])
def test_what_cannot_be_a_name_or_url_is_named_with_its_value(setting: str, value: str) -> None:
    with pytest.raises(SettingsError) as raised:
        opened(dataclasses.replace(TYPED_IN, **{setting: value}))

    assert str(raised.value).startswith(f'_{setting.upper()} (or AZURE_')
    assert repr(value) in str(raised.value)
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize('value', ['https://mystorage.blob.core.windows.net/container', 'http://example.com'])
def test_what_cannot_be_a_blob_url_is_named_with_its_value(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, AZURE_STORAGE_SERVICE_ENDPOINT=value)

    with pytest.raises(SettingsError, match=f"^AZURE_STORAGE_SERVICE_ENDPOINT is '{value}'"):
        opened(TYPED_IN)


def test_services_on_this_machine_may_speak_http_and_name_the_account_in_the_path(
        monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, AZURE_STORAGE_SERVICE_ENDPOINT='http://127.0.0.1:10000/mystorage')

    account = opened(dataclasses.replace(TYPED_IN, batch_account_url='http://127.0.0.1:1234'))

    assert account.storage_account_url == 'http://127.0.0.1:10000/mystorage'


def test_nobody_signs_in_over_http() -> None:
    with pytest.raises(SettingsError, match='_BATCH_ACCOUNT_URL.*has to begin with "https://"'):
        opened(dataclasses.replace(TYPED_IN, batch_account_key='', storage_account_key='',
                                   batch_account_url='http://127.0.0.1:1234'))


def test_a_key_that_was_cut_off_is_told_by_its_length() -> None:
    cut_off = base64.b64encode(b'k' * 60).decode()

    with pytest.raises(SettingsError, match='_STORAGE_ACCOUNT_KEY.*80 characters, and a key has 88') as raised:
        opened(dataclasses.replace(TYPED_IN, storage_account_key=cut_off))

    assert cut_off not in str(raised.value)


@pytest.mark.parametrize('setting', ['batch_account_key', 'storage_account_key'])
@pytest.mark.parametrize('key', ['abc', 'c2VjcmV0!', 'schlüssel'])
def test_what_cannot_be_a_key_is_refused_without_showing_it(setting: str, key: str) -> None:
    with pytest.raises(SettingsError, match=f'_{setting.upper()}.*not an account key') as raised:
        opened(dataclasses.replace(TYPED_IN, **{setting: key}))

    assert key not in str(raised.value)


def test_keys_do_not_show_when_an_account_is_printed() -> None:
    assert KEY not in repr(TYPED_IN) and OTHER_KEY not in repr(TYPED_IN)


def test_no_account_at_all_starts_and_stops_the_local_services(
        mocker: MockerFixture, capsys: pytest.CaptureFixture[str]) -> None:
    local = local_azure.LocalAzure('localbatch', KEY, 'http://127.0.0.1:1', 'localstorage', OTHER_KEY,
                                   'http://127.0.0.1:2/localstorage')
    events = []

    @contextmanager
    def start() -> Iterator[local_azure.LocalAzure]:
        events.append(capsys.readouterr().out)
        yield local
        events.append('stopped')

    mocker.patch.object(local_azure, 'start', start)

    with open_account(Account()) as account:
        assert account == Account(**dataclasses.asdict(local))
        assert 'stopped' not in events

    notice, stopped = events
    assert notice.count('\n') == 1
    assert str(local_azure.default_workspace()) in notice and 'python_tutorial_client.py' in notice
    assert stopped == 'stopped'


@pytest.mark.parametrize('before', [
    {}, {'NO_PROXY': 'intranet'}, {'no_proxy': 'intranet', 'NO_PROXY': 'other'}])
def test_only_an_account_on_this_machine_goes_round_the_proxy(monkeypatch: pytest.MonkeyPatch,
                                                              before: dict[str, str]) -> None:
    set_environment(monkeypatch, HTTP_PROXY='http://proxy:3128', **before)
    unchanged = dict(os.environ)

    with open_account(TYPED_IN):
        assert os.environ == unchanged
    with open_account(dataclasses.replace(TYPED_IN, batch_account_url='http://127.0.0.1:1234')):
        expected = ['intranet', '127.0.0.1', 'localhost'] if before else ['127.0.0.1', 'localhost']
        assert os.environ['no_proxy'].split(',') == os.environ['NO_PROXY'].split(',') == expected
    assert os.environ == unchanged


def test_a_refused_connection_on_this_machine_is_given_up_soon(mocker: MockerFixture) -> None:
    slept = []
    mocker.patch('time.sleep', slept.append)
    account = Account(storage_account_name='localstorage', storage_account_key=KEY,
                      storage_account_url='http://127.0.0.1:1/localstorage',
                      batch_account_url='http://127.0.0.1:1')

    with BlobServiceClient(account.storage_account_url, credential=account.storage_credential,
                           **account.storage_client_options) as blob_service_client:
        with pytest.raises(ServiceRequestError):
            blob_service_client.create_container('input')

    assert 0 < sum(slept) < 5
    assert account.batch_client_retries == 1


def test_azure_is_retried_for_longer_once_it_has_answered() -> None:
    account = opened(TYPED_IN)

    assert isinstance(account.storage_client_options['retry_policy'], QuickToGiveUpAtFirst)
    assert account.batch_client_retries == 3


def test_windows_without_an_account_is_one_line(mocker: MockerFixture, capsys: pytest.CaptureFixture[str]) -> None:
    mocker.patch('sys.platform', 'win32')

    with pytest.raises(SettingsError, match='Linux and macOS only: fill in the settings'):
        opened(Account())

    assert capsys.readouterr() == ('', '')


def test_the_keys_of_the_accounts_are_blotted_out_from_then_on(mocker: MockerFixture) -> None:
    mocker.patch('common.redaction._KEPT', set())

    opened(TYPED_IN)

    assert without_secrets(f'{KEY} and {OTHER_KEY}') == '... and ...'
