"""One compute node: its directories, and one command at a time run in them as a real process.

Layout and variables of a Linux node: https://learn.microsoft.com/azure/batch/files-and-directories and
https://learn.microsoft.com/azure/batch/batch-compute-node-environment-variables
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Coroutine, TypeVar

from ..life.outcome import Outcome, failure
from . import command_line
from .outputs import upload_outputs
from .processes import Process
from .reaper import Reaper, kill
from .threads import in_thread
from .transfers import TransferError, Transfers
from .trash import Trash

T = TypeVar('T')

_LOG = logging.getLogger(__name__)

KILL_AFTER_SECONDS = 5.0
"""How long a process that was told to end has for it."""

_UPLOAD_AFTER_SECONDS = 6.0
"""How long after it has to end a command may go on with its uploads."""

_LONG_LINE = 10_000

# As seen on a real node: https://github.com/fabiochristiano/xva-azure-batch-poc/blob/main/src/apoio/apoio.sh
_SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin'
_AS_ON_A_NODE = {
    'LANG': 'C.UTF-8', 'USER': '_azbatch', 'LOGNAME': '_azbatch', 'SHELL': '/bin/bash',
    'AZ_BATCH_TASK_USER': '_azbatch', 'AZ_BATCH_TASK_USER_IDENTITY': 'PoolNonAdmin',
    'AZ_BATCH_RESERVED_DISK_SPACE_BYTES': '1050389381', 'AZ_BATCH_RESERVED_EPHEMERAL_DISK_SPACE_BYTES': '1050389381',
    'AZ_BATCH_OS_RESERVED_EPHEMERAL_DISK_SPACE_BYTES': '1000000000'}


@dataclass(frozen=True)
class Command:
    """What a node is asked to run.

    Attributes:
        line: The command line; no shell sees it.
        directory: The task's directory, which is emptied first; ``wd`` in it is the working directory.
        environment: The variables beyond those of every node.
        resource_files: As on the wire.
        output_files: As on the wire.
        time_limit: How long all of it may take, transfers included; None for no limit.
    """

    line: str
    directory: Path
    environment: dict[str, str]
    resource_files: list[dict[str, Any]] = field(default_factory=list)
    output_files: list[dict[str, Any]] = field(default_factory=list)
    time_limit: timedelta | None = None


class Stop(asyncio.Future[None]):
    """Done when a command is to end; to wait for it takes no task of its own, as it does for an asyncio.Event."""

    def set(self) -> None:
        """Has the command end."""
        if not self.done():
            self.set_result(None)


class Node:
    """The directories of one node, and the processes in them.

    Args:
        root: The node's root directory; made if it is missing.
        programs: A directory that comes first in the ``PATH`` of every command.
        environment: The variables that are the same for every command on this node.
        transfers: Fetches resource files and uploads output files.
        reaper: Told of every process, so that none outlives the service.
        trash: Takes what an earlier command has left in its directory.
    """

    def __init__(self, root: Path, programs: Path, environment: dict[str, str], transfers: Transfers,
                 reaper: Reaper, trash: Trash) -> None:
        self.root = root
        self.startup = root / 'startup'
        self._transfers = transfers
        self._reaper = reaper
        self._trash = trash
        for name in ('applications', 'fsmounts', 'shared', 'startup', 'volatile', 'workitems'):
            (root / name).mkdir(parents=True, exist_ok=True)
        self._path = f'{programs}:{_SYSTEM_PATH}:{root}/shared'
        self._environment = {
            **_AS_ON_A_NODE, **environment, 'AZ_BATCH_NODE_SHARED_DIR': f'{root}/shared',
            'AZ_BATCH_NODE_STARTUP_DIR': f'{root}/startup', 'AZ_BATCH_NODE_STARTUP_WORKING_DIR': f'{root}/startup/wd',
            'AZ_BATCH_NODE_MOUNTS_DIR': f'{root}/fsmounts'}

    def task_directory(self, job_id: str, task_id: str) -> Path:
        """Where a task's ``stdout.txt``, ``stderr.txt`` and ``wd`` are."""
        return self.root.joinpath('workitems', job_id, 'job-1', task_id)

    async def run(self, command: Command, stop: Stop) -> Outcome:
        """Runs a command to its end; all of it ends within some 6 seconds when ``stop`` is set or its time is over."""
        limit = _Limit(stop, command.time_limit)
        try:
            return await self._run(command, limit)
        except Exception as error:  # whatever it is, the task must not seem to run for ever
            _LOG.exception('The node failed to run %s', command.directory)
            return Outcome(None, failure('Unknown', f'{type(error).__name__}: {error}', 'servererror'))

    async def _run(self, command: Command, limit: _Limit) -> Outcome:
        work = command.directory / 'wd'
        environment = self._environment_of(command, work)
        try:
            self._make_empty(command.directory)
            if command.resource_files:
                await limit.keep(self._transfers.fetch(command.resource_files, work.resolve()))
            process = await self._start(command, work, environment, limit)
        except TransferError as error:
            return Outcome(None, error.failure_info)
        except _CannotStart as error:
            return Outcome(None, failure(error.code, str(error)))
        except OSError as error:
            return Outcome(None, failure('ResourceDirectoryCreateFailed', str(error), 'servererror'))
        failed = None
        ended = await self._wait(process, limit)
        # One that waits for a broken disk does not even end when it is killed.
        exit_code = process.exited.result() if process.exited.done() else None
        if ended:
            failed = failure('TaskEnded', ended)
        elif exit_code:
            failed = failure('FailureExitCode', 'The task exited with an exit code representing a failure')
        if command.output_files:
            failed = await self._upload(command, environment, failed, limit)
        return Outcome(exit_code, failed)

    def _environment_of(self, command: Command, work: Path) -> dict[str, str]:
        return {
            **self._environment, 'PATH': f'{self._path}:{work}', 'HOME': str(work), 'PWD': str(work),
            'AZ_BATCH_TASK_WORKING_DIR': str(work), 'AZ_BATCH_CERTIFICATES_DIR': str(command.directory / 'certs'),
            **command.environment,
            # Last, as its processes are found by them.
            'AZ_BATCH_NODE_ROOT_DIR': str(self.root), 'AZ_BATCH_TASK_DIR': str(command.directory)}

    def _make_empty(self, directory: Path) -> None:
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            self._trash.throw(directory)
            directory.mkdir()
        for name in ('wd', 'certs'):
            os.mkdir(f'{directory}/{name}')
        for name in ('stdout.txt', 'stderr.txt'):
            os.close(os.open(f'{directory}/{name}', os.O_CREAT | os.O_EXCL, 0o666))

    async def _start(self, command: Command, work: Path, environment: dict[str, str], limit: _Limit) -> Process:
        try:
            if len(command.line) < _LONG_LINE:
                arguments = command_line.split(command.line)
            else:
                arguments = await limit.keep(in_thread(lambda: command_line.split(command.line)))
        except ValueError as error:
            raise _CannotStart('CommandLaunchFailed', f'The command line cannot be used: {error}') from error
        if not arguments:
            raise _CannotStart('CommandLaunchFailed', 'The command line is empty')
        limit.check()
        with (open(f'{command.directory}/stdout.txt', 'wb', 0) as out,
              open(f'{command.directory}/stderr.txt', 'wb', 0) as err):
            try:
                return Process(arguments, work, environment, out, err)
            except FileNotFoundError as error:
                raise _not_found(arguments[0], work, environment['PATH']) from error
            except (OSError, ValueError) as error:
                raise _CannotStart('CommandLaunchFailed', f'The command cannot be launched: {error}') from error

    async def _wait(self, process: Process, limit: _Limit) -> str | None:
        """Waits for the process's end; says why it was ended, None if it ended by itself."""
        self._reaper.began(process.pid)
        try:
            # When this service was halted for a while, its process may have ended though its time is over.
            if await limit.wait(process.exited) or _has_exited(process.pid):
                return None
            kill(process.pid, signal.SIGTERM)
            await asyncio.wait({process.exited}, timeout=KILL_AFTER_SECONDS)
            return limit.reason
        finally:
            kill(process.pid, signal.SIGKILL)  # also what the process left behind in its group
            self._reaper.ended(process.pid)
            if not process.exited.done():
                await asyncio.wait({process.exited}, timeout=1.0)

    async def _upload(self, command: Command, environment: dict[str, str], failed: dict[str, Any] | None,
                      limit: _Limit) -> dict[str, Any] | None:
        """Uploads the output files; returns how the task failed. Its exit code stays, whatever happens here."""
        try:
            return await limit.keep(in_thread(lambda: upload_outputs(
                command.output_files, command.directory, environment, failed, self._transfers)), _UPLOAD_AFTER_SECONDS)
        except _CannotStart as error:
            return failed or failure(error.code, f'{error}, while its output files were uploaded')
        except Exception as error:
            _LOG.exception('The output files of %s cannot be uploaded', command.directory)
            return failed or failure('FileUploadMiscError', f'{type(error).__name__}: {error}', 'servererror')


