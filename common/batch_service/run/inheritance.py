"""What the tasks of this service must not get from its process: ignored signals, its memory, new privileges."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


def keep_from_tasks() -> None:
    """Changes this process, once, on its main thread; starting a task costs nothing more."""
    for number in signal.valid_signals():
        # A shell has what it starts with & ignore SIGINT and SIGQUIT, nohup SIGHUP, and programs inherit that. A
        # handler they do not inherit.
        if signal.getsignal(number) is signal.SIG_IGN and number != signal.SIGPIPE:
            signal.signal(number, _ignore)
    if sys.platform == 'linux':
        system = ctypes.CDLL(None)
        # Else a task could read the keys in /proc/PID/environ and /proc/PID/mem of the service, whose user it has.
        system.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        # As on a node, where a task's user may not become another.
        system.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _ignore(number: int, frame: object) -> None:
    """Does what SIG_IGN does, in this process alone."""
