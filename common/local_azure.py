"""Azure Storage and Azure Batch on this machine, for whoever has no account: the one door to both.

As a command it starts both services for any other Batch client, and keeps them until Ctrl-C or SIGTERM.
"""
from __future__ import annotations

import argparse
import base64
import os
import queue
import secrets
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from platformdirs import user_state_path

from common import azurite
from common.batch_service.settings import Settings, add_settings, arguments_for, settings_from
from common.file_lock import hold_lock
from common.local_server import LocalAzureError, LocalServer
from common.loopback import without_proxies

__all__ = ['LocalAzure', 'LocalAzureError', 'default_workspace', 'start']

_PROJECT = Path(__file__).resolve().parent.parent
_HOST = '127.0.0.1'
_BATCH_ACCOUNT = 'localbatch'
_STORAGE_ACCOUNT = 'localstorage'
_KEY_BYTES = 64
_START_TIMEOUT = 60
# The Batch service ends its tasks before itself.
_STOP_TIMEOUT = 15

# What these variables hold is for Azure alone, and no business of what runs here.
_CREDENTIAL_VARIABLES = ('AZURE_', 'AZURITE_', 'AZ_BATCH_', 'ARM_', 'IDENTITY_', 'MSI_')

_HELP_EPILOG = '''\
Once both services answer, the command prints the settings of a Batch account and a storage account, under
the names that the Azure CLI reads, as lines for a shell, and then the line "# ready":

  export AZURE_BATCH_ACCOUNT='...'                 export AZURE_STORAGE_ACCOUNT='...'
  export AZURE_BATCH_ACCESS_KEY='...'              export AZURE_STORAGE_KEY='...'
  export AZURE_BATCH_ENDPOINT='http://...'         export AZURE_STORAGE_SERVICE_ENDPOINT='http://...'
                                                   export AZURE_STORAGE_CONNECTION_STRING='...'

A script that uses them:

  umask 077  # the file will hold the keys
  python -m common.local_azure --workspace ./azure > azure.env &
  until grep -q '^# ready' azure.env || ! kill -0 $!; do sleep 0.1; done
  . ./azure.env
  python my_batch_program.py
  kill $!

What you make there (pools, jobs, tasks, containers, blobs) is in the workspace and is still there the next
time; to begin anew, delete the directory while nothing uses it. Both services listen on 127.0.0.1 alone. If
your environment names a proxy, add 127.0.0.1 to NO_PROXY for the programs that use them. The storage service,
Azurite, is installed into your cache directory the first time, which needs an npm registry and takes a while.

With --cert and --key, your client must trust the certificate, which must name IP:127.0.0.1: set
REQUESTS_CA_BUNDLE for Python and the Azure CLI, NODE_EXTRA_CA_CERTS for Node.js.

The exit code is 0 after Ctrl-C or SIGTERM, 1 if the services could not start or one of them ended, 2 for
wrong arguments. Linux and macOS only.
'''


@dataclass(frozen=True)
class LocalAzure:
    """The settings of the accounts on this machine, as a reader would type in those of accounts on Azure."""

    batch_account_name: str
    batch_account_key: str = field(repr=False)
    batch_account_url: str
    storage_account_name: str
    storage_account_key: str = field(repr=False)
    storage_account_url: str


def default_workspace() -> Path:
    """Returns the directory in which the tutorial keeps what it makes on this machine."""
    return user_state_path('azure-batch-tutorial')


@contextmanager
def start(workspace: Path | None = None, *, batch_port: int = 0, blob_port: int = 0,
          cert: Path | None = None, key: Path | None = None,
          settings: Settings = Settings(), verbose: bool = False) -> Iterator[LocalAzure]:
    """Runs both services until the end of the with block; no process of them is left then.

    Inside the block, the proxies that the environment names do not apply to 127.0.0.1.

    Args:
        workspace: The directory that keeps their state and keys; made if need be; for one run at a time.
        batch_port: The port of the Batch service; 0 takes a free one.
        blob_port: The port of the storage service; 0 takes a free one.
        cert: A certificate (PEM), to speak https.
        key: The certificate's private key (PEM).
        settings: Which troubles of the cloud the Batch service imitates.
        verbose: Whether the Batch service logs every request, in batch.log in the workspace.

    Raises LocalAzureError when they cannot run here.
    """
    batch_options = _batch_options(settings, verbose)
    with _services(workspace, batch_port, blob_port, cert, key, batch_options) as (account, _):
        yield account


