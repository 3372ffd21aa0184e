"""The first request to each service: a wrong setting shows then, before anything is created and within seconds."""
from __future__ import annotations

import datetime
import logging
from typing import Any

from azure.batch import BatchServiceClient
from azure.batch.models import PoolListOptions
from azure.storage.blob import BlobServiceClient, ExponentialRetry

from common.sas import sas_signing_key

_CONNECTION_SECONDS = 5
_ANSWER_SECONDS = 20


def check_accounts(blob_service_client: BlobServiceClient, batch_service_client: BatchServiceClient) -> None:
    """Returns when the Batch service has let us in, and Storage too where Entra ID is what lets us in.

    With a key, what comes next is the check: a container that cannot be created leaves nothing behind. The Batch
    client gets one more try here, and not much time; later it is as patient as it was made. Raises what the
    clients raise.
    """
    config = batch_service_client.config
    # The SDK makes up what it would log even when nobody reads it.
    config.enable_http_logger = logging.getLogger('msrest').isEnabledFor(logging.DEBUG)
    patience = config.retry_policy.retries, config.connection.timeout
    config.retry_policy.retries, config.connection.timeout = 1, (_CONNECTION_SECONDS, _ANSWER_SECONDS)
    try:
        next(iter(batch_service_client.pool.list(PoolListOptions(max_results=1, select='id'))), None)
    finally:
        config.retry_policy.retries, config.connection.timeout = patience

    # To sign takes a right of its own there.
    sas_signing_key(blob_service_client, datetime.datetime.now(datetime.timezone.utc))


class QuickToGiveUpAtFirst(ExponentialRetry):
    """Has a client of azure.storage.blob try again for a minute, but only once before the first answer.

    Until then, a wrong name is likelier than trouble on the way.
    """

    def __init__(self) -> None:
        super().__init__(initial_backoff=0, increment_base=2, random_jitter_range=1,
                         retry_total=5, retry_connect=5, retry_read=5, retry_status=5)
        self._answered = False

    def configure_retries(self, request: Any) -> dict[str, Any]:
        """Returns the settings for one request, as the SDK calls for them."""
        settings = super().configure_retries(request)
        return settings if self._answered else {**settings, 'total': 1}

    def send(self, request: Any) -> Any:
        """Sends one request, with retries."""
        response = super().send(request)
        self._answered = True
        return response
