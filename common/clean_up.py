"""What a run has made, and how it goes again: whatever happens, nothing stays that the reader did not keep."""
from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import azure.batch.models as batchmodels
from azure.batch import BatchServiceClient
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError, ServiceRequestError
from azure.storage.blob import BlobServiceClient

from common.accounts import Account
from common.errors import FORESEEABLE
from common.helpers import query_yes_no
from common.loopback import is_loopback
from common.sdk_errors import one_line
from common.taken_names import NameTakenError, error_code

_RUN = 'python-tutorial-run'
_GONE = ('JobNotFound', 'JobBeingDeleted', 'PoolNotFound', 'PoolBeingDeleted')
# https://learn.microsoft.com/rest/api/storageservices/blob-batch
_MOST_BLOBS_AT_ONCE = 256


@contextmanager
def cleaned_up_after_errors(account: Account, *, ask: bool) -> Iterator[Made]:
    """Yields what is to hear of all that the with block makes.

    When the block ends by an error, Ctrl-C or SIGTERM, what is left is deleted, and the error goes on. ask says
    whether to put questions to the reader, or to take their defaults.
    """
    made = Made(account, ask=ask)
    try:
        yield made
    except BaseException as error:
        made.clean_up_after(error)
        raise


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Tells of an error in the with block, and lets the program go on."""
    try:
        yield
    except FORESEEABLE as error:
        _complain(one_line(error))


@dataclass
class Thing:
    """A container, the job or the pool: something that the run needs and that costs money if it stays.

    Attributes:
        what_to_do: If it stays; a part of a sentence.
        created: Whether this run made it; None as long as that is not known, or when the answer was cut off.
    """

    kind: str
    name: str
    what_to_do: str
    created: bool | None = None
    _started: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        return f'{self.kind.capitalize()} [{self.name}]'


@dataclass
class Container(Thing):
    """A container, and the names of the blobs that this run writes into it."""

    client: BlobServiceClient | None = None
    blob_names: frozenset[str] = frozenset()


@dataclass
class BatchThing(Thing):
    """The job or the pool; operations are those of the SDK's client for its kind."""

    operations: Any = None