def main() -> int:
    """Runs both services in the foreground; see --help."""
    options = _parser().parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Also where SIGINT came in ignored, as it does for what a shell script runs in the background.
        signal.signal(number, signal.default_int_handler)
    try:
        with _services(options.workspace, options.batch_port, options.blob_port,
                       options.cert, options.key,
                       _batch_options(settings_from(options), options.verbose)) as (account, ended):
            for name, value in _variables(account).items():
                print(f"export {name}='{value}'")
            print('# ready', flush=True)
            server = ended.get()
            raise LocalAzureError(f'{server.name} has ended: {server.last_words()}')
    except (LocalAzureError, OSError) as error:
        print(f'ERROR: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m common.local_azure', epilog=_HELP_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Runs Azure Batch and Azure Storage on this machine, for any Batch client, '
                    'until Ctrl-C or SIGTERM.')
    parser.add_argument('--workspace', type=Path, default=default_workspace(), metavar='DIR',
                        help='keep state and keys there; for one run at a time (default: %(default)s)')
    parser.add_argument('--batch-port', type=_port, default=0, metavar='N',
                        help='the port of the Batch service (default: a free one)')
    parser.add_argument('--blob-port', type=_port, default=0, metavar='N',
                        help='the port of the storage service (default: a free one)')
    parser.add_argument('--cert', type=Path, metavar='FILE', help='speak https with this certificate (PEM)')
    parser.add_argument('--key', type=Path, metavar='FILE', help="the certificate's private key (PEM)")
    parser.add_argument('--verbose', action='store_true',
                        help='log every request to the Batch service, in batch.log in the workspace')
    add_settings(parser)
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f'{port} is not a port: 0 to 65535')
    return port


def _variables(account: LocalAzure) -> dict[str, str]:
    protocol = account.storage_account_url.partition(':')[0]
    return {
        'AZURE_BATCH_ACCOUNT': account.batch_account_name,
        'AZURE_BATCH_ACCESS_KEY': account.batch_account_key,
        'AZURE_BATCH_ENDPOINT': account.batch_account_url,
        'AZURE_STORAGE_ACCOUNT': account.storage_account_name,
        'AZURE_STORAGE_KEY': account.storage_account_key,
        'AZURE_STORAGE_SERVICE_ENDPOINT': account.storage_account_url,
        'AZURE_STORAGE_CONNECTION_STRING':
            f'DefaultEndpointsProtocol={protocol};AccountName={account.storage_account_name};'
            f'AccountKey={account.storage_account_key};BlobEndpoint={account.storage_account_url};',
    }


