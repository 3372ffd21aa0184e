"""Processes, each in a session and a group of its own, whose ends the event loop is told of."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import IO

from .threads import in_thread


class Process:
    """A process that has been started. Much cheaper than asyncio's, which has pipes, and up to 3.11 a thread for each.

    Raises what subprocess.Popen does.

    Attributes:
        exited: Done when it has ended: its exit code, or the negative number of the signal that it died of.
    """

    def __init__(self, arguments: list[str], directory: Path, environment: dict[str, str],
                 output: IO[bytes], errors: IO[bytes]) -> None:
        self._process = subprocess.Popen(arguments, cwd=directory, env=environment, stdin=subprocess.DEVNULL,
                                         stdout=output, stderr=errors, start_new_session=True)
        self.pid = self._process.pid
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = self._loop.create_future()
        try:
            self._descriptor = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # macOS, or no descriptor is left
            self.exited = asyncio.ensure_future(in_thread(self._process.wait))
        else:
            self._loop.add_reader(self._descriptor, self._has_exited)

    def _has_exited(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self.exited.set_result(self._process.wait())
