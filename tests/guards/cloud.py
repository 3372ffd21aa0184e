"""A Batch account and a storage account, played by mocks that answer as Azure does."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import azure.batch.models as batchmodels
import requests
from azure.core.exceptions import ResourceNotFoundError

from common.guards.accounts import Account
from common.guards.run import Run

ON_AZURE = Account(batch_account_name='mybatch', batch_account_url='https://mybatch.westeurope.batch.azure.com',
                   storage_account_name='mystorage', storage_account_url='https://mystorage.blob.core.windows.net')
ON_THIS_MACHINE = Account(batch_account_name='local', batch_account_url='http://127.0.0.1:1',
                          storage_account_name='storage', storage_account_url='http://localhost:2/storage')
CONTAINERS = {'application': ['task.py'], 'input': ['a.txt'], 'output': ['a_OUTPUT.txt']}


def batch_error(code: str | None, status: int = 409) -> batchmodels.BatchErrorException:
    """What the Batch client raises for an answer of the service; None is for one that is not from it."""
    response = requests.Response()
    response.status_code, response.reason = status, 'Reason'
    response.request = requests.Request('GET', f'{ON_AZURE.batch_account_url}/pools').prepare()
    error = code and batchmodels.BatchError(code=code, message=batchmodels.ErrorMessage(value=f'This is {code}.'))
    return batchmodels.BatchErrorException(lambda *_: error, response)


@dataclass
class Container:
    metadata: dict[str, str] = field(default_factory=dict)
    blobs: list[str] = field(default_factory=list)


class Cloud:
    """What is in the accounts, by kind and name, and what they are asked for.

    Attributes:
        asked: The calls, such as 'delete job myjob', in order.
        trouble: What a call raises, by the call or by its beginning.
    """

    def __init__(self) -> None:
        self.things: dict[str, dict[str, Any]] = {'job': {}, 'pool': {}, 'container': {}}
        self.asked: list[str] = []
        self.trouble: dict[str, BaseException] = {}
        self.batch, self.blobs = MagicMock(), MagicMock()
        self.batch.config = SimpleNamespace(retry_policy=SimpleNamespace(retries=3),
                                            connection=SimpleNamespace(timeout=100))
        for kind, operations in (('job', self.batch.job), ('pool', self.batch.pool)):
            operations.get.side_effect = lambda name, kind=kind: self._batch_thing('get', kind, name)
            operations.delete.side_effect = lambda name, kind=kind: setattr(
                self._batch_thing('delete', kind, name), 'state', 'deleting')
        self.blobs.delete_container.side_effect = self._delete_container
        self.blobs.get_container_client.side_effect = self._container_client

    @property
    def deleted(self) -> list[str]:
        return [call.split()[2] for call in self.asked if call.startswith('delete ')]

    def has(self, kind: str, name: str, mark: dict[str, str] | None = None, state: str = 'active',
            blobs: Iterable[str] = ()) -> Any:
        """Puts a thing there, with the mark in its metadata."""
        metadata = [batchmodels.MetadataItem(name=key, value=value) for key, value in (mark or {}).items()] or None
        thing = {'job': lambda: batchmodels.CloudJob(id=name, state=batchmodels.JobState(state), metadata=metadata),
                 'pool': lambda: batchmodels.CloudPool(id=name, state=batchmodels.PoolState(state), metadata=metadata),
                 'container': lambda: Container(dict(mark or {}), list(blobs))}[kind]()
        self.things[kind][name] = thing
        return thing

    def left(self) -> set[str]:
        """What is there and not being deleted."""
        return {name for things in self.things.values() for name, thing in things.items()
                if getattr(thing, 'state', '') != 'deleting'}

    def deletions_end(self) -> None:
        for things in self.things.values():
            for name in [name for name, thing in things.items() if getattr(thing, 'state', '') == 'deleting']:
                del things[name]

    def run(self, *, ask: bool = False, account: Account = ON_AZURE) -> Run:
        return Run(account, self.batch, self.blobs, 'myjob', 'mypool', blob_names=CONTAINERS, ask=ask)

    def run_that_has_made_all(self, **options: Any) -> Run:
        """A run whose job, pool and containers are there, each container with the run's blobs."""
        run = self.run(**options)
        self.has('job', 'myjob', run.mark)
        self.has('pool', 'mypool', run.mark)
        for name, blobs in CONTAINERS.items():
            self.has('container', name, run.mark, blobs=blobs)
        return run

    def _hear(self, call: str) -> None:
        self.asked.append(call)
        for beginning, error in self.trouble.items():
            if call.startswith(beginning):
                raise error

    def _batch_thing(self, verb: str, kind: str, name: str) -> Any:
        self._hear(f'{verb} {kind} {name}')
        try:
            return self.things[kind][name]
        except KeyError:
            raise batch_error(f'{kind.capitalize()}NotFound', 404) from None

    def _container(self, call: str, name: str) -> Container:
        self._hear(f'{call} {name}')
        try:
            return self.things['container'][name]
        except KeyError:
            error = ResourceNotFoundError('The specified container does not exist.')
            error.response = SimpleNamespace(status_code=404)
            raise error from None

    def _delete_container(self, name: str) -> None:
        self._container('delete container', name)
        del self.things['container'][name]

    def _container_client(self, name: str) -> MagicMock:
        def list_blob_names() -> Iterable[str]:
            # The SDK, too, asks for the first page only when somebody wants to have it.
            yield from list(self._container('list container', name).blobs)

        def delete_blobs(*names: str, delete_snapshots: str) -> None:
            container = self._container('empty container', name)
            assert delete_snapshots == 'include' and len(names) <= 256 and set(names) <= set(container.blobs)
            container.blobs = [blob for blob in container.blobs if blob not in names]

        client = MagicMock(list_blob_names=list_blob_names, delete_blobs=delete_blobs)
        client.get_container_properties.side_effect = lambda: self._container('get container', name)
        return client