@contextmanager
def _services(workspace: Path | None, batch_port: int, blob_port: int, cert: Path | None, key: Path | None,
              batch_options: list[str]) -> Iterator[tuple[LocalAzure, queue.SimpleQueue[LocalServer]]]:
    """Like start(), and also yields the queue that gets a service when it has ended."""
    if sys.platform == 'win32':
        raise LocalAzureError('The local services run on Linux and macOS, not on Windows: '
                              'fill in the settings of your accounts to use Azure.')
    workspace = (workspace or default_workspace()).absolute()
    cert, key = _check_certificate(cert, key)
    with ExitStack() as stack:
        lock = _lock(workspace, stack)
        _check_ports(batch_port, blob_port)
        stack.enter_context(without_proxies())
        batch_key, storage_key = (_account_key(workspace / name) for name in ('batch.key', 'storage.key'))
        azurite_script = azurite.install()

        servers: list[LocalServer] = []
        stack.callback(_stop, servers)
        ended: queue.SimpleQueue[LocalServer] = queue.SimpleQueue()
        servers.append(LocalServer(
            'The local storage service (Azurite)',
            azurite.command(azurite_script, workspace / 'azurite', blob_port, cert, key),
            log=workspace / 'azurite.log', directory=workspace, locks=[lock], ended=ended,
            environment=_environment() | {'AZURITE_ACCOUNTS': f'{_STORAGE_ACCOUNT}:{storage_key}'}))
        servers.append(LocalServer(
            'The local Batch service', [*_batch_command(workspace, batch_port, cert, key), *batch_options],
            # In this directory Python finds our package first, whatever the reader's own directory holds.
            log=workspace / 'batch.log', directory=_PROJECT, locks=[lock], ended=ended,
            environment=_environment()))

        # They start at the same time, so the second is all but ready when the first is.
        deadline = time.monotonic() + _START_TIMEOUT
        storage_url, batch_url = (server.wait_until_ready(deadline - time.monotonic()) for server in servers)
        yield LocalAzure(
            batch_account_name=_BATCH_ACCOUNT, batch_account_key=batch_key, batch_account_url=batch_url,
            storage_account_name=_STORAGE_ACCOUNT, storage_account_key=storage_key,
            storage_account_url=f'{storage_url}/{_STORAGE_ACCOUNT}'), ended


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


def _lock(workspace: Path, stack: ExitStack) -> int:
    """Takes the workspace for this run; returns the descriptor of a lock that the services are to hold as well.

    A killed run leaves its services a moment longer than itself: they too must be gone before others begin.
    """
    try:
        with suppress(FileExistsError):
            workspace.mkdir(mode=0o700, parents=True)
        stack.enter_context(hold_lock(workspace / 'run.lock'))
        return stack.enter_context(hold_lock(
            workspace / 'services.lock', _STOP_TIMEOUT,
            f'Waiting for the services of an earlier run in {workspace} to end...'))
    except BlockingIOError:
        raise LocalAzureError(f'Another run is using {workspace}: wait for its end, '
                              'or use another workspace.') from None
    except OSError as error:
        raise LocalAzureError(f'The workspace {workspace} cannot be used: {error.strerror}.') from None


def _check_ports(*ports: int) -> None:
    with ExitStack() as stack:
        for port in ports:
            try:
                stack.enter_context(socket.create_server((_HOST, port)))
            except OSError as error:
                raise LocalAzureError(f'Port {port} on {_HOST} cannot be used: {os.strerror(error.errno)}; '
                                      'choose another one, or 0 for a free one.') from None


def _account_key(file: Path) -> str:
    """Returns the key in the file; made at random the first time."""
    if not file.exists():
        # Under another name first: a run that is killed here leaves no half of a key.
        new = file.with_suffix('.new')
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 'w') as key_file:
            key_file.write(base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode())
        new.rename(file)
    key = file.read_text(errors='replace').strip()
    try:
        if base64.b64decode(key, validate=True):
            return key
    except ValueError:
        pass
    raise LocalAzureError(f'{file} holds no account key: delete it, and a new one is made.')


def _batch_command(workspace: Path, port: int, cert: Path | None, key: Path | None) -> list[str]:
    https = ['--cert', str(cert), '--key', str(key)] if cert else []
    return [sys.executable, '-m', 'common.batch_service', '--workspace', str(workspace),
            '--account', _BATCH_ACCOUNT, '--key-file', str(workspace / 'batch.key'), '--port', str(port),
            '--exit-with-stdin', *https]


def _batch_options(settings: Settings, verbose: bool) -> list[str]:
    return [*arguments_for(settings), *(['--verbose'] if verbose else [])]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items()
            # With PYTHONSAFEPATH, Python would not look for the package in its working directory.
            if not name.startswith(_CREDENTIAL_VARIABLES) and name != 'PYTHONSAFEPATH'}


def _stop(servers: list[LocalServer]) -> None:
    for server in servers:
        server.begin_stop()
    for server in servers:
        server.stop(_STOP_TIMEOUT)


if __name__ == '__main__':
    sys.exit(main())
