"""How to talk to a service on this machine: around the proxies, and without long waits."""
from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

_HOSTS = ('127.0.0.1', 'localhost')


def is_loopback(url: str) -> bool:
    """Says whether the URL names this machine."""
    return urlsplit(url).hostname in _HOSTS


@contextmanager
def without_proxies() -> Iterator[None]:
    """Keeps loopback calls, and only those, away from the proxies that the environment names."""
    before = {name: os.environ.get(name) for name in ('no_proxy', 'NO_PROXY')}
    exceptions = before['no_proxy'] or before['NO_PROXY']
    # A star, no proxy for anything, is one only when it stands alone.
    hosts = '*' if exceptions == '*' else ','.join(filter(None, (exceptions, *_HOSTS)))
    os.environ.update(dict.fromkeys(before, hosts))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
