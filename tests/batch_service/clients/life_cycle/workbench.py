"""A pool and a job on a service, and what the life cycle's tests do with them."""

from __future__ import annotations

from typing import Any

from tests.leftovers import eventually

from .client import Client, Document

MACHINE = {
    'imageReference': {'publisher': 'canonical', 'offer': 'ubuntu-24_04-lts', 'sku': 'server'},
    'nodeAgentSKUId': 'batch.node.ubuntu 24.04'}


def pool_document(pool_id: str, *, nodes: int = 1, slots: int = 4, **properties: Any) -> Document:
    return {'id': pool_id, 'vmSize': 'STANDARD_D2S_V5', 'virtualMachineConfiguration': MACHINE,
            'targetDedicatedNodes': nodes, 'taskSlotsPerNode': slots, **properties}


class Workbench:
    """Properties of pools, jobs and tasks are given by their names in the REST API."""

    def __init__(self, client: Client, pool_id: str, job_id: str) -> None:
        self.client = client
        self.pool_id = pool_id
        self.job_id = job_id

    def add_pool(self, *, nodes: int = 1, slots: int = 4, **properties: Any) -> None:
        self.client.add_pool(pool_document(self.pool_id, nodes=nodes, slots=slots, **properties))

    def pool(self) -> Document:
        return self.client.get_pool(self.pool_id)

    def wait_for_nodes(self, *states: str) -> list[Document]:
        """Waits until the pool is steady and its nodes are in these states, in any order."""
        def nodes_are_there() -> bool:
            return (self.pool()['allocationState'] == 'steady' and sorted(states)
                    == sorted(node['state'] for node in self.client.list_nodes(self.pool_id)))
        assert eventually(nodes_are_there), self.client.list_nodes(self.pool_id)
        return self.client.list_nodes(self.pool_id)

    def add_job(self, **properties: Any) -> None:
        self.client.add_job({'id': self.job_id, 'poolInfo': {'poolId': self.pool_id}, **properties})

    def job(self) -> Document:
        return self.client.get_job(self.job_id)

    def wait_for_job(self, state: str) -> Document:
        assert eventually(lambda: self.job()['state'] == state), self.job()
        return self.job()

    def add(self, task_id: str, command_line: str, **properties: Any) -> None:
        self.client.add_task(self.job_id, {'id': task_id, 'commandLine': command_line, **properties})

    def task(self, task_id: str) -> Document:
        return self.client.get_task(self.job_id, task_id)

    def wait_for(self, task_id: str, state: str) -> Document:
        assert eventually(lambda: self.task(task_id)['state'] == state), self.task(task_id)
        return self.task(task_id)

    def run(self, task_id: str, command_line: str, **properties: Any) -> Document:
        """Adds a task and waits for it to be completed."""
        self.add(task_id, command_line, **properties)
        return self.wait_for(task_id, 'completed')

    def output(self, task_id: str, path: str = 'stdout.txt') -> bytes:
        return self.client.get_task_file(self.job_id, task_id, path)

    def task_ids(self, **options: Any) -> list[str]:
        return [task['id'] for task in self.client.list_tasks(self.job_id, **options)]
