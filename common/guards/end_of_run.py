"""Against a traceback, and against an end without a word: every foreseeable error ends the run in one clear line."""
from __future__ import annotations

import _thread
import functools
import io
import os
import signal
import sys
import time
from collections.abc import Callable

from azure.batch.custom.custom_errors import CreateTasksErrorException
from azure.core.exceptions import AzureError, DeserializationError
from msrest.exceptions import ClientException

from common.guards.one_line import one_line
from common.helpers import ImageNotFoundError
from common.redaction import without_secrets

# The Batch SDK's own, the Storage SDK's, the operating system's, and all that this project raises.
FORESEEABLE = (ClientException, CreateTasksErrorException, DeserializationError, AzureError, OSError,
               ImageNotFoundError, RuntimeError)

# SIGHUP says that the terminal is gone. Windows has no such signal.
_SIGNALS = {number: word for name, word in (('SIGTERM', 'Terminated'), ('SIGHUP', 'Hung up'))
            if (number := getattr(signal, name, None))}


def errors_end_in_one_line(main: Callable[[], int]) -> Callable[[], int]:
    """Decorates a main function: foreseeable errors become one line on standard error, and its exit code.

    That is 1 for an error, 130 for Ctrl-C, and 143 or 129 for SIGTERM or SIGHUP, which unwind the program like Ctrl-C
    does. All other errors are mistakes of the program, and go on.
    """
    @functools.wraps(main)
    def guarded() -> int:
        _make_output_robust()
        # What is ignored stays so: nohup means that a run outlives its terminal.
        before = {number: signal.signal(number, _unwind) for number in _SIGNALS
                  if signal.getsignal(number) != signal.SIG_IGN}
        hook = sys.unraisablehook
        sys.unraisablehook = functools.partial(_send_again, otherwise=hook)
        try:
            return main()
        except FORESEEABLE as error:
            print_error(error)
            return 1
        except KeyboardInterrupt:
            print_error_line('ERROR: Interrupted.')
            return 128 + signal.SIGINT
        except SystemExit as error:
            if isinstance(error.code, int) and (word := _SIGNALS.get(error.code - 128)):
                print_error_line(f'ERROR: {word}.')
            raise
        finally:
            sys.unraisablehook = hook
            for number, handler in before.items():
                signal.signal(number, handler)
    return guarded


def _unwind(number: int, _: object) -> None:
    # A terminal that is closed says so twice: by itself, and through its shell. Cleaning up is not for the second.
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _send_again(ignored: sys.UnraisableHookArgs, otherwise: Callable[[sys.UnraisableHookArgs], object]) -> None:
    # What a signal raises while Python frees an object goes nowhere, and the signal would be lost. It comes once more,
    # when the object is gone.
    if ignored.exc_type is KeyboardInterrupt:
        number = signal.SIGINT
    elif ignored.exc_type is SystemExit and ignored.exc_value.code in [128 + number for number in _SIGNALS]:
        number = ignored.exc_value.code - 128
        signal.signal(number, _unwind)
    else:
        otherwise(ignored)
        return
    # The last thing here, and nothing that waits: here it would be lost again.
    _thread.start_new_thread(_send, (number,))


def _send(number: int) -> None:
    time.sleep(0.1)
    # Windows has no way to send it, but there it interrupts a wait from any thread.
    os.kill(os.getpid(), number) if os.name == 'posix' else signal.raise_signal(number)


def print_error(error: BaseException) -> None:
    """Prints what was wrong to standard error, without secrets, as a line that begins with ERROR."""
    # What this project raises is written for the reader, some of it in several lines.
    text = isinstance(error, RuntimeError) and without_secrets(str(error)) or one_line(error)
    print_error_line(text if text.startswith('ERROR: ') else f'ERROR: {text}')


def print_error_line(text: str) -> None:
    """Prints the text to standard error, below what standard output has so far; no error if nobody reads it."""
    say_to_anybody('')
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _print_nowhere(sys.stderr)


def say_to_anybody(text: str) -> bool:
    """Prints the text. If nobody reads standard output any more, what is printed from now on goes nowhere.

    For what is left to do must not fail by what it says. Returns whether somebody reads it.
    """
    try:
        print(text, end='\n' if text else '', flush=True)
    except OSError:
        _print_nowhere(sys.stdout)
        return False
    return True


def _print_nowhere(stream: io.TextIOBase) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _make_output_robust() -> None:
    # A file name may have letters that the terminal has not; a log should show each line at once.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace', line_buffering=True)
