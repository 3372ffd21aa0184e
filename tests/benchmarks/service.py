"""Measures the local Batch service and prints a table: ``python -m tests.benchmarks.service``, on a quiet machine.

A request is compared with one to moto, which stands in for AWS: if there is its ``moto_server`` (pip install
"moto[server,batch]").
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from azure.batch.batch_auth import SharedKeyAuth

from ..batch_service.workbench import ACCOUNT, ServiceProcess

VERSION = 'api-version=2024-07-01.20.0'


class Client:
    """Sends requests over one connection."""

    def __init__(self, service: ServiceProcess) -> None:
        self.service = service
        self.session = requests.Session()
        self.session.trust_env = False
        self.auth = SharedKeyAuth('Authorization', ACCOUNT, service.key_file.read_text())

    def send(self, method: str, path: str, body: Any = None, query: str = '') -> requests.Response:
        return self.session.request(method, f'{self.service.url}{path}?{VERSION}{query}', json=body, auth=self.auth)

    def add_pool(self, pool_id: str, nodes: int, slots: int = 4) -> None:
        answer = self.send('POST', '/pools', {
            'id': pool_id, 'vmSize': 'STANDARD_D2S_V5', 'targetDedicatedNodes': nodes, 'taskSlotsPerNode': slots,
            'virtualMachineConfiguration': {
                'imageReference': {'publisher': 'canonical', 'offer': 'ubuntu-24_04-lts', 'sku': 'server'},
                'nodeAgentSKUId': 'batch.node.ubuntu 24.04'}})
        assert answer.status_code == 201, answer.text

    def add_job(self, job_id: str, pool_id: str, tasks: int, line: str) -> None:
        assert self.send('POST', '/jobs', {'id': job_id, 'poolInfo': {'poolId': pool_id}}).status_code == 201
        self.add_tasks(job_id, tasks, line)

    def add_tasks(self, job_id: str, tasks: int, line: str) -> None:
        for first in range(0, tasks, 100):
            answer = self.send('POST', f'/jobs/{job_id}/addtaskcollection', {'value': [
                {'id': f'task{number}', 'commandLine': line} for number in range(first, min(tasks, first + 100))]})
            assert answer.status_code == 200, answer.text

    def counts(self, job_id: str) -> dict[str, int]:
        return self.send('GET', f'/jobs/{job_id}/taskcounts').json()['taskCounts']

    def idle_nodes(self, pool_id: str) -> int:
        counts = self.send('GET', '/nodecounts', query=f"&$filter=poolId eq '{pool_id}'").json()['value']
        return counts[0]['dedicated']['idle'] if counts else 0


def until(condition: Callable[[], object]) -> float:
    """Returns how long it took until the condition held, in seconds."""
    began = time.perf_counter()
    while not condition():
        time.sleep(0.05)
    return time.perf_counter() - began


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


@contextmanager
def trivial_requests(service: ServiceProcess) -> Iterator[list[float]]:
    """How long a trivial request takes, in milliseconds, again and again while the block runs."""
    client, took, stop = Client(service), [], threading.Event()

    def ask() -> None:
        while not stop.wait(0.002):
            began = time.perf_counter()
            client.send('HEAD', '/pools/none')
            took.append((time.perf_counter() - began) * 1000)
    thread = threading.Thread(target=ask)
    thread.start()
    yield took
    stop.set()
    thread.join()


def row(what: str, value: str, wanted: str) -> None:
    print(f'{what:<70} {value:>14}   {wanted}', flush=True)


def row_of_requests(what: str, took: list[float]) -> None:
    row(f'a trivial request while {what}, 99th percentile of {len(took)}', f'{percentile(took, 0.99):.0f} ms', '50 ms')


def requests_of(send: Callable[[], object]) -> str:
    """The median and the 99th percentile of a request, one after another over one connection."""
    took = []
    for _ in range(1_000):
        began = time.perf_counter()
        send()
        took.append((time.perf_counter() - began) * 1000)
    return f'{percentile(took, 0.5):.2f}, {percentile(took, 0.99):.2f} ms'


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(('127.0.0.1', port)) == 0


def measure_moto() -> None:
    if not (server := shutil.which('moto_server')):
        return
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen([server, '-p', str(port)], stderr=subprocess.DEVNULL) as moto, requests.Session() as session:
        session.trust_env = False
        session.headers['Authorization'] = ('AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/batch/aws4_request, '
                                            'SignedHeaders=host, Signature=a')
        until(lambda: is_listening(port))
        row('a list of queues from moto, median and 99th percentile', requests_of(
            lambda: session.post(f'http://127.0.0.1:{port}/v1/describejobqueues', '{}').raise_for_status()), '')
        moto.terminate()


def measure(service: ServiceProcess) -> None:
    client = Client(service)
    row('a list of pools, median and 99th percentile', requests_of(
        lambda: client.send('GET', '/pools').raise_for_status()), '1, 2 ms')
    measure_moto()
    with trivial_requests(service) as took:
        client.add_pool('big', 1_000, slots=1)
        seconds = until(lambda: client.idle_nodes('big') == 1_000)
    row('1,000 nodes idle', f'{seconds:.1f} s', '10 s')
    row_of_requests('they boot', took)
    with trivial_requests(service) as took:
        client.add_job('many', 'big', 1_000, 'sleep 1')
        until(lambda: client.counts('many')['completed'] == 1_000)
    row_of_requests('1,000 tasks start on 1,000 nodes', took)
    with trivial_requests(service) as took:
        client.send('DELETE', '/pools/big')
        seconds = until(lambda: client.send('HEAD', '/pools/big').status_code == 404)
    row('the pool of 1,000 nodes deleted', f'{seconds:.1f} s', '')
    row_of_requests('it is', took)

    client.add_pool('hundred', 100)
    client.add_job('large', 'hundred', 10_000, 'sleep 600')
    until(lambda: client.counts('large')['running'] == 400)
    with trivial_requests(service) as took:
        client.send('DELETE', '/jobs/large')
        seconds = until(lambda: client.send('GET', '/jobs/large').status_code == 404)
    row('a job of 10,000 tasks on 100 nodes deleted', f'{seconds:.1f} s', '')
    row_of_requests('it is', took)

    began = time.perf_counter()
    for number in range(1_000):
        client.add_pool(f'empty{number}', 0)
    row('1,000 pools without nodes added', f'{time.perf_counter() - began:.1f} s', '5 s')

    client.add_job('huge', 'none', 100_000, 'true')
    took = []
    for _ in range(200):
        began = time.perf_counter()
        client.counts('huge')
        took.append((time.perf_counter() - began) * 1000)
    row('counts at 100,000 tasks, median', f'{percentile(took, 0.5):.1f} ms', '5 ms')


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as directory:
        the_service = ServiceProcess(Path(directory))
        try:
            measure(the_service)
        finally:
            the_service.stop()
