"""The README tells what is so: its code, its console text, its options, its links and its packages."""
from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent, indent

import pytest

import python_tutorial_client as client
import python_tutorial_task as task
from tests.readme import bash_reads, broken_links, section_of, words_of_prose
from tests.test_end_to_end import TRANSCRIPT

PROJECT = Path(__file__).resolve().parent.parent
README = (PROJECT / 'README.md').read_text(encoding='utf-8')
OPTION = r'(?<![\w-])--[a-z][a-z-]*'


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf'^```{language}\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)


def section(heading: str) -> str:
    return section_of(README, heading)


@pytest.fixture
def help_of_client(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What the client prints for --help."""
    monkeypatch.setattr(sys, 'argv', ['command', '--help'])
    monkeypatch.setenv('COLUMNS', '200')
    with pytest.raises(SystemExit) as raised:
        client.main()
    assert raised.value.code == 0
    return capsys.readouterr().out


# What is shown

def test_code_stands_in_the_source_word_for_word() -> None:
    files = (*PROJECT.glob('*.py'), *PROJECT.glob('common/*.py'))
    sources = ['\n' + file.read_text(encoding='utf-8') for file in files]

    def stands_in_source(code: str) -> bool:
        return any('\n' + indent(dedent(code), ' ' * depth) in source
                   for source in sources for depth in range(0, 20, 4))

    assert blocks('python')
    assert [code for code in blocks('python') if not stands_in_source(code)] == []


def test_console_text_is_that_of_a_terminal() -> None:
    transcript, _ = blocks('text')

    # At a terminal there are no dots, and it is the reader who types the answers.
    expected = TRANSCRIPT.replace('{home}', '~')
    for not_there, there in ((r'0:20:00\.{4,}', r'0:20:00\.\.\.'), (r'\[Y/n\] yes', r'\[Y/n\]')):
        expected = expected.replace(not_there, there)
    assert re.fullmatch(expected, transcript)


def test_result_is_that_of_the_first_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, result = blocks('text')
    for name, value in re.findall(r'^(Node|Task|Job|Pool): +(\S+)$', result, re.MULTILINE):
        monkeypatch.setenv(f'AZ_BATCH_{name.upper()}_ID', value)

    counts = task.count_words(PROJECT / 'data' / 'taskdata1.txt')
    task.write_output(tmp_path / 'result.txt', task.top_words(counts, 3))

    assert result == (tmp_path / 'result.txt').read_text(encoding='utf-8')


def test_chapters_follow_the_steps_of_main_and_name_their_functions() -> None:
    chapters = re.findall(r'^### (\d)\. (.*)$', section('The nine steps'), re.MULTILINE)
    main = Path(client.__file__).read_text(encoding='utf-8').partition('\ndef main()')[2]
    [diagram] = blocks('mermaid')

    steps = re.findall(r'^ +# (\d)\. ', main, re.MULTILINE)
    assert steps == list('123456789')
    assert [number for number, _ in chapters] == steps
    assert list(dict.fromkeys(re.findall(r': (\d)\. ', diagram))) == steps
    functions = [name for _, title in chapters for name in re.findall(r'`(\w+)`', title)]
    assert [name for name in functions if not callable(getattr(client, name, None))] == []


@pytest.mark.parametrize('chapter, calls', [
    ('Before the first step', ['SharedKeyCredentials(', 'BatchServiceClient(', 'BlobServiceClient(']),
    ('1. ', ['create_container(']), ('2. ', ['upload_blob(', 'generate_blob_sas(', 'ResourceFile(']),
    ('3. ', ['PoolAddParameter(', 'pool.add(']), ('4. ', ['JobAddParameter(', 'job.add(']),
    ('5. ', ['TaskAddParameter(', 'add_collection(', 'BlobClient(']), ('6. ', ['task.list(']),
    ('7. ', ['download_blob(']), ('8. ', ['delete_container(']), ('9. ', ['job.delete(', 'pool.delete('])])
def test_each_step_shows_its_code(chapter: str, calls: list[str]) -> None:
    [text] = [text for text in section('The nine steps').split('\n### ') if text.startswith(chapter)]

    code = '\n'.join(blocks('python', text))
    assert [call for call in calls if call not in code] == []


def test_prose_is_short() -> None:
    assert 2000 < words_of_prose(README) <= 3500


# What the reader types

@pytest.mark.parametrize('name, program', [('tutorial', 'python_tutorial_client.py'), ('test', '-m pytest')])
def test_commands_are_single_lines_that_make_their_own_environment(name: str, program: str) -> None:
    [command] = re.findall(rf'^<!-- {name} command -->\n```bash\n(.*)\n```$', README, re.MULTILINE)

    assert command == ('python3 -m venv .venv && .venv/bin/python -m pip install --quiet -r requirements.txt '
                       f'&& .venv/bin/python {program}')


@pytest.mark.parametrize('block', blocks('bash'))
def test_shell_can_read_the_commands(block: str) -> None:
    assert bash_reads(block)


def test_options_are_those_of_the_help(help_of_client: str) -> None:
    options = re.findall(r'^  (--[\w-]+(?: [A-Z]+)?)', help_of_client, re.MULTILINE)

    assert re.findall(r'^\| `(--.*?)` \| [^|\s]', section('The command line'), re.MULTILINE) == options != []


def test_no_option_is_made_up(help_of_client: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        task.main(['--help'])
    local_azure = subprocess.run([sys.executable, '-m', 'common.local_azure', '--help'], cwd=PROJECT, check=True,
                                 stdout=subprocess.PIPE, text=True).stdout
    others_taken_out = re.sub(r'\baz [^`\n]*|-m pip [^&\n]*', '', README)

    known = set(re.findall(OPTION, help_of_client + capsys.readouterr().out + local_azure))
    assert set(re.findall(OPTION, others_taken_out)) - known == set()


def test_settings_are_those_of_the_client() -> None:
    settings = {name for name, value in vars(client).items()
                if re.fullmatch('_[A-Z_]+', name) and isinstance(value, (str, int))}

    assert set(re.findall('`(_[A-Z_]+)`', section('The command line'))) == settings != set()
    assert set(re.findall('`(_[A-Z_]+)`', README)) == settings


def test_variables_are_those_that_the_client_reads(help_of_client: str) -> None:
    variables = re.findall(r'\bAZURE_\w+', help_of_client)

    assert set(re.findall(r'\bAZURE_\w+', README)) == set(variables) != set()


# What it points at

def test_every_package_has_its_reason() -> None:
    requirements = (PROJECT / 'requirements.txt').read_text(encoding='utf-8')
    packages = re.findall(r'^[\w-]+', requirements, re.MULTILINE)

    explained = re.findall(r'^\| `([\w-]+)` \| [^|\s]', section('The dependencies, and why'), re.MULTILINE)
    assert sorted(explained) == sorted(packages) != []


def test_every_part_of_the_project_has_its_place() -> None:
    parts = {path.name for path in PROJECT.glob('common/[!_]*')}

    linked = re.findall(r'\(common/([\w.]+)(?:/README\.md)?\)', section('How it is laid out'))
    assert sorted(linked) == sorted(parts)


def test_every_guard_says_in_its_first_line_which_danger_it_is_for() -> None:
    guards = sorted(PROJECT.glob('common/guards/[!_]*.py'))

    first_lines = [ast.get_docstring(ast.parse(file.read_text(encoding='utf-8'))) for file in guards]
    assert first_lines
    assert [line for line in first_lines if not line.startswith('Against ')] == []


def test_links_lead_somewhere() -> None:
    assert broken_links(PROJECT / 'README.md') == []
