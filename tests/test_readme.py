"""The README tells what is so: its code, its console text, its options, its links and its packages."""
from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent, indent

import pytest

import python_tutorial_client as client
import python_tutorial_task as task
from common import local_azure
from common.batch_service.api import ROUTES, Missing, NoneOf, Refused, Route
from tests.batch_service.clients.life_cycle.client import OPERATIONS
from tests.test_end_to_end import TRANSCRIPT

PROJECT = Path(__file__).resolve().parent.parent
README = (PROJECT / 'README.md').read_text(encoding='utf-8')
OPTION = r'(?<![\w-])--[a-z][a-z-]*'


def blocks(language: str) -> list[str]:
    return re.findall(rf'^```{language}\n(.*?)^```$', README, re.MULTILINE | re.DOTALL)


def section(heading: str) -> str:
    """What stands below a heading, up to the next one of its level."""
    found = re.search(rf'^## {heading}$(.*?)(?=^## |\Z)', README, re.MULTILINE | re.DOTALL)
    assert found, f'README.md has no chapter "{heading}"'
    return found[1]


@pytest.fixture
def help_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command's main function prints for --help."""
    def run(main: Callable[[], int]) -> str:
        monkeypatch.setattr(sys, 'argv', ['command', '--help'])
        monkeypatch.setenv('COLUMNS', '200')
        with pytest.raises(SystemExit) as raised:
            main()
        assert raised.value.code == 0
        return capsys.readouterr().out
    return run


# What is shown

def test_code_stands_in_the_source_word_for_word() -> None:
    files = (*PROJECT.glob('*.py'), *PROJECT.glob('common/*.py'))
    sources = ['\n' + file.read_text(encoding='utf-8') for file in files]

    def stands_in_source(code: str) -> bool:
        return any('\n' + indent(dedent(code), ' ' * depth) in source
                   for source in sources for depth in range(0, 20, 4))

    assert blocks('python')
    assert [code for code in blocks('python') if not stands_in_source(code)] == []


def test_console_text_is_that_of_a_run() -> None:
    transcript, _ = blocks('text')

    assert re.fullmatch(TRANSCRIPT.replace('{home}', '~'), transcript)


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


# What the reader types

@pytest.mark.parametrize('name, program', [('tutorial', 'python_tutorial_client.py'), ('test', '-m pytest')])
def test_commands_are_single_lines_that_make_their_own_environment(name: str, program: str) -> None:
    [command] = re.findall(rf'^<!-- {name} command -->\n```bash\n(.*)\n```$', README, re.MULTILINE)

    assert command == ('python3 -m venv .venv && .venv/bin/python -m pip install --quiet -r requirements.txt '
                       f'&& .venv/bin/python {program}')


@pytest.mark.parametrize('block', blocks('bash'))
def test_shell_can_read_the_commands(block: str) -> None:
    bash = subprocess.run(['bash', '-n'], input=block, capture_output=True, text=True)

    assert (bash.returncode, bash.stderr) == (0, '')


@pytest.mark.parametrize('command, main', [('python_tutorial_client.py', client.main),
                                           ('python -m common.local_azure', local_azure.main)])
def test_options_are_those_of_the_help(command: str, main: Callable[[], int], help_of: Callable[..., str]) -> None:
    explained = section('The command line').partition(f'`{command} [options]')[2].partition('\n`python')[0]

    options = re.findall(r'^  (--[\w-]+(?: [A-Z]+)?)', help_of(main), re.MULTILINE)
    assert re.findall(r'^\| `(--.*?)` \| [^|\s]', explained, re.MULTILINE) == options != []


def test_no_option_is_made_up(help_of: Callable[..., str]) -> None:
    others_taken_out = re.sub(r'\baz [^`\n]*|-m pip [^&\n]*', '', README)

    known = {option for main in (client.main, local_azure.main, lambda: task.main(['--help']))
             for option in re.findall(OPTION, help_of(main))}
    assert set(re.findall(OPTION, others_taken_out)) - known == set()


def test_settings_are_those_of_the_client() -> None:
    settings = {name for name, value in vars(client).items()
                if re.fullmatch('_[A-Z_]+', name) and isinstance(value, (str, int))}

    assert set(re.findall('`(_[A-Z_]+)`', section('The command line'))) == settings != set()
    assert set(re.findall('`(_[A-Z_]+)`', README)) == settings


def test_variables_are_those_that_the_commands_read_and_print(help_of: Callable[..., str]) -> None:
    variables = re.findall(r'\bAZURE_\w+', help_of(client.main) + help_of(local_azure.main))

    assert set(re.findall(r'\bAZURE_\w+', README)) == set(variables) != set()


# What the local service does

def test_operations_are_those_of_the_routes() -> None:
    rows = re.findall(r'^\| [^|]+ \| [^|]+ \| `([A-Z]+) (/[^`]*)` \| (.*) \|$',
                      section('Use it with your own Batch program'), re.MULTILINE)

    assert rows == [(route.method, route.path, answer_of(route)) for route in ROUTES]


def answer_of(route: Route) -> str:
    if isinstance(route.handler, NoneOf):
        return 'empty list'
    if isinstance(route.handler, Missing):
        return f'answers `{route.handler.code}`'
    return f'refused: {route.handler.what}' if isinstance(route.handler, Refused) else 'served'


def test_operations_have_the_names_that_the_clients_tests_call_them_by() -> None:
    named = re.findall(r'^\| ([^|]+) \| ([^|]+) \| `[A-Z]+ /',
                       section('Use it with your own Batch program'), re.MULTILINE)

    for generation, cells in zip(('v14', 'v15'), zip(*named)):
        tested = {getattr(operation, generation) for operation in OPERATIONS.values()} - {''}
        # The tests call the first, which sends the second for each hundred tasks.
        tested |= {'create_task_collection'} if 'create_tasks' in tested else set()
        assert {name for cell in cells for name in re.findall('`(.+?)`', cell)} == tested


# What it points at

def test_every_package_has_its_reason() -> None:
    requirements = (PROJECT / 'requirements.txt').read_text(encoding='utf-8')
    packages = re.findall(r'^[\w-]+', requirements, re.MULTILINE)

    explained = re.findall(r'^\| `([\w-]+)` \| [^|\s]', section('The dependencies, and why'), re.MULTILINE)
    assert sorted(explained) == sorted(packages) != []


def test_every_module_has_its_place() -> None:
    linked = set(re.findall(r'\(common/(\w+)\.py\)', section('How it is laid out')))

    assert linked == {file.stem for file in PROJECT.glob('common/*.py')} - {'__init__'}


def test_links_lead_somewhere() -> None:
    headings = {re.sub(r'[^\w -]', '', title.lower()).replace(' ', '-')
                for title in re.findall(r'^#+ (.*)$', README, re.MULTILINE)}
    links = [link for link in re.findall(r'\]\(([^)]+)\)', README) if not link.startswith('https://')]

    assert links
    assert [link for link in links
            if not (link[1:] in headings if link.startswith('#') else (PROJECT / link).exists())] == []
