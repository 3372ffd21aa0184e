"""Shared Key: who may speak.

https://learn.microsoft.com/rest/api/batchservice/authenticate-requests-to-the-azure-batch-service
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import time
from typing import Mapping, Protocol
from urllib.parse import parse_qsl

from ..errors import BatchError
from ..values import moment_of_header

_SIGNED_HEADERS = ('content-encoding', 'content-language', 'content-length', 'content-md5', 'content-type', 'date',
                   'if-modified-since', 'if-match', 'if-none-match', 'if-unmodified-since', 'range')
_CLOCK_TOLERANCE_SECONDS = 15 * 60


class Key(Protocol):
    """Who may speak."""

    def check(self, method: str, raw_path: str, query: str, headers: Mapping[str, str]) -> None:
        """Returns if this request may be made; raises BatchError."""


class SharedKey:
    """Checks the signature of requests for one account.

    Args:
        account_name: The Batch account.
        account_key: Its key, base64.
    """

    def __init__(self, account_name: str, account_key: str) -> None:
        self._account_name = account_name
        self._key = base64.b64decode(account_key, validate=True)

    def check(self, method: str, raw_path: str, query: str, headers: Mapping[str, str]) -> None:
        """Returns if the request carries this account's signature and a current date.

        Args:
            method: The HTTP method in upper case.
            raw_path: The path exactly as sent, percent-encoded.
            query: The query string as sent, without its question mark.
            headers: The request's headers, names in lower case.

        Raises:
            BatchError: AuthenticationFailed or InvalidAuthenticationInfo.
        """
        scheme, _, credentials = headers.get('authorization', '').partition(' ')
        name, _, signature = credentials.strip().partition(':')
        if not scheme:
            raise BatchError('AuthenticationFailed',
                             AuthenticationErrorDetail='The Authorization header is missing.')
        if scheme != 'SharedKey' or not name or not signature:
            raise BatchError('InvalidAuthenticationInfo', HeaderName='Authorization',
                             Reason="Expected the form 'SharedKey <account>:<signature>'")
        if name.lower() != self._account_name.lower():
            raise BatchError('AuthenticationFailed',
                             AuthenticationErrorDetail=f'The account {name!r} is not served here.')
        self._check_date(headers.get('ocp-date') or headers.get('date', ''))
        texts = [_text_to_sign(name, method, raw_path, parameters, headers) for parameters in _readings(query)]
        if not any(hmac.compare_digest(self._sign(text).encode(), signature.encode()) for text in texts):
            raise BatchError('AuthenticationFailed',
                             AuthenticationErrorDetail='The MAC signature found in the HTTP request is not the same '
                                                       f'as any computed signature. Server used: {texts[0]!r}')

    @staticmethod
    def _check_date(text: str) -> None:
        try:
            sent = moment_of_header(text).timestamp()
        except ValueError:
            sent = 0.0
        if abs(time.time() - sent) > _CLOCK_TOLERANCE_SECONDS:
            raise BatchError('AuthenticationFailed', AuthenticationErrorDetail=(
                f'The date of the request, {text!r}, is missing or more than 15 minutes off. Check the clock.'))

    def _sign(self, text: str) -> str:
        return base64.b64encode(hmac.new(self._key, text.encode('utf-8', 'surrogateescape'),
                                         hashlib.sha256).digest()).decode()


def _text_to_sign(account_name: str, method: str, raw_path: str, parameters: Mapping[str, str],
                  headers: Mapping[str, str]) -> str:
    lines = [method]
    for name in _SIGNED_HEADERS:
        lines.append('' if name == 'date' and headers.get('ocp-date') else headers.get(name, ''))
    lines += [f'{name}:{value}' for name, value in sorted(headers.items()) if name.startswith('ocp-') and value]
    lines.append(f'/{account_name}{raw_path}')
    lines += [f'{name}:{value}' for name, value in sorted(parameters.items())]
    return '\n'.join(lines)


def _readings(query: str) -> list[dict[str, str]]:
    """The parameters as the known clients sign them: Python leaves empty values out, JavaScript signs them; names
    are documented in lower case, and signed in the case in which they were sent."""
    readings: list[dict[str, str]] = []
    for with_empty, lower_case in itertools.product((False, True), repeat=2):
        parameters: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=with_empty):
            parameters.setdefault(name.lower() if lower_case else name, value)
        if parameters not in readings:
            readings.append(parameters)
    return readings
