"""Which accounts the tutorial works with: yours on Azure, or the stand-ins on this machine."""
from __future__ import annotations

import base64
import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from azure.storage.blob import LinearRetry

from common import local_azure
from common.loopback import is_loopback, without_proxies

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
_REQUIRED = tuple(name for name in _VARIABLES if name != 'storage_account_url')
_KEYS = ('batch_account_key', 'storage_account_key')


class SettingsError(RuntimeError):
    """The settings do not say which accounts to use; the text names the settings to look at."""


@dataclass(frozen=True)
class Account:
    """A Batch account and the storage account beside it. Empty fields are not known (yet)."""

    batch_account_name: str = ''
    batch_account_key: str = field(default='', repr=False)
    batch_account_url: str = ''
    storage_account_name: str = ''
    storage_account_key: str = field(default='', repr=False)
    storage_account_url: str = ''

    @property
    def storage_credential(self) -> dict[str, str]:
        """What the clients of azure.storage.blob take as their credential."""
        return {'account_name': self.storage_account_name, 'account_key': self.storage_account_key}

    @property
    def storage_client_options(self) -> dict[str, Any]:
        """More arguments for BlobServiceClient: on this machine, retries that do not add up to a minute."""
        if is_loopback(self.storage_account_url):
            return {'retry_policy': LinearRetry(backoff=1, retry_total=2, random_jitter_range=0)}
        return {}

    @property
    def batch_client_retries(self) -> int:
        """How often BatchServiceClient tries again: on Azure as often as it does of itself."""
        return 1 if is_loopback(self.batch_account_url) else 3


@contextmanager
def open_account(settings: Account) -> Iterator[Account]:
    """Yields the accounts that the settings and the environment name, ready to be used.

    With no settings at all, these are on this machine, in services that run until the end of the with block.
    Raises SettingsError, or LocalAzureError when the services cannot run here.
    """
    account = _fill_from_environment(settings)
    if account == Account():
        print(f'No account is set, so this runs on this machine, with its state in '
              f'{local_azure.default_workspace()}; to use Azure, fill in the settings at the top of '
              'python_tutorial_client.py.', flush=True)
        with local_azure.start() as local:
            yield Account(**dataclasses.asdict(local))
        return

    account = _check(account)
    on_this_machine = is_loopback(account.batch_account_url) or is_loopback(account.storage_account_url)
    with without_proxies() if on_this_machine else nullcontext():
        yield account


def _fill_from_environment(settings: Account) -> Account:
    return Account(**{name: (getattr(settings, name) or os.environ.get(variable, '')).strip()
                      for name, variable in _VARIABLES.items()})


def _check(account: Account) -> Account:
    missing = [name for name in _REQUIRED if not getattr(account, name)]
    if missing == list(_KEYS):
        raise SettingsError('Signing in without account keys is not possible yet: '
                            f'set {_spelled_out(missing)}.')
    if missing:
        raise SettingsError(f'Some of the account settings are missing: set {_spelled_out(missing)}; '
                            'or leave all of them empty to run on this machine.')
    for name in _KEYS:
        _check_key(name, getattr(account, name))

    # The Azure CLI and its variable give the address of a Batch account without "https://".
    batch_url = account.batch_account_url
    batch_url = batch_url if '://' in batch_url else f'https://{batch_url}'
    storage_url = (account.storage_account_url
                   or f'https://{account.storage_account_name}.blob.core.windows.net')
    return dataclasses.replace(account, batch_account_url=batch_url.rstrip('/'),
                               storage_account_url=storage_url.rstrip('/'))


def _check_key(name: str, key: str) -> None:
    try:
        base64.b64decode(key, validate=True)
    except ValueError as error:
        raise SettingsError(f'{_spelled_out([name])} is not an account key: it is not base64 ({error}). '
                            'Copy the whole key, and nothing else.') from None


def _spelled_out(names: list[str]) -> str:
    return ', '.join(f'_{name.upper()} (or {_VARIABLES[name]})' for name in names)
