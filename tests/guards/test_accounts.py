"""Which accounts the settings and the environment name, and how the reader is told."""
from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from azure.core.exceptions import AzureError
from pytest_mock import MockerFixture

from common import local_azure
from common.guards.accounts import Account, SettingsError, open_account
from common.redaction import without_secrets

KEY = base64.b64encode(b'a key of this test').decode()
OTHER_KEY = base64.b64encode(b'another key').decode()
# In the order of the settings at the top of the client.
TYPED_IN = {'batch_account_name': 'mybatch', 'batch_account_key': KEY,
            'batch_account_url': 'https://mybatch.westeurope.batch.azure.com',
            'storage_account_name': 'mystorage', 'storage_account_key': OTHER_KEY}
ENVIRONMENT = {'AZURE_BATCH_ACCOUNT': 'envbatch', 'AZURE_BATCH_ACCESS_KEY': KEY,
               'AZURE_BATCH_ENDPOINT': 'https://envbatch.westeurope.batch.azure.com',
               'AZURE_STORAGE_ACCOUNT': 'envstorage', 'AZURE_STORAGE_KEY': OTHER_KEY}
EMPTY = dict.fromkeys(TYPED_IN, '')


def set_environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def opened(settings: dict[str, str], **others: str) -> Account:
    with open_account(*{**settings, **others}.values()) as account:
        return account


def test_settings_alone_name_the_account(capsys: pytest.CaptureFixture[str]) -> None:
    assert opened(TYPED_IN) == Account(**TYPED_IN, storage_account_url='https://mystorage.blob.core.windows.net')

    assert capsys.readouterr() == (
        'This uses Batch account mybatch at https://mybatch.westeurope.batch.azure.com and storage account mystorage '
        'at https://mystorage.blob.core.windows.net.\n', '')


