"""The client as a process of its own, what it says, and what makes its run go wrong."""
from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

from tests.faults.cloud import Cloud
from tests.leftovers import eventually

PROJECT = Path(__file__).resolve().parents[2]

# Whoever runs the tests may have these signals ignored, as nohup does and a script's background. The terminal, if
# there is one, becomes that of the session: it sends the signals of its keys.
BEGIN = '''
import fcntl, signal, sys, termios
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if sys.stdin.isatty():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
import python_tutorial_client as client
'''
# A run that takes a second: one node on which all is installed, and few tasks.
SMALL = '''
client._POOL_NODE_COUNT = 1
client._INPUT_FILES = client._INPUT_FILES[:{}]
all_commands = client.start_task_commands
client.start_task_commands = lambda: all_commands()[:1]
'''
START_TASK = '''
client.start_task_commands = lambda: [*all_commands()[:1], {!r}]
'''
SLOW_TASKS = '''
wrap = client.wrap_commands_in_shell
client.wrap_commands_in_shell = lambda ostype, commands: wrap(ostype, (
    [{!r}, *commands] if commands[0].startswith('python3') else commands))
'''
SHORT_TIMEOUT = '''
import datetime
client._TIMEOUT = datetime.timedelta(seconds=3)
'''
# A service that is busy asks for a pause of a second.
SHORT_PAUSES = '''
import time, types
from common.guards import patience
patience.time = types.SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: time.sleep(seconds / 50))
'''
# A service on this machine that has ended is waited for, for some seconds.
LITTLE_PATIENCE = '''
import datetime
from common.guards import patience, watch
watch._PATIENCE_ON_THIS_MACHINE = datetime.timedelta(seconds=1)
patience.StorageRetries.get_backoff_time = lambda retries, settings: 0.1
'''
# The first time that it prints one of these, the client stands still until a signal comes or a file has its name.
_HOLD_AT = '''
import builtins, pathlib, time
say, moments = print, {!r}
def say_and_hold(*texts, **options):
    say(*texts, **options)
    for moment in [moment for moment in moments if moment in str(texts[:1])]:
        moments.remove(moment)
        while not pathlib.Path(moment).exists():
            time.sleep(0.02)
builtins.print = say_and_hold
'''


def hold_at(*moments: str) -> str:
    """Returns the patch that has the client stand still when it says so, until go_on() or a signal."""
    return _HOLD_AT.format(list(moments))


class Client:
    """The client as a process of its own, with what it says."""

    def __init__(self, cloud: Cloud | None, directory: Path, *arguments: str, patch: str = '', inputs: int = 1,
                 terminal: bool = False, screen: bool = False, stdout: int | None = None,
                 stderr: int | None = None) -> None:
        """terminal is whether standard input is one, screen whether the outputs are, too."""
        directory.mkdir()
        self.directory = directory
        self._out, self._err = directory / 'out', directory / 'err'
        self._terminal, stdin = pty.openpty() if terminal or screen else (None, os.open(os.devnull, os.O_RDONLY))
        if screen:
            fcntl.ioctl(stdin, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
        with self._out.open('wb') as out, self._err.open('wb') as err:
            self.process = subprocess.Popen(
                [sys.executable, '-c', f'{BEGIN}{SMALL.format(inputs)}{patch}\nsys.exit(client.main())', *arguments],
                cwd=directory, start_new_session=True, stdin=stdin, stdout=stdin if screen else stdout or out,
                stderr=stdin if screen else stderr or err,
                env={**os.environ, 'PYTHONPATH': str(PROJECT), **(cloud.environment() if cloud else {})})
        os.close(stdin)

    @property
    def output(self) -> str:
        return self._out.read_text()

    @property
    def errors(self) -> str:
        return self._err.read_text()

    def says(self, text: str) -> None:
        """Waits until the client has said so."""
        assert eventually(lambda: text in self.output or self.process.poll() is not None, 60)
        assert text in self.output, self.output + self.errors

    def types(self, keys: str) -> None:
        """Types at the client's terminal."""
        if keys == '\x03':
            # Between the question and the reading of its answer, Python would remember the signal until a line comes.
            eventually(self._is_reading, 2)
        os.write(self._terminal, keys.encode())

    def _is_reading(self) -> bool:
        """Says whether the client waits for a line of its standard input; True where the system does not tell."""
        try:
            call = Path(f'/proc/{self.process.pid}/syscall').read_text().split()
        except OSError:
            return True
        return call[1:2] == ['0x0']

    def go_on(self, moment: str) -> None:
        """Ends what hold_at() has begun."""
        (self.directory / moment).touch()

    def screen(self, until: str | None = None) -> str:
        """Reads the client's terminal until a text is there, or the client has ended."""
        shown = b''
        with suppress(OSError):  # as Linux says it when nobody has the other end open any more
            while (until is None or until.encode() not in shown) and (part := os.read(self._terminal, 4096)):
                shown += part
        return shown.decode()

    def close_terminal(self) -> None:
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None

    def ends(self) -> int:
        """Waits for the end; returns the exit code."""
        code = self.process.wait(60)
        assert 'Traceback' not in self.errors, self.errors
        assert 'sig=' not in self.output + self.errors
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.close_terminal()
