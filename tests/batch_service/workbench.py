"""What the tests of the service work with: the service as a process, and a pool and a job on it."""

from __future__ import annotations

import base64
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from azure.batch import BatchServiceClient, models
from azure.batch.batch_auth import SharedKeyCredentials

PROJECT = Path(__file__).resolve().parents[2]
ACCOUNT = 'localbatch'


class ServiceProcess:
    """``python -m common.batch_service`` on a workspace; can be stopped, killed and started again."""

    prefix: list[str] = []

    def __init__(self, workspace: Path, *options: str, stderr: IO[str] | None = None) -> None:
        self.workspace = workspace
        self.options = options
        self.stderr = stderr
        self.key_file = workspace / 'batch.key'
        if not self.key_file.exists():
            self.key_file.write_text(base64.b64encode(secrets.token_bytes(64)).decode())
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [*self.prefix, sys.executable, '-m', 'common.batch_service', '--workspace', str(self.workspace),
             '--account', ACCOUNT, '--key-file', str(self.key_file), '--exit-with-stdin', *self.options],
            cwd=PROJECT, env={**os.environ, 'AZURE_BATCH_ACCESS_KEY': 'secret-of-the-caller'},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr, text=True)
        self.url = self.process.stdout.readline().rpartition(' ')[2].strip()
        assert self.url, 'The service did not start'

    def stop(self) -> int:
        """Closes its standard input, as the end of its parent would; returns its exit code. Twice is fine."""
        self.process.stdin.close()
        code = self.process.wait(timeout=20)
        self.process.stdout.close()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def client(self) -> BatchServiceClient:
        client = BatchServiceClient(SharedKeyCredentials(ACCOUNT, self.key_file.read_text()), batch_url=self.url)
        client.config.retry_policy.retries = 0
        return client


class Workbench:
    """A pool and a job on a service, and what tests do with them."""

    def __init__(self, client: BatchServiceClient, pool_id: str, job_id: str) -> None:
        self.client = client
        self.pool_id = pool_id
        self.job_id = job_id

    def add_pool(self, *, nodes: int = 1, slots: int = 4, start_task: models.StartTask | None = None) -> None:
        self.client.pool.add(models.PoolAddParameter(
            id=self.pool_id, vm_size='STANDARD_D2S_V5', target_dedicated_nodes=nodes, task_slots_per_node=slots,
            virtual_machine_configuration=models.VirtualMachineConfiguration(
                image_reference=models.ImageReference(publisher='canonical', offer='ubuntu-24_04-lts', sku='server'),
                node_agent_sku_id='batch.node.ubuntu 24.04'),
            start_task=start_task))

    def add_job(self, **properties: object) -> None:
        self.client.job.add(models.JobAddParameter(
            id=self.job_id, pool_info=models.PoolInformation(pool_id=self.pool_id), **properties))

    def add(self, task_id: str, command_line: str, **properties: object) -> None:
        self.client.task.add(self.job_id, models.TaskAddParameter(
            id=task_id, command_line=command_line, **properties))

    def task(self, task_id: str) -> models.CloudTask:
        return self.client.task.get(self.job_id, task_id)

    def completed(self, *task_ids: str) -> models.CloudTask:
        """Waits for tasks to be completed; returns the last of them."""
        for task_id in task_ids:
            wait_until(lambda: self.task(task_id).state == models.TaskState.completed)
        return self.task(task_ids[-1])

    def run(self, task_id: str, command_line: str, **properties: object) -> models.CloudTask:
        """Adds a task and waits for it to be completed."""
        self.add(task_id, command_line, **properties)
        return self.completed(task_id)

    def output(self, task_id: str, name: str = 'stdout.txt') -> str:
        return b''.join(self.client.file.get_from_task(self.job_id, task_id, name)).decode()

    def nodes(self) -> list[models.ComputeNode]:
        return list(self.client.compute_node.list(self.pool_id))

    def wait_for_nodes(self, *states: str) -> list[models.ComputeNode]:
        """Waits until the nodes are in these states, in any order."""
        wait_until(lambda: sorted(node.state.value for node in self.nodes()) == sorted(states))
        return self.nodes()


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Returns when the condition holds, and fails the test when it does not within the time."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, 'It did not come about in time'
        pause.wait(0.01)
