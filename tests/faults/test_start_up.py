"""The client where it cannot even begin: no packages, Ctrl-C while they load."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.faults.client_process import PROJECT
from tests.leftovers import eventually

CLIENT = PROJECT / 'python_tutorial_client.py'


def test_a_python_without_the_packages_is_told_the_command() -> None:
    # -S leaves site-packages out, where all of them are.
    ran = subprocess.run([sys.executable, '-S', str(CLIENT)], capture_output=True, text=True, timeout=60)

    assert ran.returncode == 1
    assert ran.stdout == ''
    line, = ran.stderr.splitlines()
    assert line.startswith('ERROR: The Python package of module ') and 'pip install' in line
    assert 'requirements.txt' in line


def test_ctrl_c_while_the_packages_load(tmp_path: Path) -> None:
    stub = tmp_path / 'azure' / '__init__.py'
    stub.parent.mkdir()
    stub.write_text('import pathlib, signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n'
                    'pathlib.Path("importing").touch()\ntime.sleep(60)\n')
    with subprocess.Popen([sys.executable, str(CLIENT)], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env={**os.environ, 'PYTHONPATH': str(tmp_path)}) as client:
        assert eventually((tmp_path / 'importing').exists)
        client.send_signal(signal.SIGINT)
        output, errors = client.communicate(timeout=60)

    # A shell sees 130.
    assert client.returncode == -signal.SIGINT
    assert (output, errors) == ('', 'ERROR: Interrupted.\n')
