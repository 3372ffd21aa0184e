"""The parts of the service, put together: what starts first, what stops last."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, Coroutine, TypeVar

import certifi

from .images import supported_images
from .jobs import Jobs
from .nodes import Nodes
from .pools import Pools
from .reaper import Reaper
from .scheduler import Scheduler
from .settings import Settings
from .store import Store
from .tasks import Tasks
from .transfers import Transfers

_LOG = logging.getLogger(__name__)
_Result = TypeVar('_Result')


class BatchService:
    """The local Batch service without its HTTP surface; all of it lives on one event loop.

    Args:
        workspace: Where its database and its nodes are; made if it is missing.
        account_name: The Batch account that it plays.
        settings: Which troubles of the cloud it imitates.
        certificate: A PEM file that nodes trust, for storage on this machine that speaks https.
    """

    def __init__(self, workspace: Path, account_name: str, settings: Settings = Settings(),
                 certificate: Path | None = None) -> None:
        self.account_name = account_name
        self.settings = settings
        self.url = ''
        workspace.mkdir(parents=True, exist_ok=True)
        self.workspace = workspace = workspace.resolve()
        self.programs = _make_programs(workspace / 'bin')
        self.trust = _make_trust(workspace / 'trusted.pem', certificate) if certificate else {}
        self.store = Store(workspace / 'batch.db')
        self.transfers = Transfers(certificate)
        self.reaper = Reaper(workspace / 'nodes')
        self.scheduler = Scheduler(self)
        self.pools = Pools(self)
        self.nodes = Nodes(self)
        self.jobs = Jobs(self)
        self.tasks = Tasks(self)
        self._background: set[asyncio.Task[Any]] = set()

    def start(self, url: str) -> None:
        """Takes up what an earlier run of the service left; to be called on the event loop.

        Args:
            url: The address that clients and tasks reach the service by.
        """
        self.url = url
        with self.store.transaction():
            self.store.remove('image', '')
            for image in supported_images():
                self.store.add('image', '', image['id'], image)
            self.tasks.resume()
            self.jobs.resume()
            self.pools.resume()

    async def stop(self) -> None:
        """Ends every process of every node; what was running is run again after the next start."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self.reaper.close()
        self.transfers.close()
        self.store.close()

    def spawn(self, work: Coroutine[Any, Any, _Result]) -> asyncio.Task[_Result]:
        """Starts work that outlives the request it came from, and reports its failure to the log."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception():
            _LOG.error('The service failed at %s', task.get_coro(), exc_info=task.exception())


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
