"""How many connections there may be, and how long each may keep the service waiting.

uvicorn limits neither the time for a request's head and body nor the time for the taking of an answer; and where it
limits connections, it turns away the newest, which may be the only one that wants something.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import Any, Callable

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_LOG = logging.getLogger(__name__)

IDLE_SECONDS = 60
_HEAD_SECONDS = 20
_BODY_SECONDS = 30
_ANSWER_SECONDS = 120

_MOST_CONNECTIONS = 4000
_MOST_DESCRIPTORS = 20_000
ACCEPTED_AT_ONCE = 32
# Connections are counted when two or three times as many more have been accepted; nodes and files need some, too.
_SPARE = 6 * ACCEPTED_AT_ONCE


def most_connections() -> int:
    """Raises the limit of descriptors as far as the service may; returns how many of them connections may take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return min(_MOST_CONNECTIONS, most - max(most // 5, _SPARE))


class Connection(H11Protocol):
    """A connection that ends when it is idle, too slow, or in the way of a new one.

    Args:
        waiting: All connections on which no request is being answered, the one that has waited longest first.
        most: How many connections there may be.
        is_over: Says whether the service has begun to end: what was accepted just before gets no answer any more.
    """

    def __init__(self, *, waiting: dict[Connection, None], most: int, is_over: Callable[[], bool],
                 **arguments: Any) -> None:
        super().__init__(**arguments)
        self._waiting = waiting
        self._most = most
        self._is_over = is_over
        self._phase = ''
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._enter('head', _HEAD_SECONDS)
        if self._is_over():
            self._end()
        elif len(self.connections) > self._most:
            next(iter(self._waiting))._end()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._phase == 'body':
            self._enter('', None)  # each part of a body is progress
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._enter('taking', _ANSWER_SECONDS)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._enter('', None)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self._end()  # uvicorn would wait until the client has taken all of it
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state is h11.IDLE:
            super().send_400_response(msg)
            return
        # What is no HTTP belongs to a request that has its answer, or is about to have it.
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        self._end()

    def _watch(self) -> None:
        """Sees to it that what this connection waits for now does not take too long."""
        if self.flow.write_paused:
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._enter(*('body', _BODY_SECONDS) if self.cycle.more_body else ('answer', None))
        elif self.conn.their_state is h11.SEND_BODY:
            self._enter('rest', _BODY_SECONDS)  # of a request that has been answered
        elif self.conn.trailing_data[0]:
            self._enter('head', _HEAD_SECONDS)
        else:
            self._enter('idle', IDLE_SECONDS)

    def _enter(self, phase: str, seconds: float | None) -> None:
        if phase == self._phase:
            return
        self._phase = phase
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self._end) if seconds is not None else None
        self._waiting.pop(self, None)
        if phase in ('head', 'idle', 'rest'):
            self._waiting[self] = None

    def _end(self) -> None:
        self._waiting.pop(self, None)
        # At once: to close it would wait until the other side has taken what it was sent.
        self.transport.abort()


def tell_shortly() -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """An exception handler for an event loop that has one line a minute, no traces, where descriptors are used up."""
    next_line = 0.0

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal next_line
        if context['message'] != 'socket.accept() out of system resource':
            loop.default_exception_handler(context)
        elif loop.time() >= next_line:
            next_line = loop.time() + 60
            _LOG.error('No new connection can be taken: %s', context['exception'].strerror)
    return handle
