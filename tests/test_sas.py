"""What the SAS of the tasks allows, and what not."""
from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobServiceClient, ContainerClient, ContainerSasPermissions, LinearRetry

from python_tutorial_client import get_container_sas_token

pytestmark = pytest.mark.real


@pytest.fixture
def containers(blob_client: BlobServiceClient) -> Iterator[None]:
    for name in 'input', 'output':
        blob_client.create_container(name).upload_blob('theirs.txt', b'of another task')
    yield
    for name in 'input', 'output':
        blob_client.delete_container(name)


def as_a_task(blob_client: BlobServiceClient, container_name: str) -> ContainerClient:
    """A client of a container that has no more than a task gets: the SAS for the output container."""
    token = get_container_sas_token(blob_client, 'output', ContainerSasPermissions(write=True))
    return ContainerClient(blob_client.url, container_name, credential=token, retry_policy=LinearRetry(retry_total=0))


@pytest.mark.usefixtures('containers')
def test_a_task_can_write_and_write_again(blob_client: BlobServiceClient) -> None:
    with as_a_task(blob_client, 'output') as task:
        for text in b'first', b'again':
            task.upload_blob('mine.txt', text, overwrite=True)

    assert blob_client.get_blob_client('output', 'mine.txt').download_blob().readall() == b'again'


@pytest.mark.usefixtures('containers')
@pytest.mark.parametrize('container_name, attempt', [
    pytest.param('output', lambda task: task.download_blob('theirs.txt').readall(), id='read'),
    pytest.param('output', lambda task: task.get_blob_client('theirs.txt').get_blob_properties(), id='properties'),
    pytest.param('output', lambda task: list(task.list_blobs()), id='list'),
    pytest.param('output', lambda task: task.delete_blob('theirs.txt'), id='delete'),
    pytest.param('output', lambda task: task.delete_container(), id='delete container'),
    pytest.param('output', lambda task: task.get_container_properties(), id='container properties'),
    pytest.param('output', lambda task: task.set_container_metadata({'a': 'b'}), id='container metadata'),
    pytest.param('input', lambda task: task.upload_blob('mine.txt', b'text'), id='write elsewhere'),
    pytest.param('input', lambda task: task.download_blob('theirs.txt').readall(), id='read elsewhere'),
    pytest.param('new', lambda task: task.create_container(), id='create container'),
])
def test_a_task_can_do_nothing_else(blob_client: BlobServiceClient, container_name: str,
                                    attempt: Callable[[ContainerClient], object]) -> None:
    with as_a_task(blob_client, container_name) as task:
        with pytest.raises(HttpResponseError) as refused:
            attempt(task)

    assert refused.value.status_code == 403
    assert [blob.name for blob in blob_client.get_container_client('output').list_blobs()] == ['theirs.txt']
