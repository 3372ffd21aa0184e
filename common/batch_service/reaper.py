"""Ends the processes of a service that was killed: a small process of its own, told which ones there are.

It reads lines from its standard input, ``+PID`` when a process group began and ``-PID`` when it ended. The input
ends when the service does, whichever way it went; what is left then is killed. On Linux it also looks for processes
that have one of the service's nodes in their environment: one that began just as the service was killed, or that left
its group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path


class Reaper:
    """The service's side of it.

    Args:
        nodes: The directory below which the service's nodes are.
    """

    def __init__(self, nodes: Path) -> None:
        self._process = subprocess.Popen([sys.executable, '-I', '-S', __file__, f'{nodes}/'], stdin=subprocess.PIPE,
                                         bufsize=0, start_new_session=True)

    def began(self, process_group: int) -> None:
        self._tell(f'+{process_group}\n')

    def ended(self, process_group: int) -> None:
        self._tell(f'-{process_group}\n')

    def close(self) -> None:
        """Has the reaper end, and with it whatever it was told of and is still there."""
        self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        self._process.stdin.write(line.encode())


def kill(process_group: int, number: int) -> None:
    """Signals a process group; one that is already gone is fine."""
    try:
        os.killpg(process_group, number)
    except (ProcessLookupError, PermissionError):  # the latter is what macOS says of a group of zombies
        return


def _reap(nodes: str) -> None:
    left: set[int] = set()
    for line in sys.stdin:
        (left.add if line[0] == '+' else left.discard)(int(line[1:]))
    for process_group in left:
        kill(process_group, signal.SIGKILL)
    while left := _processes_of(f'AZ_BATCH_NODE_ROOT_DIR={nodes}'.encode(errors='surrogateescape')):
        for process in left:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _processes_of(variable: bytes) -> list[int]:
    """The processes whose environment has a variable that begins so; none where /proc does not tell."""
    found = []
    for process in filter(str.isdigit, os.listdir('/proc') if os.path.isdir('/proc') else []):
        try:
            with open(f'/proc/{process}/environ', 'rb') as environment:
                if any(item.startswith(variable) for item in environment.read().split(b'\0')):
                    found.append(int(process))
        except OSError:  # ended meanwhile, or somebody else's
            continue
    return found


if __name__ == '__main__':
    _reap(sys.argv[1])
