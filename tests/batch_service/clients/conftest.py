"""What the life cycle needs of the outside, whichever SDK runs it: services and a container."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import pytest
from azure.storage.blob import BlobServiceClient, ContainerSasPermissions, LinearRetry, generate_container_sas

from common.local_azure import LocalAzure

from ..workbench import ACCOUNT, ServiceProcess
from .life_cycle.client import Account


@pytest.fixture(scope='session')
def account(shared_service: ServiceProcess) -> Account:
    """The account of the service that all tests share."""
    return _account(shared_service)


@pytest.fixture(scope='session')
def slow_account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """The account of a service whose pools resize, and whose deleted pools and jobs keep their ids, for an hour."""
    service = ServiceProcess(tmp_path_factory.mktemp('slow-service'), '--allocation-seconds', '3600',
                             '--deletion-seconds', '3600')
    yield _account(service)
    assert service.stop() == 0


def _account(service: ServiceProcess) -> Account:
    return Account(service.url, ACCOUNT, service.key_file.read_text())


@pytest.fixture(scope='session')
def container(local_account: LocalAzure) -> str:
    """The URL of a container of real storage, with a SAS to list, read and write its blobs."""
    name, key = local_account.storage_account_name, local_account.storage_account_key
    with BlobServiceClient(local_account.storage_account_url, retry_policy=LinearRetry(retry_total=0),
                           credential={'account_name': name, 'account_key': key}) as client:
        client.create_container('life-cycle')
    sas = generate_container_sas(name, 'life-cycle', account_key=key,
                                 permission=ContainerSasPermissions(read=True, list=True, write=True, create=True),
                                 expiry=datetime.now(timezone.utc) + timedelta(hours=1))
    return f'{local_account.storage_account_url}/life-cycle?{sas}'
