"""A real Batch service in a process of its own, and real SDK clients that talk to it."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from azure.batch import BatchServiceClient, models
from azure.batch.batch_auth import SharedKeyAuth

from .workbench import ACCOUNT, ServiceProcess, Workbench


@pytest.fixture(scope='session')
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """One service for all tests that leave it running."""
    service = ServiceProcess(tmp_path_factory.mktemp('service'))
    yield service
    assert service.stop() == 0


@pytest.fixture
def batch(shared_service: ServiceProcess) -> BatchServiceClient:
    """The SDK's client on the shared service."""
    return shared_service.client()


@pytest.fixture
def own_service(tmp_path: Path) -> Iterator[ServiceProcess]:
    """A service for one test, which may stop it, kill it and start it again."""
    service = ServiceProcess(tmp_path)
    yield service
    service.stop()


@pytest.fixture
def new_id() -> Callable[[str], str]:
    """Makes an id that no other test uses."""
    return lambda prefix: f'{prefix}-{secrets.token_hex(4)}'


@pytest.fixture
def empty_bench(batch: BatchServiceClient, new_id: Callable[[str], str]) -> Iterator[Workbench]:
    """A workbench whose pool and job the test adds itself; both are deleted afterwards."""
    bench = Workbench(batch, new_id('pool'), new_id('job'))
    yield bench
    for remove, id in ((batch.job.delete, bench.job_id), (batch.pool.delete, bench.pool_id)):
        try:
            remove(id)
        except models.BatchErrorException as error:
            assert error.error.code in ('JobNotFound', 'PoolNotFound', 'JobBeingDeleted', 'PoolBeingDeleted')


@pytest.fixture
def bench(empty_bench: Workbench) -> Workbench:
    """A workbench with a pool of one node with four slots, and a job."""
    empty_bench.add_pool()
    empty_bench.add_job()
    return empty_bench


@pytest.fixture
def send(shared_service: ServiceProcess) -> Callable[..., requests.Response]:
    """Sends a signed request that no SDK would send, and returns the answer."""
    auth = SharedKeyAuth('Authorization', ACCOUNT, shared_service.key_file.read_text())

    def send(method: str, path: str, **options: object) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            headers = {**({'Content-Type': 'application/json'} if options.get('data') else {}),
                       **options.pop('headers', {})}
            return session.request(method, shared_service.url + path, auth=auth, timeout=10, headers=headers, **options)
    return send


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests' output is not the place."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An HTTP server: its URL and the directory whose files it serves."""
    root = tmp_path / 'web'
    root.mkdir()
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(_QuietHandler, directory=str(root))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f'http://127.0.0.1:{server.server_port}', root
        server.shutdown()
        thread.join()
