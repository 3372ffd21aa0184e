"""Accounts without keys: signing in with Microsoft Entra ID, for any Batch client."""
from __future__ import annotations

import threading
import time
from typing import Any

import requests
from azure.core.credentials import AccessToken, TokenCredential
from msrest.authentication import Authentication

# https://learn.microsoft.com/azure/batch/batch-aad-auth
_BATCH_SCOPE = 'https://batch.core.windows.net/.default'
_RENEWAL_SECONDS = 5 * 60


def sign_in() -> Any:
    """Returns the DefaultAzureCredential of whoever is signed in, say with "az login"; to be closed in the end.

    It has asked for no token yet, so that a failed sign-in shows only with the first request.
    """
    # Only now: most runs have keys, and the import takes a while.
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()


class EntraCredentials(Authentication):
    """Signs the requests of BatchServiceClient with the tokens of a credential of azure.identity.

    A token is asked for again shortly before it expires, so that a run may outlast it.
    """

    def __init__(self, credential: TokenCredential) -> None:
        super().__init__()
        self._credential = credential
        # Some credentials keep no token themselves: that of the Azure CLI starts "az" for each.
        self._token: AccessToken | None = None
        self._lock = threading.Lock()

    def signed_session(self, session: requests.Session | None = None) -> requests.Session:
        """Has each request of the session carry a token. It then takes no credentials from a ~/.netrc."""
        session = super().signed_session(session)
        session.auth = self._authorize
        return session

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        with self._lock:
            if self._token is None or self._token.expires_on - time.time() < _RENEWAL_SECONDS:
                self._token = self._credential.get_token(_BATCH_SCOPE)
            request.headers[self.header] = f'Bearer {self._token.token}'
        return request
