"""Accounts without keys: what is sent, and that real SAS tokens come of it."""
from __future__ import annotations

import base64
import json
import queue
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import requests
from azure.batch import BatchServiceClient
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.storage.blob import BlobServiceClient, ContainerSasPermissions, _shared_access_signature
from pytest_mock import MockerFixture

import python_tutorial_client as client
from common.guards.accounts import Account, open_account
from common.entra import EntraCredentials
from common.guards.names import make_names_free
from common.guards.one_line import one_line
from common.guards.run import Run
from common.local_azure import azurite
from common.local_azure.server import LocalServer
from common.redaction import log_sdk_calls
from tests.stand_in import Answer, Request, make_certificate, stand_in

# The settings at the top of the client.
NO_KEYS = 'mybatch', '', 'https://mybatch.westeurope.batch.azure.com', 'mystorage', ''


class SignedIn:
    """Stands in for DefaultAzureCredential: gives tokens of the form that Azurite wants, and counts them."""

    def __init__(self, lifetime: float = 3600) -> None:
        self.lifetime = lifetime
        self.scopes: list[str] = []
        self.closed = False

    def get_token(self, *scopes: str, **options: object) -> AccessToken:
        self.scopes += scopes
        now = int(time.time())
        claims = {'aud': scopes[0].removesuffix('/.default'), 'nbf': now - 60, 'iat': now, 'exp': now + 3600,
                  'iss': 'https://sts.windows.net/a-tenant/', 'oid': '00000000-0000-0000-0000-000000000001',
                  'tid': '00000000-0000-0000-0000-000000000002', 'number': len(self.scopes)}
        parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b'=').decode()
                 for part in ({'alg': 'HS256', 'typ': 'JWT'}, claims)]
        return AccessToken('.'.join([*parts, 'c2lnbmF0dXJl']), int(now + self.lifetime))

    def __enter__(self) -> SignedIn:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


@pytest.fixture
def signed_in(mocker: MockerFixture) -> SignedIn:
    credential = SignedIn()
    mocker.patch('azure.identity.DefaultAzureCredential', return_value=credential)
    return credential


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    files = make_certificate(tmp_path)
    monkeypatch.setenv('REQUESTS_CA_BUNDLE', str(files[0]))
    return files


def test_without_keys_whoever_is_signed_in_is_the_credential(signed_in: SignedIn) -> None:
    with open_account(*NO_KEYS) as account:
        assert account.credential is signed_in
        assert account.storage_credential is signed_in
        assert isinstance(account.signed_in, EntraCredentials)
        assert 'SignedIn' not in repr(account)
        assert not signed_in.closed
    assert signed_in.closed
    assert signed_in.scopes == []


def test_every_request_to_batch_carries_the_token(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch,
                                                  tmp_path: Path) -> None:
    netrc = tmp_path / 'netrc'
    netrc.write_text('machine 127.0.0.1 login somebody password else')
    monkeypatch.setenv('NETRC', str(netrc))
    credential = SignedIn()

    with (stand_in(certificate=certificate) as service,
          BatchServiceClient(EntraCredentials(credential), batch_url=service.url) as batch_client):
        list(batch_client.pool.list())
        list(batch_client.job.list())

    assert credential.scopes == ['https://batch.core.windows.net/.default']
    [first, second] = [request.headers['Authorization'] for request in service.requests]
    assert first == second
    assert first.startswith('Bearer eyJ')