def test_empty_settings_take_the_variables_of_the_azure_cli(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    set_environment(monkeypatch, **ENVIRONMENT)

    assert opened(EMPTY) == Account('envbatch', KEY, 'https://envbatch.westeurope.batch.azure.com',
                                    'envstorage', OTHER_KEY, 'https://envstorage.blob.core.windows.net')

    assert capsys.readouterr() == (
        'This uses Batch account envbatch at https://envbatch.westeurope.batch.azure.com and storage account '
        'envstorage at https://envstorage.blob.core.windows.net (as AZURE_BATCH_ACCOUNT, AZURE_BATCH_ACCESS_KEY, '
        'AZURE_BATCH_ENDPOINT, AZURE_STORAGE_ACCOUNT, AZURE_STORAGE_KEY say).\n', '')


def test_settings_go_before_variables_one_by_one(monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    set_environment(monkeypatch, **ENVIRONMENT)

    account = opened({**TYPED_IN, 'batch_account_name': '', 'storage_account_key': ' \n'})

    assert (account.batch_account_name, account.storage_account_name) == ('envbatch', 'mystorage')
    assert account.storage_account_url == 'https://mystorage.blob.core.windows.net'
    assert account.storage_account_key == OTHER_KEY
    assert capsys.readouterr().out.endswith(' (as AZURE_BATCH_ACCOUNT, AZURE_STORAGE_KEY say).\n')


def test_the_blob_url_of_another_cloud_comes_from_its_variable(monkeypatch: pytest.MonkeyPatch,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    set_environment(monkeypatch,
                    AZURE_STORAGE_SERVICE_ENDPOINT='https://mystorage.blob.core.usgovcloudapi.net/')

    assert opened(TYPED_IN).storage_account_url == 'https://mystorage.blob.core.usgovcloudapi.net'

    assert capsys.readouterr().out.endswith(
        'at https://mystorage.blob.core.usgovcloudapi.net (as AZURE_STORAGE_SERVICE_ENDPOINT say).\n')


@pytest.mark.parametrize('url', [' mybatch.westeurope.batch.azure.com\n',
                                 'https://mybatch.westeurope.batch.azure.com/'])
def test_a_batch_address_as_the_azure_cli_or_the_portal_gives_it_becomes_a_url(url: str) -> None:
    assert opened(TYPED_IN, batch_account_url=url).batch_account_url == 'https://mybatch.westeurope.batch.azure.com'


@pytest.mark.parametrize('missing', TYPED_IN)
def test_a_gap_is_named_with_its_setting_and_its_variable(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    variable = dict(zip(TYPED_IN, ENVIRONMENT))[missing]

    with pytest.raises(SettingsError) as raised:
        opened(TYPED_IN, **{missing: ''})

    assert str(raised.value) == (f'Some of the account settings are missing: set _{missing.upper()} (or {variable}); '
                                 'or leave all of them empty to run on this machine.')
    assert capsys.readouterr() == ('', '')


def test_the_blob_url_alone_is_a_gap_not_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, AZURE_STORAGE_SERVICE_ENDPOINT='https://mystorage.blob.core.windows.net')

    with pytest.raises(SettingsError, match='_BATCH_ACCOUNT_NAME'):
        opened(EMPTY)


@pytest.mark.parametrize('setting, value', [
    ('batch_account_name', 'My-Batch'), ('batch_account_name', 'a' * 25),
    ('storage_account_name', 'mystorage.blob.core.windows.net'), ('storage_account_name', 'ab'),
    ('storage_account_name', 'größe'),
    ('batch_account_url', 'https://mybatch.westeurope.batch.azure.com/pools'),
    ('batch_account_url', 'ftp://mybatch.westeurope.batch.azure.com'),
    ('batch_account_url', 'http://mybatch.westeurope.batch.azure.com'),
    ('batch_account_url', 'https://mybatch.westeurope.batch.azure.com?a=b'),
    ('batch_account_url', 'https://mybatch.westeurope.batch.azure.com#a'),
    ('batch_account_url', 'https://me:secret@mybatch.westeurope.batch.azure.com'),
    ('batch_account_url', 'https://my batch'), ('batch_account_url', 'https://mybatch:port'),
    ('batch_account_url', 'http://127.0.0.1:1234/mybatch'),
    ('batch_account_url', 'https://'), ('batch_account_url', 'https://[::1')])
def test_what_cannot_be_a_name_or_url_is_named_with_its_value(setting: str, value: str) -> None:
    with pytest.raises(SettingsError) as raised:
        opened(TYPED_IN, **{setting: value})

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

    account = opened(TYPED_IN, batch_account_url='http://127.0.0.1:1234')

    assert account.storage_account_url == 'http://127.0.0.1:10000/mystorage'


def test_nobody_signs_in_over_http() -> None:
    with pytest.raises(SettingsError, match='_BATCH_ACCOUNT_URL.*has to begin with "https://"'):
        opened(TYPED_IN, batch_account_key='', storage_account_key='', batch_account_url='http://127.0.0.1:1234')


@pytest.mark.parametrize('setting', ['batch_account_key', 'storage_account_key'])
def test_a_key_that_was_cut_off_is_told_by_its_length(setting: str) -> None:
    cut_off = base64.b64encode(b'k' * 60).decode()

    with pytest.raises(SettingsError, match=f'^_{setting.upper()} .*88 characters.* and this has 80') as raised:
        opened(TYPED_IN, **{setting: cut_off})

    assert cut_off not in str(raised.value)


def test_a_key_of_azure_and_one_of_an_emulator_are_taken() -> None:
    key = base64.b64encode(b'k' * 64).decode()

    assert opened(TYPED_IN, batch_account_key=key).batch_account_key == key


@pytest.mark.parametrize('setting', ['batch_account_key', 'storage_account_key'])
@pytest.mark.parametrize('key', ['abc', 'c2VjcmV0!', 'schlüssel'])
def test_what_cannot_be_a_key_is_refused_without_showing_it(setting: str, key: str) -> None:
    with pytest.raises(SettingsError, match=f'_{setting.upper()}.*not an account key: .*all of base64') as raised:
        opened(TYPED_IN, **{setting: key})

    assert key not in str(raised.value)


def test_keys_are_what_the_clients_take_and_do_not_show_when_an_account_is_printed() -> None:
    account = opened(TYPED_IN)

    assert account.signed_in is None
    assert account.storage_credential == {'account_name': 'mystorage', 'account_key': OTHER_KEY}
    assert KEY not in repr(account) and OTHER_KEY not in repr(account)


def test_no_account_at_all_starts_and_stops_the_local_services(
        mocker: MockerFixture, capsys: pytest.CaptureFixture[str]) -> None:
    mocker.patch('common.redaction._KEPT', set())
    settings = ('localbatch', KEY, 'http://127.0.0.1:1', 'localstorage', OTHER_KEY, 'http://127.0.0.1:2/localstorage')
    local = local_azure.LocalAzure(*settings, Path('workspace'), 'http://127.0.0.1:1/page/?token=mytoken')
    events = []

    @contextmanager
    def start() -> Iterator[local_azure.LocalAzure]:
        events.append(capsys.readouterr().out)
        yield local
        events.append('stopped')

    mocker.patch.object(local_azure, 'start', start)

    with open_account(*EMPTY.values()) as account:
        assert account == Account(*settings)
        assert capsys.readouterr().out == 'Watch it at http://127.0.0.1:1/page/?token=mytoken\n'
        assert 'stopped' not in events
        assert without_secrets(f'{KEY} and {OTHER_KEY}') == '... and ...'

    assert events == [
        f'No account is set, so this runs on this machine, with its state in {local_azure.default_workspace()}; to '
        'use Azure, fill in the settings at the top of python_tutorial_client.py.\n', 'stopped']
    assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize('full', ['', 'the disk of /w is full'])
def test_what_fails_because_the_disk_of_the_local_services_is_full_is_told_so(
        mocker: MockerFixture, full: str) -> None:
    mocker.patch('common.redaction._KEPT', set())
    local = local_azure.LocalAzure('localbatch', KEY, 'http://127.0.0.1:1', 'localstorage', OTHER_KEY,
                                   'http://127.0.0.1:2/localstorage', Path('/w'), 'http://127.0.0.1:1/page/')
    mocker.patch.object(local_azure, 'start', lambda: nullcontext(local))
    look = mocker.patch.object(local_azure, 'why_storage_fails', return_value=full)
    error = AzureError('Operation returned an invalid status')

    with pytest.raises((AzureError, local_azure.LocalAzureError)) as raised, open_account(*EMPTY.values()):
        raise error

    assert str(raised.value) == ('Storage fails: the disk of /w is full. Make room, and run again.' if full
                                 else 'Operation returned an invalid status')
    assert raised.value is error or raised.value.__cause__ is error
    look.assert_called_once_with(Path('/w'))


@pytest.mark.parametrize('before', [
    {}, {'NO_PROXY': 'intranet'}, {'no_proxy': 'intranet', 'NO_PROXY': 'other'}])
@pytest.mark.parametrize('local', ['batch', 'storage'])
def test_only_an_account_on_this_machine_goes_round_the_proxy(
        monkeypatch: pytest.MonkeyPatch, local: str, before: dict[str, str]) -> None:
    # The local services of other tests have set them.
    for name in 'no_proxy', 'NO_PROXY':
        monkeypatch.delenv(name, raising=False)
    set_environment(monkeypatch, HTTP_PROXY='http://proxy:3128', **before)
    unchanged = dict(os.environ)

    with open_account(*TYPED_IN.values()):
        assert os.environ == unchanged
    if local == 'storage':
        set_environment(monkeypatch, AZURE_STORAGE_SERVICE_ENDPOINT='http://127.0.0.1:1234/mystorage')
    settings = {**TYPED_IN, 'batch_account_url': 'http://127.0.0.1:1234'} if local == 'batch' else TYPED_IN
    unchanged = dict(os.environ)
    with open_account(*settings.values()):
        expected = ['intranet', '127.0.0.1', 'localhost'] if before else ['127.0.0.1', 'localhost']
        assert os.environ['no_proxy'].split(',') == os.environ['NO_PROXY'].split(',') == expected
    assert os.environ == unchanged


def test_windows_without_an_account_is_told_to_use_azure(mocker: MockerFixture) -> None:
    mocker.patch('sys.platform', 'win32')

    with pytest.raises(local_azure.LocalAzureError, match='Linux and macOS, not on Windows: fill in the settings'):
        opened(EMPTY)


def test_the_keys_of_the_accounts_are_blotted_out_from_then_on(mocker: MockerFixture) -> None:
    mocker.patch('common.redaction._KEPT', set())

    opened(TYPED_IN)

    assert without_secrets(f'{KEY} and {OTHER_KEY}') == '... and ...'
