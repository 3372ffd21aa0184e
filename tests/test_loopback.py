"""Around the proxies to this machine, and only there."""
from __future__ import annotations

import os

import pytest

from common.loopback import is_loopback, without_proxies


@pytest.mark.parametrize(('lower', 'upper', 'within'), [
    (None, None, '127.0.0.1,localhost'),
    ('a.example', None, 'a.example,127.0.0.1,localhost'),
    (None, 'b.example', 'b.example,127.0.0.1,localhost'),
    # Python, curl and others let the lower case win.
    ('a.example', 'b.example', 'a.example,127.0.0.1,localhost'),
    ('*', None, '*'),
])
def test_loopback_is_added_to_what_goes_around_the_proxies(
        monkeypatch: pytest.MonkeyPatch, lower: str | None, upper: str | None, within: str) -> None:
    for name, value in (('no_proxy', lower), ('NO_PROXY', upper)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    before = dict(os.environ)

    with without_proxies():
        assert os.environ['no_proxy'] == os.environ['NO_PROXY'] == within

    assert dict(os.environ) == before


@pytest.mark.parametrize(('url', 'is_local'), [
    ('http://127.0.0.1:1234/name', True), ('https://localhost', True), ('https://name.blob.core.windows.net', False)])
def test_loopback_is_told_by_its_host(url: str, is_local: bool) -> None:
    assert is_loopback(url) is is_local
