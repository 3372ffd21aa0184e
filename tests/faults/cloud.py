"""A Batch account and a storage account of real services, which a test may stop, and what is in them."""
from __future__ import annotations

import base64
import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path

import azure.batch.models as batchmodels
from azure.batch import BatchServiceClient
from azure.storage.blob import BlobServiceClient

from common.local_azure import azurite
from common.local_azure.server import LocalServer
from tests.batch_service.workbench import ACCOUNT, ServiceProcess
from tests.leftovers import eventually, running

POOL, JOB = 'PythonTutorialPool', 'PythonTutorialJob'
CONTAINERS = {'container application', 'container input', 'container output'}


class Storage:
    """Azurite on one port; can be stopped and started again."""

    def __init__(self, script: Path, workspace: Path) -> None:
        self.key = base64.b64encode(secrets.token_bytes(64)).decode()
        self._script = script
        self._workspace = workspace
        self._port = free_port()
        self.start()

    def start(self) -> None:
        self._server = LocalServer(
            'Azurite', azurite.command(self._script, self._workspace / 'azurite', self._port, None, None),
            log=self._workspace / 'azurite.log', directory=self._workspace,
            environment={**os.environ, 'AZURITE_ACCOUNTS': f'storage:{self.key}'})
        self.url = f'{self._server.wait_until_ready(60)}/storage'

    def stop(self) -> None:
        self._server.stop(20)

    def client(self) -> BlobServiceClient:
        return BlobServiceClient(self.url, credential={'account_name': 'storage', 'account_key': self.key})

    def empty(self) -> None:
        with self.client() as client:
            for container in client.list_containers():
                client.delete_container(container.name)


class Cloud:
    """A Batch account and a storage account, and what is in them."""

    def __init__(self, workspace: Path, storage: Storage, *options: str) -> None:
        workspace.mkdir()
        # On one port, to be found there when it is started again.
        self.batch_service = ServiceProcess(workspace, '--port', str(free_port()), *options)
        self.storage = storage
        self.batch: BatchServiceClient = self.batch_service.client()
        self.blobs = storage.client()

    def environment(self) -> dict[str, str]:
        return {'AZURE_BATCH_ACCOUNT': ACCOUNT, 'AZURE_BATCH_ACCESS_KEY': self.batch_service.key_file.read_text(),
                'AZURE_BATCH_ENDPOINT': self.batch_service.url, 'AZURE_STORAGE_ACCOUNT': 'storage',
                'AZURE_STORAGE_KEY': self.storage.key, 'AZURE_STORAGE_SERVICE_ENDPOINT': self.storage.url}

    def left(self) -> set[str]:
        """The containers with their blobs, and jobs and pools that are not being deleted."""
        found = {f'pool {pool.id}' for pool in self.batch.pool.list() if pool.state != 'deleting'}
        found |= {f'job {job.id}' for job in self.batch.job.list() if job.state != 'deleting'}
        for container in self.blobs.list_containers():
            names = list(self.blobs.get_container_client(container.name).list_blob_names())
            found |= {f'container {container.name}', *(f'blob {container.name}/{name}' for name in names)}
        return found

    def tasks_are(self, state: str) -> bool:
        try:
            tasks = list(self.batch.task.list(JOB))
        except batchmodels.BatchErrorException:
            return False
        return bool(tasks) and all(task.state == state for task in tasks)

    def commands(self) -> dict[int, str]:
        """The command lines, by process id, of what runs on the nodes."""
        return running('nothing bears this mark', self.batch_service.workspace)

    def empty(self) -> None:
        """Deletes all that is there."""
        self.storage.empty()
        for operations in (self.batch.job, self.batch.pool):
            for found in operations.list():
                with suppress(batchmodels.BatchErrorException):  # it is being deleted
                    operations.delete(found.id)
        assert eventually(lambda: not [*self.batch.job.list(), *self.batch.pool.list()])

    def close(self) -> None:
        if self.batch_service.process.returncode is None:
            self.batch_service.stop()
        self.blobs.close()
        self.batch.close()


def free_port() -> int:
    with socket.create_server(('127.0.0.1', 0)) as listener:
        return listener.getsockname()[1]
