"""Real services and clients: shared where a test leaves them as they were, otherwise the test's own."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.client_process import Client
from tests.faults.cloud import Cloud, Storage


@pytest.fixture(scope='session')
def shared_storage(azurite_install: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    storage = Storage(azurite_install, tmp_path_factory.mktemp('storage'))
    yield storage
    storage.stop()


@pytest.fixture(scope='session')
def shared_cloud(shared_storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    cloud = Cloud(tmp_path_factory.mktemp('cloud') / 'batch', shared_storage)
    yield cloud
    cloud.close()


@pytest.fixture
def storage(shared_storage: Storage) -> Iterator[Storage]:
    """A storage account with nothing in it; its service is not to be stopped."""
    yield shared_storage
    shared_storage.empty()


@pytest.fixture
def cloud(shared_cloud: Cloud) -> Iterator[Cloud]:
    """Accounts with nothing in them; their services are not to be stopped."""
    yield shared_cloud
    shared_cloud.empty()


@pytest.fixture
def own_storage(azurite_install: Path, tmp_path: Path) -> Iterator[Storage]:
    storage = Storage(azurite_install, tmp_path)
    yield storage
    storage.stop()


@pytest.fixture
def open_cloud(tmp_path: Path) -> Iterator[Callable[..., Cloud]]:
    """Starts a Batch service with options."""
    clouds: list[Cloud] = []

    def start(storage: Storage, *options: str) -> Cloud:
        clouds.append(Cloud(tmp_path / f'batch{len(clouds)}', storage, *options))
        return clouds[-1]

    yield start
    for cloud in clouds:
        cloud.close()


@pytest.fixture
def start_client(home: Path, tmp_path: Path) -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def start(cloud: Cloud | None, *arguments: str, **options) -> Client:
        client = Client(cloud, tmp_path / f'client{len(clients)}', *arguments, **options)
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.close()
