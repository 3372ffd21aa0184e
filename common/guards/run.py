"""Against forgetting what a run has made: everything bears the run's mark, so that the services can be asked."""
from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import azure.batch.models as batchmodels
from azure.batch import BatchServiceClient
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobServiceClient

from common.guards.accounts import Account
from common.loopback import is_loopback

_MARK = 'python_tutorial_run'
# https://learn.microsoft.com/rest/api/storageservices/blob-batch
_MOST_BLOBS_AT_ONCE = 256


class Run:
    """The names that a run uses, and the mark of what it makes under them.

    Attributes:
        mark: Metadata for every container that the run creates.
        metadata: The same for its job and its pool.
        ids: The ids of these two, by kind ('job', 'pool').
        operations: What the SDK does with each of these kinds.
        container_names: The containers, in the order of their creation; the last is that of the results.
        results_fetched: Whether the results are on this machine, so that their container may go.
    """

    def __init__(self, account: Account, batch_service_client: BatchServiceClient,
                 blob_service_client: BlobServiceClient, job_id: str, pool_id: str, *,
                 blob_names: Mapping[str, Iterable[str]], ask: bool) -> None:
        """blob_names are those that the run writes, by container; ask is whether to put questions to the reader."""
        self.mark = {_MARK: secrets.token_hex(8)}
        self.metadata = [batchmodels.MetadataItem(name=name, value=value) for name, value in self.mark.items()]
        self.account = account
        self.batch = batch_service_client
        self.blobs = blob_service_client
        self.ids = {'job': job_id, 'pool': pool_id}
        self.operations = {'job': batch_service_client.job, 'pool': batch_service_client.pool}
        self.container_names = tuple(blob_names)
        self.ask = ask
        self.results_fetched = False
        self._blob_names = {container: frozenset(names) for container, names in blob_names.items()}

    def find(self, kind: str) -> Any:
        """Returns the job or the pool as it is now, whoever has made it; None if there is none."""
        try:
            return self.operations[kind].get(self.ids[kind])
        except batchmodels.BatchErrorException as error:
            if getattr(error.error, 'code', None) in ('JobNotFound', 'PoolNotFound'):
                return None
            raise

    def has(self, kind: str, mark: Mapping[str, str] | None = None) -> bool:
        """Says whether the job or the pool is there with this mark, and nobody has begun to delete it."""
        found = self.find(kind)
        return (found is not None and found.state != 'deleting'
                and (mark or {}).items() <= {item.name: item.value for item in found.metadata or ()}.items())

    def has_made_container(self, name: str) -> bool:
        """Says whether the container is there, and made by this run."""
        try:
            properties = self.blobs.get_container_client(name).get_container_properties()
        except ResourceNotFoundError:
            return False
        return self.mark.items() <= properties.metadata.items()

    def blob_names(self, container_name: str) -> list[str]:
        """Returns which of the run's blobs are in the container; none if it does not exist."""
        try:
            found = list(self.blobs.get_container_client(container_name).list_blob_names())
        except ResourceNotFoundError:
            return []
        return [name for name in found if name in self._blob_names[container_name]]

    def delete_blobs(self, container_name: str) -> None:
        """Deletes the run's blobs, or those of the same names that an earlier run has left, and leaves all others."""
        found = self.blob_names(container_name)
        for begin in range(0, len(found), _MOST_BLOBS_AT_ONCE):
            self.blobs.get_container_client(container_name).delete_blobs(
                *found[begin:begin + _MOST_BLOBS_AT_ONCE], delete_snapshots='include')

    def how_to_delete(self, kind: str, name: str) -> str:
        """Returns a part of a sentence: what to do about a container, the job or the pool that stays."""
        if is_loopback(self.account.batch_account_url):
            return 'it costs nothing here, and the next run finds it'
        if kind == 'container':
            return (f'to delete it: az storage container delete --name {name} '
                    f'--account-name {self.account.storage_account_name}')
        return (f'to delete it: az batch {kind} delete --{kind}-id {name} --account-name '
                f'{self.account.batch_account_name} --account-endpoint {self.account.batch_account_url}')


def in_words(state: object) -> str:
    """Returns a state of the SDK in words: 'waiting for start task'; as it is, if this version does not know it."""
    return getattr(state, 'name', str(state)).replace('_', ' ')
