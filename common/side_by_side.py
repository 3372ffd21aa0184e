"""Eight calls at a time, that look as if one had been made after another."""
from __future__ import annotations

import ctypes
import io
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import redirect_stdout, suppress
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar('Item')
Result = TypeVar('Result')

_MOST_AT_A_TIME = 8  # the storage client keeps ten connections
_SECONDS_TO_END = 2.0


def side_by_side(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Calls the function for each item, eight at a time; returns the results in the order of the items.

    It looks as if one call had been made after another: in what they print, and in the first error, which is raised.
    That, or Ctrl-C, also ends the calls that have begun.
    """
    voice = _Voice()
    waiting = deque(enumerate(items))

    def make_calls() -> None:
        with suppress(IndexError, _End):
            while True:
                number, item = waiting.popleft()
                voice.local.number = number
                call = _called(function, item)
                if call.exception():
                    waiting.clear()
                voice.events.put((number, call))

    workers = [threading.Thread(target=make_calls, daemon=True) for _ in items[:_MOST_AT_A_TIME]]
    results: list[Result] = []
    with redirect_stdout(voice):
        try:
            for worker in workers:
                worker.start()
            for call in voice.in_order(len(items)):
                results.append(call.result())
        except BaseException:
            waiting.clear()
            _end(workers)
            raise
    return results


class _End(BaseException):
    """Is raised in a call, from outside, to end it."""


def _called(function: Callable[[Item], Result], item: Item) -> Future[Result]:
    call: Future[Result] = Future()
    try:
        call.set_result(function(item))
    except _End:
        raise
    except BaseException as error:  # whatever it is: the one who waits for it must hear of it
        call.set_exception(error)
    return call


class _Voice(io.TextIOBase):
    """Standard output of the calls, and how they ended: from each call in its turn."""

    def __init__(self) -> None:
        self.events: SimpleQueue[tuple[int, str | Future]] = SimpleQueue()
        self.local = threading.local()  # the number of the call that the thread is in
        self._out = sys.stdout

    def write(self, text: str) -> int:
        self.events.put((self.local.number, text))
        return len(text)

    def in_order(self, number: int) -> Iterator[Future]:
        """Yields the end of each of so many calls, when all that it has said is written."""
        early: defaultdict[int, deque[str | Future]] = defaultdict(deque)
        for turn in range(number):
            ended = False
            while not ended:
                while not early[turn]:
                    caller, event = self.events.get()
                    early[caller].append(event)
                event = early[turn].popleft()
                if ended := isinstance(event, Future):
                    yield event
                else:
                    self._out.write(event)
            del early[turn]


def _end(workers: Sequence[threading.Thread]) -> None:
    # There is no other way to end a thread: https://docs.python.org/3/c-api/init.html. It puts its files away, as after
    # any error. What waits for the network ends when that answers, or with the program.
    for worker in workers:
        if worker.is_alive():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(worker.ident), ctypes.py_object(_End))
    give_up = time.monotonic() + _SECONDS_TO_END
    for worker in workers:
        worker.join(max(give_up - time.monotonic(), 0))
