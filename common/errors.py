"""What becomes of an error that a reader may meet: one clear line, never a traceback, never a secret."""
from __future__ import annotations

import functools
import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from azure.batch.custom.custom_errors import CreateTasksErrorException
from azure.batch.models import BatchErrorException
from azure.core.exceptions import AzureError
from msrest.exceptions import ClientException

from common.helpers import ImageNotFoundError, print_batch_exception, without_signatures

# The Batch SDK's own, the Storage SDK's, the operating system's, and all that this project raises.
_FORESEEABLE = (ClientException, AzureError, OSError, ImageNotFoundError, RuntimeError)


def errors_end_the_run(main: Callable[[], int]) -> Callable[[], int]:
    """Decorates a main function: foreseeable errors are shown to the reader and become its exit code.

    That is 1 for an error, 130 for Ctrl-C and 143 for SIGTERM, which unwinds the program like Ctrl-C does.
    """
    @functools.wraps(main)
    def guarded() -> int:
        _make_output_robust()
        try:
            with _sigterm_unwinds():
                return main()
        except (BatchErrorException, CreateTasksErrorException) as error:
            print_batch_exception(error)
        except _FORESEEABLE as error:
            _print_error(one_line(error))
        except KeyboardInterrupt:
            _print_error('Interrupted.')
            return 128 + signal.SIGINT
        return 1
    return guarded


def one_line(error: BaseException) -> str:
    """Returns the first line of what the error says, without signatures."""
    # Not str() first: the Batch SDK's fails on an answer that is not JSON.
    text = str(getattr(error, 'message', None) or error).strip()
    return without_signatures(text.splitlines()[0]) if text else type(error).__name__


def _print_error(text: str) -> None:
    sys.stdout.flush()
    print(text if text.startswith('ERROR: ') else f'ERROR: {text}', file=sys.stderr)


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
