"""The real store and the real engine, without processes: a test ends each command, runs the loop and sets the clock."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from common.batch_service.life import moves
from common.batch_service.life.outcome import Outcome, failure
from common.batch_service.life import tasks as life_tasks
from common.batch_service.run import engine as engine_module
from common.batch_service.run.engine import Engine
from common.batch_service.run.node import Command, Stop
from common.batch_service.run.recovery import recover
from common.batch_service.run.workers import Workers
from common.batch_service.settings import Settings
from common.batch_service.store import Store
from common.batch_service.wire import documents
from common.batch_service.wire.shapes import read

Document = dict[str, Any]

SUCCESS = Outcome(0, None)
FAILURE = Outcome(1, failure('FailureExitCode', 'It failed'))
NOT_STARTED = Outcome(None, failure('BlobNotFound', 'It is not there'))
NOT_UPLOADED = Outcome(0, failure('FileUploadMiscError', 'It was not taken'))
STOPPED = Outcome(-15, failure('TaskEnded', 'It was stopped'))

MACHINE = {'imageReference': {'publisher': 'canonical', 'offer': 'ubuntu-24_04-lts', 'sku': 'server'},
           'nodeAgentSKUId': 'batch.node.ubuntu 24.04'}


def pool_document(id: str = 'p', **properties: Any) -> Document:
    """A pool as a client sends it, with the defaults of the wire."""
    return read(documents.POOL, {'id': id, 'vmSize': 'STANDARD_D2s_v5', 'virtualMachineConfiguration': MACHINE,
                                 **properties})


def job_document(id: str = 'j', pool_id: str = 'p', **properties: Any) -> Document:
    """A job as a client sends it, with the defaults of the wire."""
    return read(documents.JOB, {'id': id, 'poolInfo': {'poolId': pool_id}, **properties})


def task_document(id: str = 't', **properties: Any) -> Document:
    """A task as a client sends it, with the defaults of the wire."""
    return read(documents.TASK, {'id': id, 'commandLine': 'true', **properties})


class WatchedStore(Store):
    """A store that takes no change that no life cycle has, and whose disk a test makes full.

    Attributes:
        full: How many transactions fail from now on.
    """

    full = 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        outermost = not self._depth
        with super().transaction():
            yield
            if outermost and self.full:
                self.full -= 1
                raise sqlite3.OperationalError('database or disk is full')

    def save(self, kind: str, parent: str, document: Document) -> None:
        before = self.find(kind, parent, document['id'])
        assert before is not None, f'{kind} {document["id"]} is saved though it is gone'
        if kind in moves._MOVES:
            moved = before['state'] != document['state']
            assert not moved or document['state'] in moves._MOVES[kind][before['state']], (
                f'{kind} moved from {before["state"]} to {document["state"]}')
            if '_end' in before:
                may_forget = moved or kind == 'node' and (
                    before['_booting'] if '_booting' in before else document['schedulingState'] == 'enabled'
                    or not document['runningTasksCount'])
                strength = {how: number for number, how in enumerate(moves._WISHES)}
                assert ('_end' not in document and may_forget
                        or strength[document.get('_end', 'wait')] >= strength[before['_end']]), (
                    f'{kind} was to {before["_end"]}, and now to {document.get("_end")}')
        super().save(kind, parent, document)


@dataclass(eq=False)
class Running:
    """A command that runs until a test ends it."""

    command: Command
    stop: Stop
    end: asyncio.Future[Outcome]


class FakeNode:
    """Runs nothing: keeps the commands for a test to end."""

    def __init__(self, root: Path, running: list[Running]) -> None:
        self.root = root
        self.startup = root / 'startup'
        self._running = running

    def task_directory(self, job_id: str, task_id: str) -> Path:
        return self.root / 'workitems' / job_id / 'job-1' / task_id

    async def run(self, command: Command, stop: Stop) -> Outcome:
        assert all(other.command.directory != command.directory for other in self._running), (
            f'{command.directory} is used twice at once')
        running = Running(command, stop, asyncio.get_running_loop().create_future())
        self._running.append(running)
        try:
            return await running.end
        finally:
            self._running.remove(running)


class FakeTrash:
    def __init__(self) -> None:
        self.thrown: list[Path] = []

    def throw(self, path: Path) -> None:
        self.thrown.append(path)


class Loop(asyncio.SelectorEventLoop):
    """An event loop with a clock of its own, and no threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.errors: list[Document] = []
        super().__init__()
        self._clock_resolution = 1e-3  # a timer that is due by the clock is run
        self.set_exception_handler(lambda _, context: self.errors.append(context))

    def time(self) -> float:
        return self._clock()

    def run_in_executor(self, executor: Executor | None, function: Callable[..., Any],
                        *arguments: Any) -> asyncio.Future[Any]:
        done = self.create_future()
        done.set_result(function(*arguments))
        return done

    def turn(self) -> bool:
        """Runs what is ready now; returns whether something is ready then."""
        self.call_soon(self.stop)
        self.run_forever()
        return bool(self._ready) or bool(self._scheduled) and self._scheduled[0]._when <= self.time()


