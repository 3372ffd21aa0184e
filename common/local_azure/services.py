"""Both services together, on 127.0.0.1: started, and stopped whatever happens."""
from __future__ import annotations

import os
import queue
import secrets
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from common.batch_service.settings import PAGE_PATH, PAGE_TOKEN_VARIABLE, Settings, arguments_for
from common.loopback import without_proxies

from . import azurite
from .errors import LocalAzureError
from .server import LocalServer
from .workspace import default_workspace, open_workspace

_PROJECT = Path(__file__).resolve().parents[2]
_BATCH_ACCOUNT, _STORAGE_ACCOUNT = 'localbatch', 'localstorage'
_START_TIMEOUT = 60
# The Batch service ends its tasks before itself.
_STOP_TIMEOUT = 15

# What these variables hold is for Azure alone, and no business of what runs here.
_CREDENTIAL_VARIABLES = ('AZURE_', 'AZURITE_', 'AZ_BATCH_', 'ARM_', 'IDENTITY_', 'MSI_')


@dataclass(frozen=True)
class LocalAzure:
    """The settings of the accounts on this machine, the workspace that keeps what is in them, and the page to watch."""

    batch_account_name: str
    batch_account_key: str = field(repr=False)
    batch_account_url: str
    storage_account_name: str
    storage_account_key: str = field(repr=False)
    storage_account_url: str
    workspace: Path
    page_url: str = field(repr=False)


@contextmanager
def start(workspace: Path | None = None, *, batch_port: int = 0, blob_port: int = 0,
          cert: Path | None = None, key: Path | None = None, settings: Settings = Settings(), verbose: bool = False,
          ended: queue.SimpleQueue[LocalServer | None] | None = None) -> Iterator[LocalAzure]:
    """Runs both services until the end of the with block; no process of them is left then.

    Inside the block, the proxies that the environment names do not apply to 127.0.0.1.

    Args:
        workspace: The directory that keeps their state and keys; made if need be; None takes default_workspace().
        batch_port, blob_port: The ports of the Batch service and of the storage service; 0 takes a free one.
        cert, key: A certificate and its private key (PEM), to speak https.
        settings: Which troubles of the cloud the Batch service imitates.
        verbose: Whether the Batch service logs every request, in batch.log in the workspace.
        ended: Gets each of the two when it has ended.

    Raises LocalAzureError when they cannot run here.
    """
    if sys.platform == 'win32':
        raise LocalAzureError('The local services run on Linux and macOS, not on Windows: '
                              'fill in the settings of your accounts to use Azure.')
    workspace = (workspace or default_workspace()).absolute()
    cert, key = _check_certificate(cert, key)
    with ExitStack() as stack:
        lock, batch_key, storage_key = open_workspace(workspace, _STOP_TIMEOUT, stack)
        _check_ports(batch_port, blob_port)
        stack.enter_context(without_proxies())

        token = secrets.token_urlsafe(24)
        servers: list[LocalServer] = []
        stack.callback(_stop, servers)
        servers.append(LocalServer(
            'The local storage service (Azurite)',
            azurite.command(azurite.install(), workspace / 'azurite', blob_port, cert, key),
            log=workspace / 'azurite.log', directory=workspace, locks=[lock], ended=ended,
            environment=_environment() | {'AZURITE_ACCOUNTS': f'{_STORAGE_ACCOUNT}:{storage_key}'}))
        servers.append(LocalServer(
            'The local Batch service',
            [*_batch_command(workspace, batch_port, cert, key), *arguments_for(settings), *['--verbose'] * verbose],
            # In this directory Python finds our package first, whatever the reader's own directory holds.
            log=workspace / 'batch.log', directory=_PROJECT, locks=[lock], ended=ended,
            environment=_environment() | {PAGE_TOKEN_VARIABLE: token}))

        # They start at the same time, so the second is all but ready when the first is.
        storage_url, batch_url = (server.wait_until_ready(_START_TIMEOUT) for server in servers)
        yield LocalAzure(
            batch_account_name=_BATCH_ACCOUNT, batch_account_key=batch_key, batch_account_url=batch_url,
            storage_account_name=_STORAGE_ACCOUNT, storage_account_key=storage_key,
            storage_account_url=f'{storage_url}/{_STORAGE_ACCOUNT}', workspace=workspace,
            page_url=f'{batch_url}{PAGE_PATH}/?token={token}')


def _check_certificate(cert: Path | None, key: Path | None) -> tuple[Path | None, Path | None]:
    if cert is None and key is None:
        return None, None
    if cert is None or key is None:
        raise LocalAzureError('A certificate and its private key go together: give both, or neither.')
    try:
        # The password is for a key that has one, which nobody would be asked for.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password='')
    except (OSError, ValueError) as error:
        reason = getattr(error, 'reason', None) or getattr(error, 'strerror', None) or error
        raise LocalAzureError(f'{cert} and {key} are no certificate and private key in PEM form '
                              f'that can be used: {reason}.') from None
    return cert.absolute(), key.absolute()


def _check_ports(*ports: int) -> None:
    with ExitStack() as stack:
        for port in ports:
            try:
                stack.enter_context(socket.create_server(('127.0.0.1', port)))
            except OSError as error:
                raise LocalAzureError(f'Port {port} on 127.0.0.1 cannot be used: {os.strerror(error.errno)}; '
                                      'choose another one, or 0 for a free one.') from None


def _batch_command(workspace: Path, port: int, cert: Path | None, key: Path | None) -> list[str]:
    https = ['--cert', str(cert), '--key', str(key)] if cert else []
    return [sys.executable, '-m', 'common.batch_service', '--workspace', str(workspace),
            '--account', _BATCH_ACCOUNT, '--key-file', str(workspace / 'batch.key'), '--port', str(port),
            '--exit-with-stdin', *https]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items()
            # With PYTHONSAFEPATH, Python would not look for the package in its working directory.
            if not name.startswith(_CREDENTIAL_VARIABLES) and name != 'PYTHONSAFEPATH'}


def _stop(servers: list[LocalServer]) -> None:
    for server in servers:
        server.begin_stop()
    for server in servers:
        server.stop(_STOP_TIMEOUT)
