"""Against giving up too soon, and against never giving up: how long both clients try again."""
from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import azure.batch.models as batchmodels
import requests
from azure.batch import BatchServiceClient
from azure.core.exceptions import AzureError
from azure.storage.blob import ExponentialRetry

from common.loopback import is_loopback

LONG = timedelta(minutes=15)  # a container takes half a minute to be deleted, a pool as long as its nodes to stop
_LONGEST_PAUSE = 5.0  # seconds
# Batch takes a request for 15 minutes after it was signed.
_LONGEST_BUSY = timedelta(minutes=10)
_BUSY = (429, 503)


def wait_until(done: Callable[[], bool], notice: str) -> bool:
    """Looks until it is done, for a quarter of an hour at most, and returns whether it is.

    Says the notice if one look was not enough.
    """
    start = time.monotonic()
    while not done():
        if (waited := time.monotonic() - start) >= LONG.total_seconds():
            return False
        if notice:
            print(notice, flush=True)
            notice = ''
        time.sleep(min(max(waited / 4, 0.1), _LONGEST_PAUSE))
    return True


def patient(batch_service_client: BatchServiceClient) -> BatchServiceClient:
    """Returns the client, which has not been used yet, and now waits while the service is busy: as long as it says.

    By itself it raises an error for 429, and for 503 if something is to be changed.
    """
    config = batch_service_client.config
    # The SDK makes up what it would log even when nobody reads it.
    config.enable_http_logger = logging.getLogger('msrest').isEnabledFor(logging.DEBUG)
    config.retry_policy.retries = 1 if is_loopback(str(config.batch_url)) else 3
    retries = config.retry_policy.policy
    retries.raise_on_status = retries.respect_retry_after_header = False
    retries.status_forcelist = (408, 500, 502, 504)
    config.hooks.append(_wait_while_busy)
    return batch_service_client


def _wait_while_busy(answer: requests.Response, *_: Any, msrest: object = None, **options: Any) -> requests.Response:
    start, unasked = time.monotonic(), iter((1.0, 2.0, 4.0))
    while answer.status_code in _BUSY:
        pause = _asked_pause(answer.status_code, answer.headers) or next(unasked, math.inf)
        if time.monotonic() + pause - start >= _LONGEST_BUSY.total_seconds():
            break
        answer.close()
        time.sleep(pause)
        answer = answer.connection.send(answer.request, **options)
    if answer.ok and 'text/html' in answer.headers.get('Content-Type', ''):
        # A web page is no answer of Batch, whatever its status is. The SDK would stumble over it.
        answer.close()
        raise batchmodels.BatchErrorException(lambda *_: batchmodels.BatchError(), answer)
    return answer


def _asked_pause(status: int, headers: Mapping[str, str]) -> float:
    """Returns after how many seconds a busy service wants to be asked again; 0 if it is not busy or does not say."""
    asked = headers.get('Retry-After') or ''
    return max(float(asked), 1.0) if status in _BUSY and asked.isascii() and asked.isdigit() else 0.0


@contextmanager
def soon_given_up(batch_service_client: BatchServiceClient) -> Iterator[None]:
    """Within it, a service that does not answer is asked twice at most: its URL may be wrong, or it may have ended."""
    config = batch_service_client.config
    before = config.retry_policy.retries, config.connection.timeout
    config.retry_policy.retries, config.connection.timeout = 1, (5, 20)  # seconds to connect, and to answer
    try:
        yield
    finally:
        config.retry_policy.retries, config.connection.timeout = before


class StorageRetries(ExponentialRetry):
    """The retry policy of the storage client: a minute, but only once more before the first answer.

    Until then, a wrong name is likelier than trouble on the way. After a minute without an answer, no other request
    waits as long again. A service that is busy, or still deletes a container of the same name, is waited for.
    """

    def __init__(self) -> None:
        super().__init__(initial_backoff=0, increment_base=2, random_jitter_range=1,
                         retry_connect=5, retry_read=5, retry_status=5)
        self._answered = False

    def configure_retries(self, request: Any) -> dict[str, Any]:
        """Returns the settings for one request, as the SDK calls for them."""
        request.context.options.setdefault('connection_timeout', 10)
        most = 2 if is_loopback(request.http_request.url) else 5
        return super().configure_retries(request) | {'total': most if self._answered else 1}

    def increment(self, settings: dict[str, Any], request: Any, response: Any = None, error: Any = None) -> bool:
        """Counts a failed try, unless the service has said when to try again; returns whether to try again."""
        settings['asked'] = _asked_pause(response.status_code, response.headers) if response else 0.0
        settings['busy'] = settings.get('busy', 0.0) + settings['asked']
        if settings['asked']:
            settings['total'] += 1
            settings['status'] += 1
            settings['count'] -= 1
        return (settings['busy'] < _LONGEST_BUSY.total_seconds()
                and super().increment(settings, request, response, error))

    def get_backoff_time(self, settings: dict[str, Any]) -> float:
        """Returns the seconds to wait before the next try."""
        return settings['asked'] or super().get_backoff_time(settings)

    def send(self, request: Any) -> Any:
        """Sends one request, with retries."""
        response: Any = None

        def no_longer_being_deleted() -> bool:
            nonlocal response
            try:
                response = super(StorageRetries, self).send(request)
            except AzureError:
                self._answered = False
                raise
            if 'x-ms-request-id' not in response.http_response.headers:
                # Whatever the status is. The SDK would stumble over a web page, and over any HttpResponseError for it.
                stranger = AzureError('This is no answer of Azure Storage.')
                stranger.response = response.http_response
                raise stranger
            self._answered = True
            # https://learn.microsoft.com/rest/api/storageservices/delete-container
            return (response.http_response.headers.get('x-ms-error-code') != 'ContainerBeingDeleted'
                    or 'restype=container' not in url.query)

        url = urlsplit(request.http_request.url)
        container = url.path.rpartition('/')[2]
        wait_until(no_longer_being_deleted,
                   f'  Waiting for the container [{container}] of an earlier run to be deleted...')
        return response
