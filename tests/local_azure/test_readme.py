"""The package's README tells what is so: its options, its variables, its commands, its code and its links."""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from common.local_azure import __main__ as command
from tests.local_azure.running import PROJECT, VARIABLES

FILE = PROJECT / 'common' / 'local_azure' / 'README.md'
README = FILE.read_text(encoding='utf-8')
OPTION = r'(?<![\w-])--[a-z][a-z-]*'


def blocks(language: str) -> list[str]:
    return re.findall(rf'^```{language}\n(.*?)^```$', README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def help_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, 'argv', ['command', '--help'])
    monkeypatch.setenv('COLUMNS', '200')
    with pytest.raises(SystemExit):
        command.main()
    return capsys.readouterr().out


def test_options_are_those_of_the_help(help_text: str) -> None:
    options = re.findall(r'^  (--[\w-]+(?: [A-Z]+)?)', help_text, re.MULTILINE)

    assert re.findall(r'^\| `(--.*?)` \| [^|\s]', README, re.MULTILINE) == options != []


def test_no_option_is_made_up(help_text: str) -> None:
    others_taken_out = re.sub(r'\baz [^`\n]*', '', README)

    assert set(re.findall(OPTION, others_taken_out)) - set(re.findall(OPTION, help_text)) == set()


def test_variables_are_those_that_the_command_reads_and_prints(help_text: str) -> None:
    variables = set(re.findall(r'\bAZURE_\w+', README))

    assert variables == set(re.findall(r'\bAZURE_\w+', help_text)) == {*VARIABLES, 'AZURE_BATCH_TUTORIAL_WORKSPACE'}


@pytest.mark.parametrize('block', blocks('bash'))
def test_shell_can_read_the_commands(block: str) -> None:
    bash = subprocess.run(['bash', '-n'], input=block, capture_output=True, text=True)

    assert (bash.returncode, bash.stderr) == (0, '')


@pytest.mark.skipif(sys.platform == 'win32', reason='the local services run on Linux and macOS')
def test_script_gives_the_program_the_variables_and_leaves_nothing(
        tmp_path: Path, azurite_install: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [script] = [block for block in blocks('bash') if '# ready' in block]
    (tmp_path / 'my_batch_program.py').write_text('import os; print(os.environ["AZURE_BATCH_ENDPOINT"])')
    monkeypatch.setenv('PYTHONPATH', str(PROJECT))

    done = subprocess.run(['bash', '-euc', script.replace('.venv/bin/python', f'"{sys.executable}"') + 'wait $!'],
                          cwd=tmp_path, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, '')
    assert re.fullmatch(r'http://127\.0\.0\.1:\d+\n', done.stdout)


# The code for each client is run by the tests of these clients, in tests/batch_service/clients.
def test_there_is_code_for_each_client() -> None:
    assert (len(blocks('py')), len(blocks('js'))) == (3, 1)


def test_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r'\]\(([^)]+)\)', README) if not link.startswith('https://')]

    assert links
    assert [link for link in links if not (FILE.parent / link.partition('#')[0]).exists()] == []