class Made:
    """What the run has made so far. It hears of each thing before that is made, and whether it was then made.

    So that nothing is forgotten when Ctrl-C, or a connection that breaks, cuts off the answer.
    """

    def __init__(self, account: Account, *, ask: bool) -> None:
        run = secrets.token_hex(8)
        self.metadata = [batchmodels.MetadataItem(name=_RUN, value=run)]
        self._account = account
        self._ask = ask
        self._containers: list[Container] = []
        self._job: BatchThing | None = None
        self._pool: BatchThing | None = None

    @contextmanager
    def container(self, client: BlobServiceClient, name: str, blob_names: Collection[str]) -> Iterator[Container]:
        """Notes a container that the with block creates, and the names of the blobs that the run writes into it.

        From a container that was there before, the blobs with these names go at once: an earlier run's result
        must not pass for one of this run.
        """
        container = Container('container', name, self._what_to_do(
            f'az storage container delete --name {name} --account-name {self._account.storage_account_name}'),
            client=client, blob_names=frozenset(blob_names))
        self._containers.append(container)
        with self._forgotten_if_refused(container):
            yield container
        if not container.created:
            _delete_blobs(container)

    @contextmanager
    def pool(self, client: BatchServiceClient, pool_id: str) -> Iterator[BatchThing]:
        """Notes the pool that the with block creates; its metadata must have that of this object."""
        self._pool = self._batch_thing('pool', pool_id, client.pool)
        with self._forgotten_if_refused(self._pool):
            yield self._pool

    @contextmanager
    def job(self, client: BatchServiceClient, job_id: str) -> Iterator[BatchThing]:
        """Notes the job that the with block creates; its metadata must have that of this object."""
        self._job = self._batch_thing('job', job_id, client.job)
        with self._forgotten_if_refused(self._job):
            yield self._job

    def delete_containers(self) -> None:
        """Deletes the containers that this run created, and its blobs in those that were there before."""
        print('Deleting containers...')
        while self._containers:
            _delete_container(self._containers[0])
            del self._containers[0]

    def offer_to_delete_job(self) -> None:
        """Asks whether to delete the job."""
        if self._job:
            self._offer_to_delete(self._job)
            self._job = None

    def offer_to_delete_pool(self) -> None:
        """Asks whether to delete the pool; unless this run created it, no is what ENTER alone means."""
        if self._pool:
            self._offer_to_delete(self._pool)
            self._pool = None

    def _batch_thing(self, kind: str, name: str, operations: Any) -> BatchThing:
        return BatchThing(kind, name, self._what_to_do(
            f'az batch {kind} delete --{kind}-id {name} --account-name {self._account.batch_account_name} '
            f'--account-endpoint {self._account.batch_account_url}'), operations=operations)

    def _what_to_do(self, command: str) -> str:
        if is_loopback(self._account.batch_account_url):
            return 'it costs nothing here, and the next run finds it'
        return f'to delete it: {command}'

    @contextmanager
    def _forgotten_if_refused(self, thing: Thing) -> Iterator[None]:
        try:
            yield
            thing.created = thing.created is not False
        except (HttpResponseError, batchmodels.BatchErrorException, NameTakenError) as error:
            # A service that says no has made nothing. One that is in trouble may have.
            status = getattr(getattr(error, 'response', None), 'status_code', None)
            if not isinstance(status, int) or status < 500:
                self._forget(thing)
            raise
        except ServiceRequestError:
            # No connection. To a service that has answered before, an earlier try may have come through.
            if self._left() == [thing]:
                self._forget(thing)
            raise

    def _forget(self, thing: Thing) -> None:
        self._containers = [container for container in self._containers if container is not thing]
        self._job = None if self._job is thing else self._job
        self._pool = None if self._pool is thing else self._pool

    def _left(self) -> list[Thing]:
        return [thing for thing in (self._job, self._pool, *self._containers) if thing]

    def _offer_to_delete(self, thing: BatchThing) -> None:
        if thing.created is None and not self._is_of_this_run(thing):
            return
        # What was there before this run is not ours to delete unasked.
        default = 'no' if thing.created is False else 'yes'
        if query_yes_no(f'Delete {thing.kind}?', default, ask=self._ask) == 'yes':
            try:
                thing.operations.delete(thing.name)
            except batchmodels.BatchErrorException as error:
                if error_code(error) not in _GONE:
                    raise
        else:
            print(f'  {thing} is kept; {thing.what_to_do}')

    def _is_of_this_run(self, thing: BatchThing) -> bool:
        try:
            found = thing.operations.get(thing.name)
        except batchmodels.BatchErrorException as error:
            if error_code(error) in _GONE:
                return False
            raise
        [mark] = self.metadata
        return any((item.name, item.value) == (mark.name, mark.value) for item in found.metadata or ())

    def clean_up_after(self, error: BaseException) -> None:
        """Deletes what is left, in spite of an error that is on its way; fails itself in no foreseeable way.

        Job and pool go first: a node that is still starting needs what is in the containers.
        """
        if not self._left():
            return
        # SIGTERM comes from a program, which will not answer.
        self._ask = self._ask and not isinstance(error, SystemExit)
        what = 'Interrupted' if isinstance(error, (KeyboardInterrupt, SystemExit)) else one_line(error)
        _say_somewhere(f'\n{what}\nCleaning up; press Ctrl-C to leave at once...')
        try:
            for thing, offer in ((self._job, self.offer_to_delete_job), (self._pool, self.offer_to_delete_pool)):
                if thing:
                    self._try(thing, offer)
            if self._containers:
                print('Deleting containers...')
            for container in list(self._containers):
                self._try(container, lambda: _delete_container(container))
        except (KeyboardInterrupt, SystemExit):
            for thing in self._left():
                _complain(f'{thing} may be left; {thing.what_to_do}')

    def _try(self, thing: Thing, step: Callable[[], None]) -> None:
        try:
            step()
        except FORESEEABLE as error:
            _complain(f'{thing} may be left; {thing.what_to_do} ({one_line(error)})')
        self._forget(thing)


def _delete_container(container: Container) -> None:
    try:
        if container.created is None:
            container.created = _was_made_meanwhile(container)
        if container.created:
            container.client.delete_container(container.name)
        else:
            _delete_blobs(container)
    except ResourceNotFoundError:
        # Not made yet, or deleted by somebody else.
        pass


def _was_made_meanwhile(container: Container) -> bool:
    """Says whether the container is no older than the request to create it, by the service's own clock."""
    dates = []
    properties = container.client.get_container_client(container.name).get_container_properties(
        raw_response_hook=lambda response: dates.append(response.http_response.headers['Date']))
    age = parsedate_to_datetime(dates[-1]) - properties.last_modified
    # These times are in whole seconds.
    return age.total_seconds() <= time.monotonic() - container._started + 1


def _delete_blobs(container: Container) -> None:
    client = container.client.get_container_client(container.name)
    found = [name for name in client.list_blob_names() if name in container.blob_names]
    for begin in range(0, len(found), _MOST_BLOBS_AT_ONCE):
        client.delete_blobs(*found[begin:begin + _MOST_BLOBS_AT_ONCE], delete_snapshots='include')


def _complain(text: str) -> None:
    sys.stdout.flush()
    print(text, file=sys.stderr)


def _say_somewhere(text: str) -> None:
    """Prints the text. If nobody reads standard output any more, has that go elsewhere from now on.

    For what is left to do must not fail by what it says.
    """
    try:
        print(text)
    except OSError:
        try:
            print('Standard output cannot be written to.', text, sep='\n', file=sys.stderr, flush=True)
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (sys.stdout, sys.stderr):
                os.dup2(nowhere, stream.fileno())
