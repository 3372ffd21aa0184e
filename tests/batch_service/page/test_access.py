"""Who may see the page: whoever has the address of this run, in a browser, from the page itself; and only to read."""
from __future__ import annotations

import http.server
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from azure.batch import models

from common.batch_service.settings import PAGE_TOKEN_VARIABLE
from tests.batch_service.page.site import TOKEN, Site
from tests.batch_service.workbench import ServiceProcess
from tests.leftovers import eventually

PATHS = ['/page', '/page/', '/page/jobs/job', '/page/about', '/page/changes', '/page/static/main.js', '/page/api/jobs',
         '/page/api/pools/pool/nodes/node/files/x', '/page/anything/else']


class Reader:
    """Somebody with the cookie of the page, or without."""

    def __init__(self, service: ServiceProcess, token: str | None = TOKEN) -> None:
        self._service = service
        self._session = requests.Session()
        self._session.trust_env = False
        if token is not None:
            self.welcome = self.get(f'/page/?token={token}')

    def get(self, path: str, method: str = 'GET', **headers: str) -> requests.Response:
        headers = {name.replace('_', '-'): value for name, value in headers.items()}
        return self._session.request(method, f'{self._service.url}{path}', headers=headers, timeout=40)


@pytest.fixture(scope='module')
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """The service, for all who only read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PAGE_TOKEN_VARIABLE, TOKEN)
        service = ServiceProcess(tmp_path_factory.mktemp('service'))
    yield service
    service.stop()


@pytest.fixture
def own_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceProcess]:
    monkeypatch.setenv(PAGE_TOKEN_VARIABLE, TOKEN)
    service = ServiceProcess(tmp_path)
    yield service
    service.stop()


@pytest.fixture
def reader(service: ServiceProcess) -> Reader:
    return Reader(service)


def test_the_token_gives_a_cookie_to_this_path_alone(service: ServiceProcess, reader: Reader) -> None:
    cookie = reader.welcome.headers['Set-Cookie']

    port = service.url.rpartition(':')[2]
    assert cookie == f'batch-page-{port}={TOKEN}; Path=/page; HttpOnly; SameSite=Strict'
    assert [reader.get(path).status_code for path in PATHS[:3]] == [200, 200, 200]


@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize('token', [None, 'wrong', '', f'{TOKEN}x', 'größe'])
def test_without_the_token_there_is_nothing(service: ServiceProcess, path: str, token: str | None) -> None:
    answer = Reader(service, token).get(path)

    assert answer.status_code == 403
    assert 'Set-Cookie' not in answer.headers and TOKEN not in answer.text
    if '/api/' not in path:
        assert answer.text.startswith('This page is for whoever has its address')


@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize('site', ['cross-site', 'same-site'])
def test_what_another_site_asks_for_is_refused(reader: Reader, path: str, site: str) -> None:
    assert reader.get(path, Sec_Fetch_Site=site).status_code == 403


@pytest.mark.parametrize('path', PATHS)
def test_a_name_that_leads_to_this_machine_is_no_way_in(reader: Reader, path: str) -> None:
    assert reader.get(path, Host='evil.example').status_code in (400, 403)


@pytest.mark.parametrize('method', ['POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])
@pytest.mark.parametrize('path', PATHS)
def test_nothing_is_changed(reader: Reader, path: str, method: str) -> None:
    assert reader.get(path, method).status_code == 405


def test_the_cookie_opens_the_page_and_not_the_api(reader: Reader) -> None:
    assert reader.get('/page/api/jobs').json()['value'] is not None
    assert reader.get('/jobs?api-version=2024-07-01.20.0').status_code == 403


def test_without_a_token_nobody_sees_the_page(tmp_path: Path) -> None:
    service = ServiceProcess(tmp_path)
    try:
        for token in ('', TOKEN):
            assert {Reader(service, token).get(path).status_code for path in PATHS} == {403}
    finally:
        service.stop()


def test_every_answer_forbids_scripts_of_others(reader: Reader) -> None:
    for path in PATHS:
        headers = reader.get(path.replace('/changes', '/changes?after=no')).headers
        expected = 'sandbox' if '/api/' in path else "default-src 'none'; script-src 'self'"
        assert headers['Content-Security-Policy'].startswith(expected)
        assert (headers['X-Content-Type-Options'], headers['Cache-Control']) == ('nosniff', 'no-store')
        assert headers['Cross-Origin-Resource-Policy'] == 'same-origin'


@pytest.mark.parametrize('name', ['../__init__.py', '..%2f__init__.py', 'index.html', 'x', ''])
def test_only_the_files_of_the_page_are_files_of_the_page(reader: Reader, name: str) -> None:
    answer = reader.get(f'/page/static/{name}')

    assert 'import' not in answer.text
    assert answer.status_code == 404 or 'text/html' in answer.headers['Content-Type']


def test_the_next_page_of_a_list_is_had_from_the_page(own_service: ServiceProcess) -> None:
    service, reader = own_service, Reader(own_service)
    with service.client() as client:
        client.job.add(models.JobAddParameter(id='job', pool_info=models.PoolInformation(pool_id='pool')))
        client.task.add_collection('job', [models.TaskAddParameter(id=f'task{number}', command_line='true')
                                           for number in range(3)])
    first = reader.get('/page/api/jobs/job/tasks?maxresults=2&$select=id').json()

    assert first['odata.nextLink'].startswith(f'{service.url}/page/api/jobs/job/tasks?')
    second = reader.get(first['odata.nextLink'].removeprefix(service.url)).json()
    assert [task['id'] for task in first['value'] + second['value']] == ['task0', 'task1', 'task2']


def test_a_change_is_waited_for(own_service: ServiceProcess) -> None:
    service, reader = own_service, Reader(own_service)
    number = reader.get('/page/changes').json()['number']
    answers: list[requests.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(reader.get(f'/page/changes?after={number}')))
    waiting.start()
    time.sleep(0.3)
    assert answers == []

    with service.client() as client:
        client.job.add(models.JobAddParameter(id='job', pool_info=models.PoolInformation(pool_id='pool')))
    waiting.join(10)
    assert answers[0].json()['number'] != number


def test_a_page_that_waits_does_not_keep_the_service_from_ending(own_service: ServiceProcess) -> None:
    service, reader = own_service, Reader(own_service)
    number = reader.get('/page/changes').json()['number']
    answers: list[int] = []
    waiting = threading.Thread(
        target=lambda: answers.append(reader.get(f'/page/changes?after={number}').status_code))
    waiting.start()
    time.sleep(0.3)

    began = time.monotonic()
    assert service.stop() == 0
    waiting.join(10)
    assert answers == [503] and time.monotonic() - began < 5


def test_a_file_of_a_task_that_is_a_web_page_cannot_be_opened_as_one_of_ours(site: Site) -> None:
    site.add_pool()
    site.add_job("/bin/bash -c 'echo \"<script>document.title = 1</script>\" > page.html'")
    site.wait_for_tasks()

    answer = Reader(site.service).get('/page/api/jobs/job/tasks/task0/files/wd/page.html')
    assert answer.headers['Content-Type'].startswith('text/html') and '<script>' in answer.text
    assert answer.headers['Content-Disposition'] == 'attachment'
    assert answer.headers['Content-Security-Policy'] == 'sandbox'


def test_a_task_finds_no_token(start_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> None:
    token = secrets.token_hex()
    monkeypatch.setenv(PAGE_TOKEN_VARIABLE, token)
    site = start_site()
    site.add_pool()
    site.add_job(f"/bin/bash -c 'env; echo; grep -alF {PAGE_TOKEN_VARIABLE}={token} /proc/[0-9]*/environ || true'")
    site.wait_for_tasks()

    output = b''.join(site.client.file.get_from_task('job', 'task0', 'stdout.txt')).decode()
    own, _, found = output.partition('\n\n')
    assert 'AZ_BATCH_TASK_ID' in own and token not in own
    # From root nothing is hidden, not even the service's own environment.
    assert set(found.split()) <= ({f'/proc/{site.service.process.pid}/environ'} if os.geteuid() == 0 else set())


def test_another_site_in_the_same_browser_reads_nothing(site: Site, tmp_path: Path,
                                                        serve: Callable[[Path], str]) -> None:
    tab = site.open()
    (tmp_path / 'evil').mkdir()
    (tmp_path / 'evil' / 'index.html').write_text(f'''<!doctype html><title>evil</title>
        <iframe src="{site.service.url}/page/"></iframe>
        <script src="{site.service.url}/page/static/main.js"></script>''')
    evil = site.browser.open(serve(tmp_path / 'evil'), beside=tab)

    for mode in ('cors', 'no-cors'):
        assert evil.run(f'''fetch("{site.service.url}/page/api/jobs", {{credentials: "include", mode: "{mode}"}})
            .then((answer) => answer.text()).then((text) => text.includes("value"), () => false)''') is False
    assert evil.run('(() => { try { return frames[0].document.title; } catch { return ""; } })()') == ''
    assert eventually(lambda: len(evil.errors) >= 3)


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """Serves a directory on a port of its own."""
    servers: list[http.server.ThreadingHTTPServer] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    def start(directory: Path) -> str:
        servers.append(http.server.ThreadingHTTPServer(
            ('127.0.0.1', 0), lambda *arguments: Handler(*arguments, directory=str(directory))))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f'http://127.0.0.1:{servers[-1].server_port}/'

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
