"""What must never be shown: account keys, signatures and tokens; and the SDKs' logs without them."""
from __future__ import annotations

import logging
import re
from urllib.parse import quote

_LOGGERS = ('azure', 'msrest', 'urllib3')
_KEPT: set[str] = set()

# Of each match, the named group stays. A signature is the base64 of 32 bytes, an account key of 64.
_SECRETS = re.compile(r'''
    (?<![a-z])(?P<sas>sig(?:=|%3D))[^&\s'"<>]+
  | \b(?P<scheme>SharedKey(?:Lite)?\s+[\w-]+:|Bearer\s+)[\w.~+/=%-]+
  | \beyJ[\w-]+\.[\w-]+\.[\w-]*
  | (?<![\w+/])(?:[A-Za-z0-9+/]{43}=|[A-Za-z0-9+/]{86}==)(?![\w+/=])
''', re.IGNORECASE | re.VERBOSE)


def keep_secret(*values: str) -> None:
    """Has without_secrets() blot out these values too, wherever they are. Empty ones do not count."""
    for value in filter(None, values):
        _KEPT.update((value, quote(value, safe='')))


def without_secrets(text: str) -> str:
    """Returns the text with every account key, signature and token in it blotted out."""
    for value in _KEPT:
        text = text.replace(value, '...')
    return _SECRETS.sub(lambda found: (found['sas'] or found['scheme'] or '') + '...', text)


def log_sdk_calls(shown: bool) -> None:
    """Shows on standard error, or hides, what the SDKs log of their calls. Without this, warnings alone show."""
    handler = logging.StreamHandler() if shown else logging.NullHandler()
    handler.setFormatter(_WithoutSecrets('%(asctime)s %(name)s %(levelname)s %(message)s'))
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG if shown else logging.NOTSET)


class _WithoutSecrets(logging.Formatter):
    """Works on the finished text, in which arguments and tracebacks have come together."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))