class Bench:
    """A service that can be killed and started again, whose commands and clock are the test's.

    Attributes:
        running: The commands that run.
    """

    def __init__(self, directory: Path, settings: Settings = Settings()) -> None:
        self._path = directory / 'batch.db'
        self._directory = directory
        self.settings = settings
        self.moment = time.time()
        self.running: list[Running] = []
        self._patches = [
            mock.patch.object(engine_module, 'time', mock.Mock(monotonic=lambda: self.moment)),
            *(mock.patch.object(module, 'clock', lambda: self.moment) for module in (engine_module, life_tasks)),
            mock.patch.object(engine_module, 'end_processes_below', lambda root: None),
            mock.patch.object(engine_module._LOG, 'exception', self._failed),
            mock.patch.object(engine_module._LOG, 'error', self._failed)]
        for patch in self._patches:
            patch.start()
        self.start()

    def _failed(self, text: str, *arguments: Any, **_: Any) -> None:
        if not isinstance(sys.exc_info()[1], sqlite3.OperationalError):
            self.trouble = text % arguments + traceback.format_exc()

    def start(self) -> None:
        self.trouble = ''
        self.loop = Loop(lambda: self.moment)
        self.store = WatchedStore(self._path, lambda: self.engine.tell())
        self.workers = Workers(lambda root, _: FakeNode(root, self.running), self._directory / 'nodes', {})
        self.trash = FakeTrash()
        self.loop.run_until_complete(self._start())

    async def _start(self) -> None:
        self.engine = Engine(self.store, self.settings, self.workers, self.trash)
        recover(self.store, self.workers, self.trash)
        self._work = asyncio.ensure_future(self.engine.run())

    def kill(self) -> None:
        """Ends the service where it is, with all its commands; nothing gets to report."""
        self.check()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        while self.loop.turn():
            pass
        self.loop.close()
        self.store.close()
        assert not self.running

    def close(self) -> None:
        self.kill()
        for patch in self._patches:
            patch.stop()

    def check(self) -> None:
        """Nothing has failed within the service."""
        assert not self.trouble, self.trouble
        assert not self.loop.errors, self.loop.errors
        if self._work.done():
            self._work.result()

    def turn(self, most: int = 2_000) -> bool:
        """Runs the loop until it is idle, but not longer than so many turns; returns whether it is idle."""
        for _ in range(most):
            if not self.loop.turn():
                self.check()
                return True
        self.check()
        return False

    def settle(self) -> None:
        """Runs the loop until it is idle."""
        assert self.turn(), 'The engine spins'

    def end(self, running: Running, outcome: Outcome = SUCCESS) -> None:
        """Ends a command."""
        if not running.end.done():
            running.end.set_result(STOPPED if running.stop.done() and outcome is SUCCESS else outcome)

    def end_all(self) -> None:
        """Runs the loop, and ends what runs, until nothing runs any more."""
        self.settle()
        for _ in range(200):
            if not self.running:
                return
            for running in list(self.running):
                self.end(running)
            self.settle()
        raise AssertionError('There is always something running')

    def wait(self, seconds: float) -> None:
        self.moment += seconds
