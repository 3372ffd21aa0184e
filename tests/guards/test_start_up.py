"""What ends the program before main() has begun: a process of its own, real imports, a real signal."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent.parent


def start(program: str, *options: str, path: Path = PROJECT) -> subprocess.Popen[str]:
    # Whoever started the tests may have had Ctrl-C ignored.
    return subprocess.Popen(
        [sys.executable, *options, '-c', f'import signal\nsignal.signal(2, signal.default_int_handler)\n{program}'],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, (path, PROJECT)))})


def test_without_any_package_the_reader_is_told_how_to_install_them() -> None:
    process = start('import python_tutorial_client', '-S')

    output, errors = process.communicate(timeout=60)

    assert process.returncode == 1 and output == ''
    assert errors.startswith('ERROR: The Python package of module azure is not installed: run "python3 -m venv .venv ')
    assert 'pip install --quiet -r requirements.txt" in the directory of the tutorial' in errors
    assert errors.count('\n') == 1


def test_a_module_of_the_project_that_is_missing_is_a_mistake_of_the_program() -> None:
    process = start('from common.guards import start_up\nimport common.nothing')

    _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert errors.startswith('Traceback') and "No module named 'common.nothing'" in errors


@pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no SIGINT to send')
def test_ctrl_c_while_packages_load_is_one_line(tmp_path: Path) -> None:
    # Not one long sleep: a signal that comes just before it begins is not heard of until it ends.
    (tmp_path / 'requests.py').write_text('import time\nprint("loading", flush=True)\nwhile True: time.sleep(0.01)\n')
    process = start('import python_tutorial_client', path=tmp_path)
    assert process.stdout and process.stdout.readline() == 'loading\n'

    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)

    # A shell makes 130 of this.
    assert process.returncode == -signal.SIGINT
    assert errors == 'ERROR: Interrupted.\n'


def test_the_traceback_of_a_mistake_has_no_secrets() -> None:
    process = start('from common.guards import start_up\n'
                    'def go(): raise KeyError("https://mystorage/output?sp=w&sig=c2VjcmV0&se=2026")\ngo()')

    _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert errors.startswith('Traceback') and 'in go' in errors
    assert errors.endswith("KeyError: 'https://mystorage/output?sp=w&sig=...&se=2026'\n")
