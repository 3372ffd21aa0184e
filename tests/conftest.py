"""What every test stands on: an environment with nothing of the developer's, and the real local services."""
from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from azure.batch import BatchServiceClient
from azure.batch.batch_auth import SharedKeyCredentials
from azure.storage.blob import BlobServiceClient, LinearRetry
from hypothesis import settings
from platformdirs import user_cache_path

from common import local_azure
from common.local_azure import azurite
from tests.leftovers import MARK, eventually, running

# No test is about time: a machine that is busy makes any example slow. At a desk, a third of the examples will do.
settings.register_profile('unhurried', deadline=None, max_examples=100 if os.environ.get('CI') else 33)
settings.load_profile('unhurried')

_DEVELOPERS_ENVIRONMENT = dict(os.environ)
_DEVELOPERS_CACHE = user_cache_path('azure-batch-tutorial')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {'azurite_install', 'chromium'} & set(getattr(item, 'fixturenames', ())):
            item.add_marker('real')
    # The longest begin first: at the end, the other processes would wait for them.
    items.sort(key=lambda item: item.get_closest_marker('long') is None)


@pytest.fixture(scope='session', autouse=True)
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Takes accounts, proxies and the home directory away; yields the mark of this run's processes.

    After the last test, none of them may be left.
    """
    mark = secrets.token_hex(8)
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(('AZURE_', 'AZ_BATCH_', 'XDG_')) or name.lower().endswith('_proxy'):
                patch.delenv(name)
        patch.setenv(MARK, mark)
        make_home(tmp_path_factory.mktemp('home'), patch)
        yield mark
    assert eventually(lambda: not running(mark, tmp_path_factory.getbasetemp())), (
        f'left running: {running(mark, tmp_path_factory.getbasetemp())}')


def make_home(home: Path, patch: pytest.MonkeyPatch) -> None:
    """Makes the directory the home; the developer's cache is in it, for Azurite to be installed only once."""
    patch.setenv('HOME', str(home))
    patch.setenv('USERPROFILE', str(home))
    cache = user_cache_path('azure-batch-tutorial')
    if cache != _DEVELOPERS_CACHE and os.name != 'nt':
        cache.parent.mkdir(parents=True)
        cache.symlink_to(_DEVELOPERS_CACHE)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of the test's own, empty but for the cache."""
    directory = tmp_path / 'home'
    directory.mkdir()
    make_home(directory, monkeypatch)
    return directory


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
              clean_environment: str) -> Callable[[], dict[int, str]]:
    """Tells which processes that the test started are running: their command lines by process id."""
    mark = f'{clean_environment}-{secrets.token_hex(4)}'
    monkeypatch.setenv(MARK, mark)
    return lambda: running(mark, tmp_path)


@pytest.fixture(scope='session')
def azurite_install() -> Path:
    """Azurite's main script, installed where the tutorial installs it, with the developer's network settings."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - _DEVELOPERS_ENVIRONMENT.keys():
            patch.delenv(name)
        for name, value in _DEVELOPERS_ENVIRONMENT.items():
            patch.setenv(name, value)
        try:
            return azurite.install()
        except local_azure.LocalAzureError as error:
            if os.environ.get('CI'):
                pytest.fail(str(error))
            pytest.skip(str(error))


@pytest.fixture(scope='session')
def local_account(azurite_install: Path,
                  tmp_path_factory: pytest.TempPathFactory) -> Iterator[local_azure.LocalAzure]:
    """The real local services, running for the whole session."""
    with local_azure.start(tmp_path_factory.mktemp('azure')) as account:
        yield account


@pytest.fixture
def batch_client(local_account: local_azure.LocalAzure) -> Iterator[BatchServiceClient]:
    """The SDK's own client of the local Batch service."""
    credentials = SharedKeyCredentials(local_account.batch_account_name, local_account.batch_account_key)
    with BatchServiceClient(credentials, batch_url=local_account.batch_account_url) as client:
        client.config.retry_policy.retries = 0
        yield client


@pytest.fixture
def blob_client(local_account: local_azure.LocalAzure) -> Iterator[BlobServiceClient]:
    """The SDK's own client of Azurite."""
    credential = {'account_name': local_account.storage_account_name,
                  'account_key': local_account.storage_account_key}
    with BlobServiceClient(local_account.storage_account_url, credential=credential,
                           retry_policy=LinearRetry(retry_total=0)) as client:
        yield client


@pytest.fixture
def sdk_loggers() -> Iterator[None]:
    """Puts the loggers of the SDKs back to what they were."""
    loggers = [logging.getLogger(name) for name in ('azure', 'msrest', 'urllib3')]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
