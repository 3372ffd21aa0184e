"""The workspace: the directory that keeps the state and the keys of both services, for one run at a time."""
from __future__ import annotations

import base64
import os
import secrets
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

from platformdirs import user_state_path

from .errors import LocalAzureError
from .lock import hold_lock

WORKSPACE_VARIABLE = 'AZURE_BATCH_TUTORIAL_WORKSPACE'

_CHOOSE_ANOTHER = f'choose another with {WORKSPACE_VARIABLE}, or with --workspace of "python -m common.local_azure"'
_MIB = 1024 ** 2


def default_workspace() -> Path:
    """Returns where the tutorial keeps what it makes here; AZURE_BATCH_TUTORIAL_WORKSPACE chooses, unless empty."""
    chosen = os.environ.get(WORKSPACE_VARIABLE)
    return Path(chosen).absolute() if chosen else user_state_path('azure-batch-tutorial')


def why_storage_fails(workspace: Path, size: int = 64 * _MIB) -> str | None:
    """Returns what keeps a local storage account from taking that many bytes; None if its workspace does not.

    To be asked when a request has failed: without room for the whole of its body, Azurite takes back what it
    has written, and answers 500 with no error code, or breaks the connection. The SDK's bodies have up to 64 MiB:
    https://learn.microsoft.com/python/api/azure-storage-blob/azure.storage.blob.blobserviceclient
    """
    try:
        free = shutil.disk_usage(workspace).free
    except OSError as error:
        return f'the workspace {workspace} cannot be used: {error.strerror}'
    return None if free >= size else f'the disk that holds {workspace} is full: {free / 1e6:.1f} MB are free'


def open_workspace(workspace: Path, wait: float, stack: ExitStack) -> tuple[int, str, str]:
    """Takes the workspace, made if need be, until the stack is closed, or raises LocalAzureError.

    Returns the descriptor of a lock that the services are to hold as well, and the keys of the Batch account
    and of the storage account. Services of a killed run, which outlive it a moment, get so many seconds to end.
    """
    try:
        with suppress(FileExistsError):
            workspace.mkdir(mode=0o700, parents=True)
        stack.enter_context(hold_lock(workspace / 'run.lock'))
        lock = stack.enter_context(hold_lock(
            workspace / 'services.lock', wait, f'Waiting for the services of an earlier run in {workspace} to end...'))
        if full := why_storage_fails(workspace, _MIB):
            raise LocalAzureError(f'The services cannot start: {full}; make room, or {_CHOOSE_ANOTHER}.')
        return lock, _account_key(workspace / 'batch.key'), _account_key(workspace / 'storage.key')
    except BlockingIOError:
        raise LocalAzureError(f'Another run is using {workspace}: wait for its end, or {_CHOOSE_ANOTHER}.') from None
    except OSError as error:
        raise LocalAzureError(f'The workspace {workspace} cannot be used: {error.strerror}; '
                              f'{_CHOOSE_ANOTHER}.') from None


def _account_key(file: Path) -> str:
    """Returns the key in the file; made at random the first time."""
    if not file.exists():
        # Under another name first: a run that is killed here leaves no half of a key.
        new = file.with_suffix('.new')
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 'w') as key_file:
            key_file.write(base64.b64encode(secrets.token_bytes(64)).decode())
        new.rename(file)
    key = file.read_text(errors='replace').strip()
    with suppress(ValueError):
        if base64.b64decode(key, validate=True):
            return key
    raise LocalAzureError(f'{file} holds no account key: delete it, and a new one is made.')
