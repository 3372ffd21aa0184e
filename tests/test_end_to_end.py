"""The whole tutorial as a reader runs it: the client in a process of its own, real Azurite, real Batch service."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common import local_azure
from common.local_azure import LocalAzure
from tests.conftest import make_home
from tests.leftovers import running
from tests.stand_in import make_certificate

PROJECT = Path(__file__).resolve().parent.parent
CLIENT = PROJECT / 'python_tutorial_client.py'
DATA = sorted((PROJECT / 'data').glob('taskdata?.txt'))

TRANSCRIPT = r'''No account is set, so this runs on this machine, with its state in .*
Watch it at http://127\.0\.0\.1:\d+/page/\?token=[\w-]+
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
  Job \[PythonTutorialJob\] is (?:being )?deleted\.
  Pool \[PythonTutorialPool\] is (?:being )?deleted\.

Press ENTER to exit\.\.\.
'''


def client(directory: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the client to its end from a directory that is not its own, with no terminal."""
    return subprocess.run([sys.executable, str(CLIENT), *map(str, arguments)], cwd=directory, timeout=100,
                          env={**os.environ, **environment}, stdin=subprocess.DEVNULL, capture_output=True, text=True)


@pytest.fixture
def run_client(azurite_install: Path, home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    return functools.partial(client, home.parent)


@pytest.fixture(scope='module')
def first_home(azurite_install: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home directory for the runs of this module that may share one."""
    home = tmp_path_factory.mktemp('first')
    with pytest.MonkeyPatch.context() as patch:
        make_home(home, patch)
        yield home


@pytest.fixture(scope='module')
def plain_run(first_home: Path) -> subprocess.CompletedProcess[str]:
    """The first run of a reader who has no account, without any argument."""
    return client(first_home, HOME=str(first_home))


def words_of(text: str) -> Counter[str]:
    """Counts words in the plainest way; enough for texts whose punctuation is ASCII."""
    return Counter(word for token in text.split() if (word := token.strip('.,;:!?"\'()-').casefold()))


def test_plain_run_is_the_transcript_of_the_design(plain_run: subprocess.CompletedProcess[str],
                                                   first_home: Path) -> None:
    assert plain_run.stderr == ''
    assert plain_run.returncode == 0
    assert re.fullmatch(TRANSCRIPT.replace('{home}', re.escape(str(first_home))), plain_run.stdout), plain_run.stdout
    assert running('nothing bears this mark', first_home) == {}


@pytest.mark.usefixtures('plain_run')
def test_outputs_hold_the_most_frequent_words(first_home: Path) -> None:
    for file in DATA:
        counts = words_of(file.read_text(encoding='utf-8'))
        best = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:3]
        output = (first_home / f'{file.stem}_OUTPUT.txt').read_text(encoding='utf-8')
        *lines, _, node, task, job, pool = output.splitlines()
        assert [line.split() for line in lines] == [[word, str(count)] for word, count in best]
        assert re.fullmatch(r'Node: tvmps_[0-9a-f]{64}_d', node)
        assert re.fullmatch(r'Task: topNtask\d', task)
        assert (job, pool) == ('Job:  PythonTutorialJob', 'Pool: PythonTutorialPool')


@pytest.mark.usefixtures('plain_run')
def test_second_run_right_after_the_first_succeeds_and_asks_no_proxy(first_home: Path) -> None:
    dead = 'http://127.0.0.1:9'
    proxies = dict.fromkeys(('HTTP_PROXY', 'HTTPS_PROXY', 'http_proxy', 'https_proxy', 'ALL_PROXY'), dead)

    run = client(first_home, '--yes', HOME=str(first_home), **proxies)

    assert run.returncode == 0, run.stdout + run.stderr
    # The results of the first run were replaced, not kept beside those of the second.
    assert len(list(first_home.glob('*_OUTPUT*'))) == 3


def test_any_file_name_arrives_whole(run_client, tmp_path, local_account) -> None:
    names = ['two words.txt', 'it\'s "quoted".txt', 'größe 文字.txt', '$HOME `id` #1 & 100%.txt', '-dash.txt', 'plain']
    for number, name in enumerate(names):
        (tmp_path / name).write_text(f'alpha alpha beta{number}', encoding='utf-8')
    run = run_client('--numwords', '2', '--output-dir', tmp_path / 'results', *(tmp_path / name for name in names),
                     **variables_of(local_account))
    assert run.returncode == 0, run.stdout + run.stderr
    results = {path.name: path.read_text(encoding='utf-8').split()[:4] for path in (tmp_path / 'results').iterdir()}
    assert results == {
        f'{Path(name).stem}_OUTPUT{Path(name).suffix}': ['alpha', '2', f'beta{number}', '1']
        for number, name in enumerate(names)}


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
