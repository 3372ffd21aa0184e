"""A server process of ours on this machine: started, awaited, stopped; it never outlives us."""
from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from .errors import LocalAzureError

_READY_LINE = re.compile(r'listens on (https?://\S+)')


class LocalServer:
    """A server that says on its standard output where it listens, and stops when its standard input ends.

    So it also stops when this process is killed. It is in a session of its own: a Ctrl-C in the terminal
    reaches only this process, which then stops the server in order.

    Args:
        name: What the reader knows it as.
        command: The program and its arguments.
        log: The file that takes what it prints; what an earlier one left there goes.
        environment: All of its environment variables.
        directory: Its working directory.
        locks: File descriptors of locks that are to be held until it has ended.
        ended: Gets this object when the server has ended, by itself or stopped.
    """

    def __init__(self, name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str],
                 directory: Path, locks: Sequence[int] = (),
                 ended: queue.SimpleQueue[LocalServer | None] | None = None) -> None:
        self.name = name
        self._log = log
        self._ended = ended
        self._url: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        log.unlink(missing_ok=True)
        with log.open('ab') as log_file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log_file,
                env=environment, cwd=directory, pass_fds=locks, start_new_session=True)
        self._reader = threading.Thread(target=self._read_output, name=f'output of {name}', daemon=True)
        self._reader.start()

    def wait_until_ready(self, timeout: float) -> str:
        """Returns the URL of the server once it listens there; raises LocalAzureError when it does not in time."""
        try:
            url = self._url.get(timeout=timeout)
        except queue.Empty:
            raise LocalAzureError(f'{self.name} does not listen yet, after {timeout:.0f} s of waiting '
                                  f'(its log: {self._log}).') from None
        if url is None:
            raise LocalAzureError(f'{self.name} did not start: {self.last_words()} (its log: {self._log})')
        return url

    def last_words(self) -> str:
        """Returns what says best why the server ended: a signal, or a line of its log."""
        exit_code = self._process.wait()
        if exit_code < 0:
            return signal.Signals(-exit_code).name
        lines = [line.strip() for line in self._log.read_text(errors='replace').splitlines() if line.strip()]
        # Node.js prints its version below an error and its stack.
        errors = [line for line in lines if re.search(r'error\b', line, re.IGNORECASE)]
        return (errors or lines or [f'exit code {exit_code}'])[-1]

    def begin_stop(self) -> None:
        """Has the server begin to stop, and does not wait for it."""
        self._process.stdin.close()

    def stop(self, timeout: float) -> None:
        """Stops the server: in order, or after that many seconds by force. To stop again is fine."""
        self.begin_stop()
        # The output ends with the process, and waiting for that takes no polling.
        self._reader.join(timeout)
        try:
            self._process.wait(0 if self._reader.is_alive() else timeout)
        except subprocess.TimeoutExpired:
            # macOS says "not permitted" of a group in which only zombies are left.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._reader.join(timeout)

    def _read_output(self) -> None:
        # Read to its end: a server whose pipe is full would stand still.
        with self._process.stdout as output, self._log.open('ab', buffering=0) as log_file:
            for line in output:
                # On a full disk too, the server is to be heard.
                with suppress(OSError):
                    log_file.write(line)
                if ready := _READY_LINE.search(line.decode(errors='replace')):
                    self._url.put(ready[1])
        self._url.put(None)
        if self._ended:
            self._ended.put(self)
