"""What the reader sees of a wrong setting: the client as a process, against the real local services."""
from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from azure.batch import BatchServiceClient
from azure.storage.blob import BlobServiceClient

from common.local_azure import LocalAzure

pytestmark = pytest.mark.real

CLIENT = Path(__file__).resolve().parent.parent / 'python_tutorial_client.py'
WRONG_KEY = base64.b64encode(b'w' * 64).decode()


@pytest.fixture
def run_with(local_account: LocalAzure, home: Path, batch_client: BatchServiceClient,
             blob_client: BlobServiceClient) -> Callable[..., str]:
    """Runs the client with some settings of the local accounts changed; returns the error, the one line of stderr."""
    right = {'AZURE_BATCH_ACCOUNT': local_account.batch_account_name,
             'AZURE_BATCH_ACCESS_KEY': local_account.batch_account_key,
             'AZURE_BATCH_ENDPOINT': local_account.batch_account_url,
             'AZURE_STORAGE_ACCOUNT': local_account.storage_account_name,
             'AZURE_STORAGE_KEY': local_account.storage_account_key,
             'AZURE_STORAGE_SERVICE_ENDPOINT': local_account.storage_account_url}

    def there() -> list[str]:
        return [container.name for container in blob_client.list_containers()] + [
            pool.id for pool in batch_client.pool.list()]

    def run(**wrong: str) -> str:
        before = there()
        ran = subprocess.run([sys.executable, str(CLIENT), '--yes'], env={**os.environ, **right, **wrong}, timeout=100,
                             stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert ran.returncode == 1
        assert 'Uploading' not in ran.stdout
        assert there() == before
        assert not any(value in ran.stdout + ran.stderr for name, value in {**right, **wrong}.items() if 'KEY' in name)
        assert 'Cleaning up' not in ran.stdout
        line, = ran.stderr.splitlines()
        return line
    return run


def test_a_wrong_batch_key(run_with: Callable[..., str]) -> None:
    assert run_with(AZURE_BATCH_ACCESS_KEY=WRONG_KEY) == (
        'ERROR: The Batch account at 127.0.0.1 refuses the key: look at _BATCH_ACCOUNT_NAME (or AZURE_BATCH_ACCOUNT), '
        '_BATCH_ACCOUNT_KEY (or AZURE_BATCH_ACCESS_KEY).')


def test_the_name_of_another_batch_account(run_with: Callable[..., str]) -> None:
    assert 'look at _BATCH_ACCOUNT_NAME (or AZURE_BATCH_ACCOUNT)' in run_with(AZURE_BATCH_ACCOUNT='another')


@pytest.mark.parametrize('wrong', [{'AZURE_STORAGE_KEY': WRONG_KEY}, {'AZURE_STORAGE_ACCOUNT': 'another'}])
def test_a_storage_account_on_this_machine_that_refuses(run_with: Callable[..., str], wrong: dict[str, str]) -> None:
    # Azurite calls this AuthorizationFailure, which on Azure has other causes, to be seen in the portal.
    assert run_with(**wrong) == (
        'ERROR: The storage account at 127.0.0.1 refuses the key: look at _STORAGE_ACCOUNT_NAME (or '
        'AZURE_STORAGE_ACCOUNT), _STORAGE_ACCOUNT_KEY (or AZURE_STORAGE_KEY).')


@pytest.mark.parametrize('wrong, setting', [
    ({'AZURE_BATCH_ENDPOINT': 'https://mybatch.nowhere.invalid'}, '_BATCH_ACCOUNT_URL (or AZURE_BATCH_ENDPOINT)'),
    ({'AZURE_STORAGE_SERVICE_ENDPOINT': 'https://mystorage.nowhere.invalid'},
     '_STORAGE_ACCOUNT_NAME (or AZURE_STORAGE_ACCOUNT)')])
def test_a_name_that_nobody_knows_is_told_within_seconds(run_with: Callable[..., str], wrong: dict[str, str],
                                                         setting: str) -> None:
    started = time.monotonic()

    line = run_with(**wrong)

    assert 'nobody knows this name' in line and setting in line
    # Left alone, the SDKs take 5 and 85 seconds.
    assert time.monotonic() - started < 30


def test_a_url_at_which_nothing_listens(run_with: Callable[..., str]) -> None:
    assert run_with(AZURE_BATCH_ENDPOINT='http://127.0.0.1:9') == (
        'ERROR: No connection to the Batch account at 127.0.0.1: it is refused. Is the service on this machine '
        'running?')


def test_the_url_of_something_else(run_with: Callable[..., str], local_account: LocalAzure) -> None:
    blob_host = local_account.storage_account_url.rpartition('/')[0]

    line = run_with(AZURE_BATCH_ENDPOINT=blob_host)

    assert 'is not a Batch account: look at _BATCH_ACCOUNT_URL (or AZURE_BATCH_ENDPOINT)' in line
