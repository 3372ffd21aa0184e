"""Runs what may wait for a server or a disk in threads of its own: they can be told to end, and nobody waits for them.

The threads of an executor are waited for when the interpreter ends, and one that reads from a stalled server is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any, Callable, TypeVar

T = TypeVar('T')


class Ended(Exception):
    """The thread was told to end."""


async def in_thread(work: Callable[[], T]) -> T:
    """Returns what comes of work. When this is cancelled the thread is told to end, and not waited for."""
    thread = _Thread(work, asyncio.get_running_loop())
    thread.start()
    try:
        return await thread.done
    finally:
        thread.end()


def pause(seconds: float) -> None:
    """Waits, in such a thread. Raises Ended as soon as the thread is told to end."""
    if _current().told.wait(seconds):
        raise Ended


def watch(connection: socket.socket) -> None:
    """Has the socket that the current thread is about to wait for shut down when the thread is told to end.

    Raises:
        Ended: It was told before.
    """
    thread = _current()
    thread.let_go()
    thread.connection = connection.dup()  # a copy: TLS takes the descriptor away from the object
    pause(0)


def _current() -> _Thread:
    thread = threading.current_thread()
    assert isinstance(thread, _Thread)
    return thread


class _Thread(threading.Thread):
    def __init__(self, work: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name='waits', daemon=True)
        self.done: asyncio.Future[Any] = loop.create_future()
        self.told = threading.Event()
        self.connection: socket.socket | None = None
        self._work = work
        self._loop = loop

    def run(self) -> None:
        result, problem = None, None
        try:
            result = self._work()
        except Exception as error:
            problem = error
        self.let_go()
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._tell, result, problem)

    def end(self) -> None:
        self.told.set()
        if self.connection:
            with contextlib.suppress(OSError):  # closed meanwhile
                self.connection.shutdown(socket.SHUT_RDWR)

    def let_go(self) -> None:
        if self.connection:
            self.connection.close()

    def _tell(self, result: Any, problem: Exception | None) -> None:
        if self.done.done():
            return
        if problem:
            self.done.set_exception(problem)
        else:
            self.done.set_result(result)