@pytest.mark.usefixtures('sdk_loggers')
def test_verbose_logs_show_the_calls_and_no_token(certificate: tuple[Path, Path],
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    log_sdk_calls(shown=True)
    with (stand_in(lambda request: Answer(201 if request.method == 'PUT' else 200), certificate) as service,
          BatchServiceClient(EntraCredentials(SignedIn()), batch_url=service.url) as batch_client,
          BlobServiceClient(f'{service.url}/mystorage', credential=SignedIn()) as blob_client):
        list(batch_client.pool.list())
        blob_client.create_container('input')

    errors = capsys.readouterr().err
    assert '/pools?' in errors and '/mystorage/input?' in errors
    sent = {request.headers['Authorization'].removeprefix('Bearer ') for request in service.requests}
    assert len(sent) == 2
    assert not any(token in errors for token in sent)
    assert 'eyJ' not in errors


def test_a_token_that_is_about_to_expire_is_asked_for_again(certificate: tuple[Path, Path]) -> None:
    credential = SignedIn(lifetime=4 * 60)

    with (stand_in(certificate=certificate) as service,
          BatchServiceClient(EntraCredentials(credential), batch_url=service.url) as batch_client):
        list(batch_client.pool.list())
        credential.lifetime = 3600
        list(batch_client.pool.list())
        list(batch_client.pool.list())

    tokens = [request.headers['Authorization'] for request in service.requests]
    assert len(credential.scopes) == 2
    assert tokens[0] != tokens[1] == tokens[2]


def test_a_failed_sign_in_is_one_line_that_says_what_to_do(mocker: MockerFixture) -> None:
    credential = SignedIn()
    mocker.patch.object(credential, 'get_token', side_effect=ClientAuthenticationError(
        'DefaultAzureCredential failed to retrieve a token from the included credentials.\nAttempted credentials:\n'))

    with BatchServiceClient(EntraCredentials(credential), batch_url='https://127.0.0.1:1') as batch_client:
        with pytest.raises(ClientAuthenticationError) as raised:
            list(batch_client.pool.list())

    line = one_line(raised.value)
    assert 'az login' in line and '_BATCH_ACCOUNT_KEY' in line and '_STORAGE_ACCOUNT_KEY' in line
    assert '\n' not in line


@pytest.mark.real
def test_nobody_signed_in_is_told_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PATH', '')
    monkeypatch.setenv('AZURE_TOKEN_CREDENTIALS', 'dev')

    with open_account(*NO_KEYS) as account:
        with BatchServiceClient(account.signed_in, batch_url=account.batch_account_url) as batch_client:
            with pytest.raises(ClientAuthenticationError) as raised:
                list(batch_client.pool.list())

    assert one_line(raised.value).startswith('Signing in with Entra ID failed: run "az login"')


BATCH_REFUSAL = json.dumps({'code': 'AuthorizationFailure', 'message': {'lang': 'en-US', 'value': 'No.'}})


def test_a_missing_role_on_the_batch_account_is_named(certificate: tuple[Path, Path]) -> None:
    with (stand_in(Answer(403, BATCH_REFUSAL), certificate) as service,
          BatchServiceClient(EntraCredentials(SignedIn()), batch_url=service.url) as batch_client):
        with pytest.raises(Exception) as raised:
            list(batch_client.pool.list())

    assert 'ask for the role Azure Batch Data Contributor' in one_line(raised.value)


def test_a_missing_role_on_the_storage_account_shows_before_anything_is_created(
        certificate: tuple[Path, Path]) -> None:
    refusal = Answer(403, '<?xml version="1.0" encoding="utf-8"?><Error><Code>AuthorizationPermissionMismatch</Code>'
                          '<Message>This request is not authorized.\nRequestId:1</Message></Error>',
                     {'Content-Type': 'application/xml', 'x-ms-request-id': '1'})

    def answer(request: Request) -> Answer:
        if 'comp=userdelegationkey' in request.path:
            return refusal
        return Answer(404, json.dumps({'code': 'JobNotFound'})) if request.path.startswith('/jobs') else Answer()

    with (stand_in(answer, certificate) as service,
          BatchServiceClient(EntraCredentials(SignedIn()), batch_url=service.url) as batch_client,
          BlobServiceClient(f'{service.url}/mystorage', credential=SignedIn()) as blob_client):
        with pytest.raises(Exception) as raised:
            make_names_free(Run(Account(), batch_client, blob_client, 'job', 'pool', ask=False, blob_names={}), [],
                            replace_pool=False)

    assert 'ask for the role Storage Blob Data Contributor' in one_line(raised.value)
    assert [request.method for request in service.requests] == ['GET', 'POST']


@pytest.fixture
def azurite_with_oauth(azurite_install: Path, tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[str]:
    """The blob URL of an account of an Azurite that takes tokens."""
    command = [*azurite.command(azurite_install, tmp_path / 'azurite', 0, *certificate), '--oauth', 'basic']
    key = base64.b64encode(b'nobody here knows this key').decode()
    server = LocalServer('Azurite', command, log=tmp_path / 'azurite.log', directory=tmp_path,
                         environment={'AZURITE_ACCOUNTS': f'mystorage:{key}'}, ended=queue.SimpleQueue())
    try:
        yield f'{server.wait_until_ready(30)}/mystorage'
    finally:
        server.stop(15)


@pytest.fixture
def signed_as_azurite_reads_it(mocker: MockerFixture) -> None:
    """Azurite does not know the two lines yet that newer SDKs sign as well: request headers and query parameters."""
    def sign_older(key: str, text: str) -> str:
        lines = text.split('\n')
        if len(lines) == 28:
            assert lines[21:23] == ['', '']
            del lines[21:23]
        return sign(key, '\n'.join(lines))

    sign = _shared_access_signature.sign_string
    mocker.patch.object(_shared_access_signature, 'sign_string', sign_older)


@pytest.mark.real
@pytest.mark.usefixtures('signed_as_azurite_reads_it')
def test_uploads_and_signatures_work_without_a_key(azurite_with_oauth: str, tmp_path: Path,
                                                   mocker: MockerFixture) -> None:
    path = tmp_path / 'taskdata1.txt'
    path.write_text('some words')
    get_key = mocker.spy(BlobServiceClient, 'get_user_delegation_key')

    with BlobServiceClient(azurite_with_oauth, credential=SignedIn()) as blob_client:
        for name in 'input', 'output':
            blob_client.create_container(name)
        resource_file = client.upload_file_to_container(blob_client, 'input', path)
        token = client.get_container_sas_token(blob_client, 'output', ContainerSasPermissions(write=True))
        readable = requests.get(resource_file.http_url)
        uploaded = requests.put(f'{azurite_with_oauth}/output/a.txt?{token}', data=b'the 3',
                                headers={'x-ms-blob-type': 'BlockBlob'})
        refused = requests.get(f'{azurite_with_oauth}/output/a.txt?{token}')
        written = blob_client.get_blob_client('output', 'a.txt').download_blob().readall()

    assert (readable.status_code, readable.text) == (200, 'some words')
    assert (uploaded.status_code, written) == (201, b'the 3')
    assert refused.status_code == 403
    # One key signs them all.
    assert get_key.call_count == 1


@pytest.mark.real
def test_the_key_that_signs_outlasts_the_signature(azurite_with_oauth: str) -> None:
    with BlobServiceClient(azurite_with_oauth, credential=SignedIn()) as blob_client:
        sas = parse_qs(client.get_container_sas_token(blob_client, 'output', 'w'))

    expiry, key_expiry, key_start = (datetime.fromisoformat(sas[name][0].replace('Z', '+00:00'))
                                     for name in ('se', 'ske', 'skt'))
    now = datetime.now(timezone.utc)
    assert key_start < now - timedelta(minutes=10)
    assert now + timedelta(hours=1) < expiry <= key_expiry < key_start + timedelta(days=7)
