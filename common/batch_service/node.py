"""One compute node: its directories, and one command at a time run in them as a real process.

Layout and variables of a Linux node: https://learn.microsoft.com/azure/batch/files-and-directories and
https://learn.microsoft.com/azure/batch/batch-compute-node-environment-variables
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import shutil
import signal
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from .outputs import upload_outputs
from .reaper import Reaper, kill
from .transfers import TransferError, Transfers

_LOG = logging.getLogger(__name__)

KILL_AFTER_SECONDS = 5.0
"""How long a process that was told to end has for it."""

_SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'


@dataclass(frozen=True)
class Command:
    """What a node is asked to run.

    Attributes:
        line: The command line; no shell sees it.
        directory: The task's directory, which is emptied first; ``wd`` in it is the working directory.
        environment: The variables beyond those of every node.
        resource_files: As on the wire.
        output_files: As on the wire.
        time_limit: How long all of it may take, None for no limit.
    """

    line: str
    directory: Path
    environment: dict[str, str]
    resource_files: list[dict[str, Any]] = field(default_factory=list)
    output_files: list[dict[str, Any]] = field(default_factory=list)
    time_limit: timedelta | None = None


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        exit_code: None if no process was started; negative, the signal's number, if it died of one.
        failure_info: As on the wire; None if all went well.
    """

    exit_code: int | None
    failure_info: dict[str, Any] | None

    @property
    def succeeded(self) -> bool:
        return self.failure_info is None


class Node:
    """The directories of one node, and the processes in them.

    Args:
        root: The node's root directory; made if it is missing.
        programs: A directory that comes first in the ``PATH`` of every command.
        environment: The variables that are the same for every command on this node.
        transfers: Fetches resource files and uploads output files.
        reaper: Told of every process, so that none outlives the service.
    """

    def __init__(self, root: Path, programs: Path, environment: dict[str, str], transfers: Transfers,
                 reaper: Reaper) -> None:
        self.root = root
        self.startup = root / 'startup'
        self._transfers = transfers
        self._reaper = reaper
        for name in ('applications', 'fsmounts', 'shared', 'startup', 'volatile', 'workitems'):
            (root / name).mkdir(parents=True, exist_ok=True)
        self._environment = {
            'PATH': f'{programs}:{_SYSTEM_PATH}', 'LANG': 'C.UTF-8', 'USER': '_azbatch', 'LOGNAME': '_azbatch',
            'SHELL': '/bin/bash', **environment,
            'AZ_BATCH_NODE_ROOT_DIR': str(root), 'AZ_BATCH_NODE_SHARED_DIR': str(root / 'shared'),
            'AZ_BATCH_NODE_STARTUP_DIR': str(self.startup), 'AZ_BATCH_NODE_MOUNTS_DIR': str(root / 'fsmounts')}

    def task_directory(self, job_id: str, task_id: str) -> Path:
        """Where a task's ``stdout.txt``, ``stderr.txt`` and ``wd`` are."""
        return self.job_directory(job_id) / 'job-1' / task_id

    def job_directory(self, job_id: str) -> Path:
        """Where the directories of a job's tasks are."""
        return self.root / 'workitems' / job_id

    async def run(self, command: Command, stop: asyncio.Event) -> Outcome:
        """Runs a command to its end; ends it and its process group when ``stop`` is set or its time is over."""
        try:
            return await self._run(command, stop)
        except Exception as error:  # whatever it is, the task must not seem to run for ever
            _LOG.exception('The node failed to run %s', command.directory)
            return Outcome(None, _failure('Unknown', f'{type(error).__name__}: {error}', 'servererror'))

    async def _run(self, command: Command, stop: asyncio.Event) -> Outcome:
        work = command.directory / 'wd'
        environment = {
            **self._environment, 'HOME': str(work), 'PWD': str(work), 'AZ_BATCH_TASK_DIR': str(command.directory),
            'AZ_BATCH_TASK_WORKING_DIR': str(work),
            'AZ_BATCH_CERTIFICATES_DIR': str(command.directory / 'certs'), **command.environment}
        try:
            _make_empty(command.directory)
            await self._transfers.fetch(command.resource_files, work.resolve())
            process = await self._start(command, work, environment)
        except TransferError as error:
            return Outcome(None, error.failure_info)
        except _CannotStart as error:
            return Outcome(None, _failure(error.code, str(error)))
        except OSError as error:
            return Outcome(None, _failure('ResourceDirectoryCreateFailed', str(error), 'servererror'))
        ended = await self._wait(process, stop, command.time_limit)
        failure = None
        if ended:
            failure = _failure('TaskEnded', ended)
        elif process.returncode:
            failure = _failure('FailureExitCode', 'The task exited with an exit code representing a failure')
        if command.output_files:
            failure = await upload_outputs(command.output_files, command.directory, environment, failure,
                                           self._transfers)
        return Outcome(process.returncode, failure)

    async def _start(self, command: Command, work: Path,
                     environment: dict[str, str]) -> asyncio.subprocess.Process:
        try:
            arguments = shlex.split(command.line)
        except ValueError as error:
            raise _CannotStart('CommandLaunchFailed', f'The command line cannot be split: {error}') from error
        if not arguments:
            raise _CannotStart('CommandLaunchFailed', 'The command line is empty')
        with open(command.directory / 'stdout.txt', 'wb') as out, open(command.directory / 'stderr.txt', 'wb') as err:
            try:
                return await asyncio.create_subprocess_exec(
                    *arguments, cwd=work, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=err,
                    start_new_session=True)
            except FileNotFoundError as error:
                raise _CannotStart('CommandProgramNotFound',
                                   f'The specified command program is not found: {arguments[0]}') from error
            except (OSError, ValueError) as error:
                raise _CannotStart('CommandLaunchFailed', f'The command cannot be launched: {error}') from error

    async def _wait(self, process: asyncio.subprocess.Process, stop: asyncio.Event,
                    time_limit: timedelta | None) -> str | None:
        """Waits for the process's end; says why it was ended, None if it ended by itself."""
        self._reaper.began(process.pid)
        exited, stopped = asyncio.ensure_future(process.wait()), asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({exited, stopped}, return_when=asyncio.FIRST_COMPLETED,
                               timeout=time_limit.total_seconds() if time_limit is not None else None)
            if exited.done():
                return None
            kill(process.pid, signal.SIGTERM)
            await asyncio.wait({exited}, timeout=KILL_AFTER_SECONDS)
            return 'The task was ended by a request' if stopped.done() else 'The task ran out of its wall-clock time'
        finally:
            stopped.cancel()
            kill(process.pid, signal.SIGKILL)  # also what the process left behind in its group
            self._reaper.ended(process.pid)
            await exited


class _CannotStart(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _make_empty(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    (directory / 'wd').mkdir(parents=True)
    (directory / 'certs').mkdir()
    for name in ('stdout.txt', 'stderr.txt'):
        (directory / name).touch()


def _failure(code: str, message: str, category: str = 'usererror') -> dict[str, Any]:
    return {'category': category, 'code': code, 'message': message, 'details': []}
