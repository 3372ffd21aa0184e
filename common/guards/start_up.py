"""Against a traceback before the program has begun: a package that is not installed, Ctrl-C while packages load.

Importing this module has what nobody catches end the program in one line, but a mistake of the program itself with
its traceback; no secret is in either. It needs nothing but Python, so that it works where everything else is missing.
"""
from __future__ import annotations

import sys
import traceback
from types import TracebackType

from common.redaction import without_secrets

_INSTALL = 'python3 -m venv .venv && .venv/bin/python -m pip install --quiet -r requirements.txt'


def _print_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition('.')[0] != 'common':
        print(f'ERROR: The Python package of module {error.name} is not installed: run "{_INSTALL}" in the directory '
              'of the tutorial, and then .venv/bin/python python_tutorial_client.py.', file=sys.stderr)
    elif isinstance(error, KeyboardInterrupt):
        print('ERROR: Interrupted.', file=sys.stderr)
    else:
        print(without_secrets(''.join(traceback.format_exception(kind, error, trace))), end='', file=sys.stderr)


sys.excepthook = _print_uncaught
