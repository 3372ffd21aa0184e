"""The service, its page in a browser, and what is on it."""
from __future__ import annotations

from azure.batch import BatchServiceClient, models

from tests.batch_service.page.browser import Browser, Tab
from tests.batch_service.workbench import ServiceProcess
from tests.leftovers import eventually

TOKEN = 'token-of-the-tests'


class Site:
    """The service, its page in a browser, and what is on it."""

    def __init__(self, service: ServiceProcess, browser: Browser) -> None:
        self.service = service
        self.browser = browser
        self.client: BatchServiceClient = service.client()
        self.address = f'{service.url}/page/?token={TOKEN}'

    def open(self, path: str = '/', **options) -> Tab:
        """Opens a view as somebody who has the address with the token."""
        tab = self.browser.open(self.address, **options)
        tab.wait_for('document.querySelector("#view h2, #view .empty")')
        if path != '/':
            tab.go(f'{self.service.url}/page{path}')
            tab.wait_for('document.querySelector("#view h1, #view .empty")')
        return tab

    def add_pool(self, pool_id: str = 'pool', nodes: int = 1, slots: int = 1,
                 start_task: models.StartTask | None = None, **settings) -> list[str]:
        """Adds a pool; returns the ids of its nodes when they are there and no start task runs any more."""
        self.client.pool.add(models.PoolAddParameter(
            id=pool_id, vm_size='STANDARD_D2S_V5', target_dedicated_nodes=nodes, task_slots_per_node=slots,
            start_task=start_task, virtual_machine_configuration=models.VirtualMachineConfiguration(
                image_reference=models.ImageReference(publisher='canonical', offer='ubuntu-24_04-lts', sku='server'),
                node_agent_sku_id='batch.node.ubuntu 24.04'), **settings))
        assert eventually(lambda: self._settled(pool_id) == nodes, 60)
        return [node.id for node in self.client.compute_node.list(pool_id)]

    def _settled(self, pool_id: str) -> int:
        for pool in self.client.account.list_pool_node_counts():
            if pool.pool_id == pool_id and pool.dedicated:
                return pool.dedicated.idle + pool.dedicated.start_task_failed
        return 0

    def add_job(self, *lines: str, job_id: str = 'job', pool_id: str = 'pool', **settings) -> None:
        """Adds a job with a task for each command line: task0, task1 and so on."""
        self.client.job.add(models.JobAddParameter(
            id=job_id, pool_info=models.PoolInformation(pool_id=pool_id), **settings))
        if lines:
            self.client.task.add_collection(job_id, [
                models.TaskAddParameter(id=f'task{number}', command_line=line) for number, line in enumerate(lines)])

    def wait_for_tasks(self, job_id: str = 'job') -> None:
        assert eventually(lambda: all(task.state == 'completed' for task in self.client.task.list(job_id)), 60)
