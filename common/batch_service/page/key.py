"""Who may see the page: a browser that was given the token of this run, from the page itself."""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from typing import Mapping
from urllib.parse import urlsplit

from ..errors import BatchError


class PageKey:
    """Checks the cookie that a browser got for the token.

    Args:
        token: The token of this run; empty: nobody has it.
        url: The address of the service. Cookies are for all ports of a host: the name tells them apart.
    """

    def __init__(self, token: str, url: str) -> None:
        self._token = token
        address = urlsplit(url)
        self._name = f'batch-page-{address.port}'
        self._secure = '; Secure' if address.scheme == 'https' else ''

    def is_token(self, text: str) -> bool:
        return bool(self._token) and hmac.compare_digest(text.encode(), self._token.encode())

    def cookie(self, path: str) -> str:
        """The Set-Cookie header, for a path and what is below it."""
        return f'{self._name}={self._token}; Path={path}; HttpOnly; SameSite=Strict{self._secure}'

    def check(self, method: str, raw_path: str, query: str, headers: Mapping[str, str]) -> None:
        """Returns if the request reads, carries the cookie, and comes from no other site.

        Raises:
            BatchError: AuthenticationFailed or UnsupportedHttpVerb.
        """
        if method not in ('GET', 'HEAD'):
            raise BatchError('UnsupportedHttpVerb')
        # https://www.w3.org/TR/fetch-metadata: another port of this machine is another origin of the same site.
        if headers.get('sec-fetch-site', 'none') not in ('same-origin', 'none'):
            raise BatchError('AuthenticationFailed', AuthenticationErrorDetail='The request comes from another site.')
        try:
            cookie = SimpleCookie(headers.get('cookie', '')).get(self._name)
        except CookieError:
            cookie = None
        if cookie is None or not self.is_token(cookie.value):
            raise BatchError('AuthenticationFailed', AuthenticationErrorDetail='The cookie of the page is missing.')
