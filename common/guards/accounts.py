"""Against settings that are wrong or missing: which accounts the run works with, on Azure or on this machine."""
from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from azure.core.credentials import TokenCredential
from azure.core.exceptions import AzureError

from common import entra, local_azure
from common.loopback import is_loopback, without_proxies
from common.redaction import keep_secret

# The variables are the Azure CLI's own: https://learn.microsoft.com/cli/azure/azure-cli-configuration and
# https://learn.microsoft.com/cli/azure/storage. There is no setting for the URL of the storage account: its
# name tells it, except in other clouds than Azure's public one.
_VARIABLES = {
    'batch_account_name': 'AZURE_BATCH_ACCOUNT',
    'batch_account_key': 'AZURE_BATCH_ACCESS_KEY',
    'batch_account_url': 'AZURE_BATCH_ENDPOINT',
    'storage_account_name': 'AZURE_STORAGE_ACCOUNT',
    'storage_account_key': 'AZURE_STORAGE_KEY',
    'storage_account_url': 'AZURE_STORAGE_SERVICE_ENDPOINT',
}
_SETTINGS = tuple(name for name in _VARIABLES if name != 'storage_account_url')
_KEYS = ('batch_account_key', 'storage_account_key')
_EXAMPLES = {'batch_account_url': 'https://NAME.REGION.batch.azure.com',
             'storage_account_url': 'https://NAME.blob.core.windows.net'}


class SettingsError(RuntimeError):
    """A setting or an argument is missing, or cannot be used; the text names it."""


@dataclass(frozen=True)
class Account:
    """A Batch account and the storage account beside it; where these have no keys, a credential of azure.identity."""

    batch_account_name: str = ''
    batch_account_key: str = field(default='', repr=False)
    batch_account_url: str = ''
    storage_account_name: str = ''
    storage_account_key: str = field(default='', repr=False)
    storage_account_url: str = ''
    credential: TokenCredential | None = field(default=None, repr=False)

    @property
    def signed_in(self) -> entra.EntraCredentials | None:
        """What BatchServiceClient takes as its credentials where there is no key; None where there is one."""
        return entra.EntraCredentials(self.credential) if self.credential else None

    @property
    def storage_credential(self) -> dict[str, str] | TokenCredential:
        """What the clients of azure.storage.blob take as their credential."""
        return self.credential or {'account_name': self.storage_account_name, 'account_key': self.storage_account_key}


@contextmanager
def open_account(*settings: str) -> Iterator[Account]:
    """Yields the accounts that the settings and the environment name, ready to be used, and tells the reader which.

    The settings are the five at the top of the client, in their order. With none at all, the accounts are on this
    machine, in services that run until the end of the with block. With no keys, they are those of whoever is signed in
    with Entra ID. Nothing is asked over the network yet.

    Raises SettingsError, or LocalAzureError when the services cannot run here.
    """
    values = {name: value.strip() for name, value in zip(_SETTINGS, settings)}
    from_environment = {name: os.environ.get(variable, '').strip() for name, variable in _VARIABLES.items()
                        if not values.get(name)}
    account = Account(**{**values, **from_environment})
    if account == Account():
        with _local_account() as local:
            yield local
        return
    account = _complete(account)
    _check(account)
    account = replace(account, batch_account_url=account.batch_account_url.rstrip('/'),
                      storage_account_url=account.storage_account_url.rstrip('/'))
    keep_secret(account.batch_account_key, account.storage_account_key)
    variables = ', '.join(_VARIABLES[name] for name, value in from_environment.items() if value)
    print(f'This uses Batch account {account.batch_account_name} at {account.batch_account_url} and storage account '
          f'{account.storage_account_name} at {account.storage_account_url}'
          + (f' (as {variables} say).' if variables else '.'), flush=True)
    on_this_machine = is_loopback(account.batch_account_url) or is_loopback(account.storage_account_url)
    with (without_proxies() if on_this_machine else nullcontext(),
          nullcontext() if account.batch_account_key else entra.sign_in() as credential):
        yield replace(account, credential=credential)


@contextmanager
def _local_account() -> Iterator[Account]:
    print(f'No account is set, so this runs on this machine, with its state in {local_azure.default_workspace()}; to '
          'use Azure, fill in the settings at the top of python_tutorial_client.py.', flush=True)
    with local_azure.start() as local:
        keep_secret(local.batch_account_key, local.storage_account_key)
        print(f'Watch it at {local.page_url}', flush=True)
        try:
            yield Account(**{name: getattr(local, name) for name in _VARIABLES})
        except AzureError as error:
            # Azurite does not say so itself.
            if full := local_azure.why_storage_fails(local.workspace):
                raise local_azure.LocalAzureError(f'Storage fails: {full}. Make room, and run again.') from error
            raise


def _complete(account: Account) -> Account:
    missing = [name for name in _SETTINGS if not getattr(account, name)]
    # No keys at all is no gap: it is how to say that Entra ID is to be used.
    if missing and missing != list(_KEYS):
        raise SettingsError(f'Some of the account settings are missing: set {spelled_out(*missing)}; '
                            'or leave all of them empty to run on this machine.')
    # The Azure CLI and its variable give the address of a Batch account without "https://".
    scheme = '' if '://' in account.batch_account_url else 'https://'
    storage_url = account.storage_account_url or f'https://{account.storage_account_name}.blob.core.windows.net'
    return replace(account, batch_account_url=scheme + account.batch_account_url, storage_account_url=storage_url)


def _check(account: Account) -> None:
    for name in ('batch_account_name', 'storage_account_name'):
        value = getattr(account, name)
        # https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules
        if not re.fullmatch('[a-z0-9]{3,24}', value):
            raise SettingsError(f'{spelled_out(name)} is {value!r}, which is not the name of an account: that has 3 '
                                'to 24 lower-case letters and digits.')
    for name in _EXAMPLES:
        _check_url(name, getattr(account, name), signing_in=not account.batch_account_key)
    for name in _KEYS:
        _check_key(name, getattr(account, name))


def _check_url(name: str, url: str, signing_in: bool) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(''), None
    on_this_machine = host is not None and is_loopback(url)
    # The blob URL of an emulator ends in the name of the account.
    path = '' if on_this_machine and name == 'storage_account_url' else parts.path.strip('/')
    if (not host or not re.fullmatch(r'[\w.:-]+', host) or parts.scheme not in ('http', 'https')
            or parts.username is not None or path or parts.query or parts.fragment):
        raise SettingsError(f'{spelled_out(name)} is {url!r}, which is not the URL of an account: that is like '
                            f'{_EXAMPLES[name]}, with nothing behind it.')
    if parts.scheme == 'http' and (signing_in or not on_this_machine):
        raise SettingsError(f'{spelled_out(name)} is {url!r}: it has to begin with "https://", or others on the way '
                            'could use your account.')


def _check_key(name: str, key: str) -> None:
    with suppress(ValueError):
        # An account key is 64 bytes. Emulators have shorter ones, and who signs in has none.
        if (size := len(base64.b64decode(key, validate=True))) <= 32 or size == 64:
            return
    raise SettingsError(f'{spelled_out(name)} is not an account key: that has 88 characters, all of base64, and this '
                        f'has {len(key)}. Copy the whole key, and nothing else.')


def spelled_out(*names: str) -> str:
    """Returns the fields of Account as the reader knows them: their settings, and the variables beside these."""
    return ', '.join(f'_{name.upper()} (or {_VARIABLES[name]})' if name in _SETTINGS else _VARIABLES[name]
                     for name in names)
