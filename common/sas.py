"""With what a shared access signature (SAS) is signed: the account's key, or a key that Storage lends to a user."""
from __future__ import annotations

import datetime
import weakref
from typing import Any

from azure.storage.blob import BlobServiceClient, UserDelegationKey

# Seven days are the most that Storage grants:
# https://learn.microsoft.com/rest/api/storageservices/get-user-delegation-key
_KEY_LIFETIME = datetime.timedelta(days=1)
_CLOCK_TOLERANCE = datetime.timedelta(minutes=15)

# With each client, the key that it was lent and when that expires: a run with thousands of files needs one key.
_LENT: weakref.WeakKeyDictionary[BlobServiceClient, tuple[UserDelegationKey, datetime.datetime]] = (
    weakref.WeakKeyDictionary())


def sas_signing_key(blob_service_client: BlobServiceClient, expiry: datetime.datetime) -> dict[str, Any]:
    """Returns the argument with which generate_blob_sas() and generate_container_sas() sign.

    That is account_key, or user_delegation_key for a client that has signed in with Entra ID: then Storage is
    asked for a key that outlasts the signature's expiry, at most six days ahead.

    Raises what the client raises, for instance when the user's role does not allow it.
    """
    account_key = getattr(blob_service_client.credential, 'account_key', None)
    if account_key:
        return {'account_key': account_key}

    key, key_expiry = _LENT.get(blob_service_client, (None, expiry))
    if key is None or key_expiry < expiry:
        key_expiry = expiry + _KEY_LIFETIME
        # A clock that is ahead of Azure's would make a key that is not valid yet.
        start = datetime.datetime.now(datetime.timezone.utc) - _CLOCK_TOLERANCE
        key = blob_service_client.get_user_delegation_key(start, key_expiry)
        _LENT[blob_service_client] = key, key_expiry
    return {'user_delegation_key': key}
