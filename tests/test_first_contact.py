"""The first request to each service fails soon; later ones are patient."""
from __future__ import annotations

import base64
import json
from unittest.mock import MagicMock

import pytest
from azure.batch import BatchServiceClient
from azure.batch.batch_auth import SharedKeyCredentials
from azure.core.exceptions import AzureError
from azure.storage.blob import BlobServiceClient
from msrest.exceptions import ClientRequestError
from pytest_mock import MockerFixture

from common.accounts import Account
from common.first_contact import check_accounts
from tests.stand_in import Answer, stand_in

KEY = base64.b64encode(b'a key').decode()
BUSY = Answer(503, json.dumps({'code': 'ServerBusy', 'message': {'value': 'Busy.'}}))


def batch_client(url: str) -> BatchServiceClient:
    client = BatchServiceClient(SharedKeyCredentials('mybatch', KEY), batch_url=url)
    client.config.retry_policy.backoff_factor = 0
    return client


def keyed_blob_client(url: str) -> BlobServiceClient:
    account = Account(storage_account_name='mystorage', storage_account_key=KEY, storage_account_url='https://azure')
    return BlobServiceClient(f'{url}/mystorage', credential=account.storage_credential,
                             **account.storage_client_options)


def test_batch_gets_one_more_try_at_first_and_more_later() -> None:
    with stand_in(BUSY) as service, batch_client(service.url) as batch, batch_client(service.url) as untouched:
        with pytest.raises(ClientRequestError):
            list(untouched.pool.list())
        usual = len(service.requests)
        with pytest.raises(ClientRequestError):
            check_accounts(MagicMock(), batch)
        at_first = len(service.requests) - usual
        with pytest.raises(ClientRequestError):
            list(batch.pool.list())

        assert at_first == 2 < usual
        assert len(service.requests) == usual + at_first + usual
        assert batch.config.connection.timeout == 100


def test_with_a_key_storage_is_asked_for_nothing_yet() -> None:
    with (stand_in() as service, stand_in() as storage, batch_client(service.url) as batch,
          keyed_blob_client(storage.url) as blobs):
        check_accounts(blobs, batch)

    assert [request.path.split('?')[0] for request in service.requests] == ['/pools']
    assert storage.requests == []


def test_storage_gets_one_more_try_at_first_and_more_later(mocker: MockerFixture) -> None:
    slept: list[float] = []
    mocker.patch('time.sleep', slept.append)
    with stand_in(BUSY) as service, keyed_blob_client(service.url) as blobs:
        with pytest.raises(AzureError):
            blobs.create_container('input')
        before_any_answer = len(service.requests), sum(slept)

    with stand_in(Answer(201, '')) as service, keyed_blob_client(service.url) as blobs:
        blobs.create_container('input')
        service.answer = lambda _: BUSY
        slept.clear()
        with pytest.raises(AzureError):
            blobs.create_container('input')
        later = len(service.requests) - 1, sum(slept)

    assert before_any_answer[0] == 2 and before_any_answer[1] <= 3
    assert later[0] == 6 and 30 < later[1] < 90
