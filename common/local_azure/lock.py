"""A lock between the processes of one machine, which cannot outlive them."""
from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def hold_lock(path: Path, timeout: float = 0, notice: str = '') -> Iterator[int]:
    """Holds the lock that the file stands for; the file is made if need be, and stays.

    Another holder is waited for, so many seconds, with a notice on stderr; then BlockingIOError is raised.
    Yields a file descriptor: a child process that inherits it holds the lock as well, until it ends.
    """
    # Windows has no such module, and this one must be importable there.
    import fcntl

    deadline = time.monotonic() + timeout
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
            if notice:
                print(notice, file=sys.stderr, flush=True)
                notice = ''
            # Nothing tells when a lock is let go, short of waiting for it without a limit.
            time.sleep(0.05)
        yield descriptor
    finally:
        os.close(descriptor)
