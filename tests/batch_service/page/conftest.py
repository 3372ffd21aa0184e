"""A service with its page, and a browser to look at it with."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.batch_service.settings import PAGE_TOKEN_VARIABLE
from tests.batch_service.page.browser import Browser, find_chromium
from tests.batch_service.page.site import TOKEN, Site
from tests.batch_service.workbench import ServiceProcess


@pytest.fixture(scope='session')
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if find_chromium() is None:
        reason = 'There is no Chromium: on Debian, apt-get install chromium-headless-shell'
        pytest.fail(reason) if os.environ.get('CI') else pytest.skip(reason)
    browser = Browser(tmp_path_factory.mktemp('chromium'))
    yield browser
    browser.close()


@pytest.fixture
def start_site(chromium: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Site]]:
    """Starts the service with options."""
    monkeypatch.setenv(PAGE_TOKEN_VARIABLE, TOKEN)
    sites: list[Site] = []

    def start(*options: str) -> Site:
        sites.append(Site(ServiceProcess(tmp_path, *options), chromium))
        return sites[-1]

    yield start
    chromium.close_tabs()
    for site in sites:
        site.client.close()
        site.service.stop()


@pytest.fixture
def site(start_site: Callable[..., Site]) -> Site:
    return start_site()
