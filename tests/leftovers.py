"""Which processes are left of a test: found by a variable that they all inherit, or by where they work."""
from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

MARK = 'TUTORIAL_TEST_RUN'

needs_proc = pytest.mark.skipif(not Path('/proc/self/environ').exists(),
                                reason='only Linux tells the environment of a process')


def running(mark: str, directory: Path) -> dict[int, str]:
    """Returns the command lines, by process id, of those that inherited the mark or work in the directory."""
    found = {}
    for process in Path('/proc').glob('[0-9]*'):
        try:
            command = (process / 'cmdline').read_bytes()
            try:
                ours = (f'{MARK}={mark}'.encode() in (process / 'environ').read_bytes()
                        or Path(os.readlink(process / 'cwd')).is_relative_to(directory))
            except PermissionError:  # somebody else's, or the Batch service, which shows its environment to root alone
                ours = os.fsencode(directory) in command
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile
        if ours and command and int(process.name) != os.getpid():
            found[int(process.name)] = command.replace(b'\0', b' ').decode(errors='replace')
    return found


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Waits until the condition holds; returns whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
