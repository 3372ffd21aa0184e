"""What becomes of an error that a reader may meet: one clear line, never a traceback, never a secret."""
from __future__ import annotations

import functools
import io
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from azure.batch.custom.custom_errors import CreateTasksErrorException
from azure.batch.models import BatchErrorException
from azure.core.exceptions import AzureError
from msrest.exceptions import ClientException

from common.helpers import ImageNotFoundError, print_batch_exception
from common.redaction import without_secrets
from common.sdk_errors import one_line, settings_advice

__all__ = ['errors_end_the_run', 'one_line']

# The Batch SDK's own, the Storage SDK's, the operating system's, and all that this project raises.
FORESEEABLE = (ClientException, AzureError, OSError, ImageNotFoundError, RuntimeError)


def errors_end_the_run(main: Callable[[], int]) -> Callable[[], int]:
    """Decorates a main function: foreseeable errors are shown to the reader and become its exit code.

    That is 1 for an error, 130 for Ctrl-C and 143 for SIGTERM, which unwinds the program like Ctrl-C does. All
    other errors are mistakes of the program, and end it with a traceback without secrets.
    """
    @functools.wraps(main)
    def guarded() -> int:
        _make_output_robust()
        sys.excepthook = _print_traceback
        try:
            with _sigterm_unwinds():
                return main()
        except (BatchErrorException, CreateTasksErrorException) as error:
            if advice := settings_advice(error):
                _print_error(without_secrets(advice))
            else:
                print_batch_exception(error)
        except RuntimeError as error:
            # What this project raises is written for the reader, some of it in several lines.
            _print_error(without_secrets(str(error)) or one_line(error))
        except FORESEEABLE as error:
            _print_error(one_line(error))
        except KeyboardInterrupt:
            _print_error('Interrupted.')
            return 128 + signal.SIGINT
        except SystemExit as error:
            if error.code == 128 + signal.SIGTERM:
                _print_error('Terminated.')
            raise
        return 1
    return guarded


def _print_error(text: str) -> None:
    sys.stdout.flush()
    print(text if text.startswith('ERROR: ') else f'ERROR: {text}', file=sys.stderr)


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stdout.flush()
    print(without_secrets(''.join(traceback.format_exception(kind, error, trace))), end='', file=sys.stderr)


def _make_output_robust() -> None:
    # A file name may have letters that the terminal has not; a log should show each line at once.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace', line_buffering=True)


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
