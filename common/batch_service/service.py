"""The parts of the service, put together: what starts first, what stops last."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, Callable

import certifi

from .life.images import supported_images
from .run.engine import Engine
from .run.node import Node
from .run.reaper import Reaper, end_processes_below
from .run.recovery import recover
from .run.transfers import Transfers
from .run.trash import Trash
from .run.workers import Workers
from .settings import Settings
from .store import Store

_LOG = logging.getLogger(__name__)


class BatchService:
    """The local Batch service without its HTTP surface; all of it lives on one event loop.

    Args:
        workspace: Where its database and its nodes are; made if it is missing.
        account_name: The Batch account that it plays.
        url: The address that clients and tasks reach the service by.
        settings: Which troubles of the cloud it imitates.
        certificate: A PEM file that nodes trust, for storage on this machine that speaks https.

    Raises:
        StoreError: The database cannot be used.
        OSError: The workspace cannot be used, or another service uses it.
    """

    def __init__(self, workspace: Path, account_name: str, url: str, settings: Settings = Settings(),
                 certificate: Path | None = None) -> None:
        self.url = url
        self.settings = settings
        workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.workspace = workspace = workspace.resolve()
        self._lock = _lock(workspace / 'service.lock')
        node_directories = workspace / 'nodes'
        node_directories.mkdir(mode=0o700, exist_ok=True)
        programs = _make_programs(workspace / 'bin')
        trust = _make_trust(workspace / 'trusted.pem', certificate) if certificate else {}
        self.store = Store(workspace / 'batch.db', lambda: self._engine.tell())
        transfers = Transfers(certificate)
        # A service and its reaper that were killed together leave processes behind.
        end_processes_below(node_directories)
        self._reaper = Reaper(node_directories)
        self._trash = Trash(workspace / 'trash')
        self._workers = Workers(
            lambda root, environment: Node(root, programs, environment, transfers, self._reaper, self._trash),
            node_directories,
            {**trust, 'AZ_BATCH_ACCOUNT_NAME': account_name, 'AZ_BATCH_ACCOUNT_URL': f'{url}/'})
        self._engine = Engine(self.store, settings, self._workers, self._trash)
        self._work: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Takes up what an earlier run of the service left; to be called on the event loop."""
        with self.store.transaction():
            self.store.remove_some('image', '', 1_000)
            for image in supported_images():
                self.store.add('image', '', image['id'], image)
        recover(self.store, self._workers, self._trash)
        self._work = asyncio.get_running_loop().create_task(self._engine.run())
        self._work.add_done_callback(_log_failure)

    async def stop(self) -> None:
        """Ends every process of every node; what was running is run again after the next start."""
        if self._work:
            self._work.cancel()
        await self._engine.stop()
        self._reaper.close()
        self.store.close()
        os.close(self._lock)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns when a condition on the documents holds."""
        await self._engine.until(holds)

    def node_root(self, node_id: str) -> Path | None:
        """Where the files of a node are; None while it is not up."""
        worker = self._workers.find(node_id)
        return worker.node.root if worker else None

    def task_directory(self, node_id: str, job_id: str, task_id: str) -> Path | None:
        """Where the files of a task are, or were; None when its node is not up."""
        worker = self._workers.find(node_id)
        return worker.node.task_directory(job_id, task_id) if worker else None

    def remove_files_of(self, task: dict[str, Any]) -> None:
        """Removes the files of a task."""
        self._engine.remove_files_of(task)

    def throw_away(self, path: Path) -> None:
        """Removes a file, or a directory of any size and any modes; from any thread. Raises OSError."""
        self._trash.take(path)


def _log_failure(work: asyncio.Task[None]) -> None:
    if not work.cancelled() and work.exception():
        _LOG.critical('The engine has ended', exc_info=work.exception())


def _lock(path: Path) -> int:
    """Returns the descriptor of a lock that ends with this process."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise OSError(f'another service uses {path.parent}: wait for its end, or use another workspace') from None
    return descriptor


def _make_trust(bundle: Path, certificate: Path) -> dict[str, str]:
    """The variables by which a task's programs trust a certificate of this machine besides the usual ones."""
    bundle.write_text(Path(certifi.where()).read_text() + certificate.read_text())
    return dict.fromkeys(('REQUESTS_CA_BUNDLE', 'SSL_CERT_FILE', 'NODE_EXTRA_CA_CERTS'), str(bundle))


def _make_programs(directory: Path) -> Path:
    """The directory that makes ``python3`` on a node the interpreter that runs this service."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name in ('python3', 'python'):
        program = directory / name
        program.write_bytes(os.fsencode(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n'))
        os.chmod(program, 0o755)
    return directory
