"""Takes the pictures of the page that the README shows: ``python -m tests.batch_service.page.pictures``."""
from __future__ import annotations

import os
import tempfile
from pathlib import Path

from common.batch_service import page
from common.batch_service.settings import PAGE_TOKEN_VARIABLE
from tests.batch_service.page.browser import Browser
from tests.batch_service.page.site import TOKEN, Site
from tests.batch_service.workbench import ServiceProcess

PICTURES = Path(page.__file__).with_name('pictures')
# Six tasks, and four slots: two tasks have to wait. The SDK adds the last ones first.
SECONDS = (9.0, 9.0, 5.6, 3.6, 5.0, 4.2)


def main() -> None:
    os.environ[PAGE_TOKEN_VARIABLE] = TOKEN
    with tempfile.TemporaryDirectory() as workspace, tempfile.TemporaryDirectory() as profile:
        browser = Browser(Path(profile))
        service = ServiceProcess(Path(workspace))
        try:
            site = Site(service, browser)
            site.add_pool('PythonTutorialPool', nodes=2, slots=2)
            site.add_job(*(f'sleep {seconds}' for seconds in SECONDS), job_id='PythonTutorialJob',
                         pool_id='PythonTutorialPool')
            tabs = {name: site.open('/jobs/PythonTutorialJob', width=1100, height=740, dark=name == 'dark')
                    for name in ('light', 'dark')}
            for name, tab in tabs.items():
                tab.wait_for_text('4 succeeded')
                tab.screenshot(PICTURES / f'{name}.png')
        finally:
            service.stop()
            browser.close()


if __name__ == '__main__':
    main()
