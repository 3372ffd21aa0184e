"""What the page to watch costs: ``python -m tests.benchmarks.page``, on a quiet machine; needs Chromium.

Run by hand; prints a table: bytes and time until the first picture, and the service's processor time for an open page.
"""
from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from azure.batch import models

from common.batch_service.settings import PAGE_TOKEN_VARIABLE

from ..batch_service.page.browser import Browser
from ..batch_service.page.site import TOKEN, Site
from ..batch_service.workbench import ServiceProcess
from .tasks import cpu_seconds

_SECONDS = 10


def main() -> None:
    os.environ[PAGE_TOKEN_VARIABLE] = TOKEN
    print(f'{"tasks":>8}  {"view":<9}  {"loaded":>8}  {"picture":>8}  {"idle":>9}  {"busy":>9}')
    for number in (10, 100_000):
        with tempfile.TemporaryDirectory() as workspace, tempfile.TemporaryDirectory() as profile:
            browser = Browser(Path(profile))
            service = ServiceProcess(Path(workspace))
            try:
                measure(Site(service, browser), number)
            finally:
                service.stop()
                browser.close()


def measure(site: Site, number: int) -> None:
    """Measures both views of a job with so many tasks, of which none runs, and beside it one whose tasks do."""
    site.add_pool('pool', nodes=2, slots=2)
    site.client.job.add(models.JobAddParameter(id='job', pool_info=models.PoolInformation(pool_id='none')))
    site.client.task.add_collection('job', [
        models.TaskAddParameter(id=f'task{index:06}', command_line='true') for index in range(number)], threads=2)
    site.open().close()
    for name, path in (('overview', '/'), ('job', '/jobs/job')):
        tab = site.open()
        loaded, began = tab.bytes_loaded, time.perf_counter()
        tab.go(f'{site.service.url}/page{path}')
        tab.wait_for('document.querySelector("#view h2")')
        picture = time.perf_counter() - began
        loaded = tab.bytes_loaded - loaded
        idle = share(site)
        site.add_job(job_id=f'busy-{name}')
        site.client.task.add_collection(f'busy-{name}', [
            models.TaskAddParameter(id=f'task{index:03}', command_line='sleep 0.2') for index in range(400)])
        with_page = share(site)
        tab.close()
        without = share(site)
        site.client.job.delete(f'busy-{name}')
        print(f'{number:>8,}  {name:<9}  {loaded / 1000:>5.0f} KB  {picture * 1000:>5.0f} ms  {idle:>7.2f} %  '
              f'{with_page - without:>7.2f} %', flush=True)


def share(site: Site) -> float:
    """The service's share of a processor, in percent, over the next seconds."""
    before, began = cpu_seconds(site.service.process.pid), time.perf_counter()
    time.sleep(_SECONDS)
    return (cpu_seconds(site.service.process.pid) - before) / (time.perf_counter() - began) * 100


if __name__ == '__main__':
    main()
