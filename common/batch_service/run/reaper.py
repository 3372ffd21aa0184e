"""Ends the processes of a service that was killed: a small process of its own, told which ones there are.

It reads lines from its standard input, ``+PID`` when a process group began and ``-PID`` when it ended. The input
ends when the service does, whichever way it went; what is left then is killed. On Linux it also looks for processes
that have one of the service's nodes in their environment: one that began just as the service was killed, or that left
its group.
"""

from __future__ import annotations

import logging
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

_LOG = logging.getLogger(__name__)

_PATIENCE_SECONDS = 4

_LONGEST_ENVIRONMENT = 6 << 20  # Linux takes no longer one
_NAME = b'AZ_BATCH_'
_NAMED = re.compile(rb'AZ_BATCH_(?:NODE_ROOT|TASK)_DIR=([^\0]*)')


class Reaper:
    """The service's side of it. A task may kill or stop the process; then there is another one.

    Args:
        nodes: The directory below which the service's nodes are.
    """

    def __init__(self, nodes: Path) -> None:
        self._nodes = nodes
        self._groups: set[int] = set()
        self._start()

    def began(self, process_group: int) -> None:
        """Never raises."""
        self._groups.add(process_group)
        self._tell(f'+{process_group}\n')

    def ended(self, process_group: int) -> None:
        """Never raises."""
        self._groups.discard(process_group)
        self._tell(f'-{process_group}\n')

    def close(self) -> None:
        """Has whatever it was told of, and is still there, end; and the reaper with it."""
        self._process.stdin.close()
        if not self._process.stdout.closed:
            # Its output, which is empty, ends with it. Popen.wait() with a timeout would only look now and then.
            end = select.poll()
            end.register(self._process.stdout)
            if not end.poll(_PATIENCE_SECONDS * 1000):
                self._process.kill()
            self._process.stdout.close()
        if self._process.wait():
            _end_all(self._groups, self._nodes)

    def _start(self) -> None:
        # Its environment can be read by tasks: the service's own has keys in it.
        self._process = subprocess.Popen([sys.executable, '-I', '-S', __file__, str(self._nodes)], env={},
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
                                         start_new_session=True)
        os.set_blocking(self._process.stdin.fileno(), False)

    def _tell(self, lines: str) -> None:
        try:
            if self._process.stdin.write(lines.encode()) is None:
                raise BlockingIOError('it does not read')
        except (OSError, ValueError) as error:
            _LOG.warning('The reaper is gone (%s); there is another one now', error)
            self._start_anew()

    def _start_anew(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._start()
            self._process.stdin.write(b''.join(b'+%d\n' % group for group in self._groups))
        except OSError as error:
            _LOG.error('There is no reaper (%s): processes may outlive this service', error)


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
    _end_all(left, Path(nodes))


def _end_all(groups: set[int], nodes: Path) -> None:
    for group in groups:
        kill(group, signal.SIGKILL)
    end_processes_below(nodes)


def end_processes_below(*directories: Path) -> None:
    """Kills every process of a node, or of a task, at or below the directories, also those that have left their group.

    Where /proc does not tell the environment of processes, that is none. What cannot be killed within some seconds,
    because it waits for a disk for instance, is logged.
    """
    values = set(map(os.fsencode, directories))
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while left := _processes_of(values):
        for process in left:
            _kill_with_group(process)
        if time.monotonic() > deadline:
            _LOG.warning('%d processes below %s cannot be ended, %d for instance', len(left), directories[0], left[0])
            return
        time.sleep(0.001)


def _kill_with_group(process: int) -> None:
    """A process that goes on by having children, and ending, is one group, which is killed in one go."""
    try:
        group = os.getpgid(process)
        os.kill(process, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
    if group != os.getpgid(0):
        kill(group, signal.SIGKILL)


def _processes_of(directories: set[bytes]) -> list[int]:
    """The processes whose environment names one of the paths, or one below them, as theirs."""
    if not os.path.isdir('/proc'):
        return []
    found = []
    buffer = bytearray(_LONGEST_ENVIRONMENT)  # one for all: there may be thousands
    for process in filter(str.isdigit, os.listdir('/proc')):
        try:
            descriptor = os.open(f'/proc/{process}/environ', os.O_RDONLY)
        except OSError:  # ended meanwhile, or somebody else's
            continue
        try:
            length = os.readv(descriptor, [buffer])
        except OSError:
            continue
        finally:
            os.close(descriptor)
        # Most have no such variable, which this says much sooner.
        if buffer.find(_NAME, 0, length) >= 0 and any(
                _is_below(named[1], directories) for named in _NAMED.finditer(buffer, 0, length)):
            found.append(int(process))
    return found


def _is_below(path: bytes, directories: set[bytes]) -> bool:
    while path not in directories:
        path, child = os.path.dirname(path), path
        if path == child:
            return False
    return True


if __name__ == '__main__':
    _reap(sys.argv[1])
