"""The whole tutorial as a reader runs it: the client in a process of its own, real Azurite, real Batch service."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from azure.batch import BatchServiceClient
from azure.batch.batch_auth import SharedKeyCredentials
from azure.storage.blob import BlobServiceClient

from common import local_azure
from common.batch_service.settings import Settings
from common.local_azure import LocalAzure
from tests.leftovers import eventually
from tests.stand_in import make_certificate

PROJECT = Path(__file__).resolve().parent.parent
CLIENT = PROJECT / 'python_tutorial_client.py'
DATA = sorted((PROJECT / 'data').glob('taskdata?.txt'))

TRANSCRIPT = r'''No account is set, so this runs on this machine, with its state in .*
Sample start: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d

Uploading file .*/python_tutorial_task\.py to container \[application\]\.\.\.
Uploading file .*/data/taskdata1\.txt to container \[input\]\.\.\.
Uploading file .*/data/taskdata2\.txt to container \[input\]\.\.\.
Uploading file .*/data/taskdata3\.txt to container \[input\]\.\.\.
Creating pool \[PythonTutorialPool\]\.\.\.
Creating job \[PythonTutorialJob\]\.\.\.
Adding 3 tasks to job \[PythonTutorialJob\]\.\.\.
Monitoring all tasks for 'Completed' state, timeout in 0:20:00\.{4,}
  Success! All tasks reached the 'Completed' state within the specified timeout period\.
Downloading all files from container \[output\]\.\.\.
  Downloaded blob \[taskdata1_OUTPUT\.txt\] from container \[output\] to {home}/taskdata1_OUTPUT\.txt
  Downloaded blob \[taskdata2_OUTPUT\.txt\] from container \[output\] to {home}/taskdata2_OUTPUT\.txt
  Downloaded blob \[taskdata3_OUTPUT\.txt\] from container \[output\] to {home}/taskdata3_OUTPUT\.txt
  Download complete!

(?:  taskdata\d_OUTPUT\.txt(?: {2,}\S+ \d+){3}
){3}
Deleting containers\.\.\.

Sample end: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d
Elapsed time: 0:\d\d:\d\d

Delete job\? \[Y/n\] yes
Delete pool\? \[Y/n\] yes

Press ENTER to exit\.\.\.
'''


@pytest.fixture
def run_client(azurite_install: Path, home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the client to its end from a directory that is not its own, with no terminal."""
    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(CLIENT), *map(str, arguments)], cwd=home.parent, timeout=100,
                              env={**os.environ, **environment}, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True)
    return run


def words_of(text: str) -> Counter[str]:
    """Counts words in the plainest way; enough for texts whose punctuation is ASCII."""
    return Counter(word for token in text.split() if (word := token.strip('.,;:!?"\'()-').casefold()))


def test_plain_run_is_the_transcript_of_the_design(run_client, home, processes) -> None:
    run = run_client()
    assert run.stderr == ''
    assert run.returncode == 0
    assert re.fullmatch(TRANSCRIPT.replace('{home}', re.escape(str(home))), run.stdout), run.stdout
    assert processes() == {}


def test_outputs_hold_the_most_frequent_words(run_client, home) -> None:
    assert run_client('--yes').returncode == 0
    for file in DATA:
        counts = words_of(file.read_text(encoding='utf-8'))
        best = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:3]
        *lines, _, node, task, job, pool = (home / f'{file.stem}_OUTPUT.txt').read_text(encoding='utf-8').splitlines()
        assert [line.split() for line in lines] == [[word, str(count)] for word, count in best]
        assert re.fullmatch(r'Node: tvmps_[0-9a-f]{64}_d', node)
        assert re.fullmatch(r'Task: topNtask\d', task)
        assert (job, pool) == ('Job:  PythonTutorialJob', 'Pool: PythonTutorialPool')


def test_any_file_name_arrives_whole(run_client, tmp_path) -> None:
    names = ['two words.txt', 'it\'s "quoted".txt', 'größe 文字.txt', '$HOME `id` #1 & 100%.txt', '-dash.txt', 'plain']
    for number, name in enumerate(names):
        (tmp_path / name).write_text(f'alpha alpha beta{number}', encoding='utf-8')
    run = run_client('--numwords', '2', '--output-dir', tmp_path / 'results', *(tmp_path / name for name in names))
    assert run.returncode == 0, run.stdout + run.stderr
    results = {path.name: path.read_text(encoding='utf-8').split()[:4] for path in (tmp_path / 'results').iterdir()}
    assert results == {
        f'{Path(name).stem}_OUTPUT{Path(name).suffix}': ['alpha', '2', f'beta{number}', '1']
        for number, name in enumerate(names)}


def test_second_run_right_after_the_first_succeeds(run_client) -> None:
    assert [run_client('--yes').returncode for _ in range(2)] == [0, 0]


def test_tutorial_runs_over_https(run_client, home, tmp_path) -> None:
    cert, key = make_certificate(tmp_path)
    with local_azure.start(tmp_path / 'workspace', cert=cert, key=key) as account:
        run = run_client('--yes', REQUESTS_CA_BUNDLE=str(cert), **variables_of(account))
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(list(home.glob('taskdata?_OUTPUT.txt'))) == 3


def variables_of(account: LocalAzure) -> dict[str, str]:
    return {'AZURE_BATCH_ACCOUNT': account.batch_account_name, 'AZURE_BATCH_ACCESS_KEY': account.batch_account_key,
            'AZURE_BATCH_ENDPOINT': account.batch_account_url, 'AZURE_STORAGE_ACCOUNT': account.storage_account_name,
            'AZURE_STORAGE_KEY': account.storage_account_key,
            'AZURE_STORAGE_SERVICE_ENDPOINT': account.storage_account_url}


@pytest.mark.parametrize(('settings', 'said'), [
    (Settings(core_quota=1), 'AccountCoreQuotaReached'), (Settings(unusable_nodes=2), 'Nodes: 2 unusable')])
def test_nodes_that_never_come_end_the_run_and_leave_nothing(run_client, tmp_path, settings, said) -> None:
    with local_azure.start(tmp_path / 'workspace', settings=settings) as account:
        run = run_client('--yes', **variables_of(account))
        credential = {'account_name': account.storage_account_name, 'account_key': account.storage_account_key}
        with BlobServiceClient(account.storage_account_url, credential=credential) as blobs:
            assert list(blobs.list_containers()) == []
        with BatchServiceClient(SharedKeyCredentials(account.batch_account_name, account.batch_account_key),
                                batch_url=account.batch_account_url) as batch:
            assert eventually(lambda: list(batch.pool.list()) == list(batch.job.list()) == [])
    assert run.returncode == 1
    assert said in run.stderr and 'What to do: ' in run.stderr


def test_proxies_of_the_environment_are_not_asked(run_client) -> None:
    dead = 'http://127.0.0.1:9'
    run = run_client('--yes', HTTP_PROXY=dead, HTTPS_PROXY=dead, http_proxy=dead, https_proxy=dead, ALL_PROXY=dead)
    assert run.returncode == 0, run.stdout + run.stderr