class _Limit:
    """When a command has to end: when that is asked for, or when its time is over."""

    def __init__(self, stop: Stop, time_limit: timedelta | None) -> None:
        self.reason: str | None = None
        self._now = asyncio.get_running_loop().time
        self._deadline = None if time_limit is None else self._now() + time_limit.total_seconds()
        self._stop = stop
        self._since = 0.0

    def check(self) -> None:
        """Raises _CannotStart when it was asked to end."""
        if self._stop.done():
            raise _CannotStart('TaskEnded', 'The task was ended by a request')

    async def keep(self, work: Coroutine[Any, Any, T], grace: float = 0.0) -> T:
        """Returns what comes of work; cancels it, and raises _CannotStart, when it is not done in time."""
        task = asyncio.ensure_future(work)
        try:
            if await self.wait(task, grace):
                return task.result()
            raise _CannotStart('TaskEnded', str(self.reason))
        finally:
            task.cancel()

    async def wait(self, work: asyncio.Future[Any], grace: float = 0.0) -> bool:
        """Waits for work until the command has to end, and so many seconds after that; returns whether it is done."""
        if self.reason is None:
            await asyncio.wait({work, self._stop}, return_when=asyncio.FIRST_COMPLETED,
                               timeout=None if self._deadline is None else self._deadline - self._now())
            if not work.done():
                self.reason = ('The task was ended by a request' if self._stop.done()
                               else 'The task ran out of its wall-clock time')
                self._since = self._now()
        if self.reason and grace:
            await asyncio.wait({work}, timeout=self._since + grace - self._now())
        return work.done()


class _CannotStart(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def _has_exited(pid: int) -> bool:
    """Says whether a child process has ended, though the event loop may not know yet."""
    if not hasattr(os, 'waitid'):  # macOS, before Python 3.13
        return False
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # it has been asked for its exit code
        return True


def _not_found(program: str, work: Path, path: str) -> _CannotStart:
    """What to say when Linux says that a program is not there: that may be so, or be said of its interpreter."""
    found = work / program if '/' in program else shutil.which(program, path=path)
    try:
        with open(found or program, 'rb') as file:
            first_line = file.readline(256)
    except OSError:
        return _CannotStart('CommandProgramNotFound', f'The specified command program is not found: {program}')
    if not first_line.startswith(b'#!'):
        return _CannotStart('CommandLaunchFailed', f'{program} is there, but the loader that it names is not')
    interpreter = first_line[2:].strip(b' \t\n').decode(errors='backslashreplace')
    hint = ': its lines must end as on Linux, with a line feed only' if interpreter.endswith('\r') else ''
    return _CannotStart('CommandLaunchFailed', f'{program} is there, but not its interpreter, {interpreter!r}{hint}')
