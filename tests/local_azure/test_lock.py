"""The lock, between threads, open files and processes."""
from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from common.local_azure.lock import hold_lock

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='the local services run on Linux and macOS')


def test_second_holder_is_refused(tmp_path: Path) -> None:
    with hold_lock(tmp_path / 'lock'):
        with pytest.raises(BlockingIOError):
            with hold_lock(tmp_path / 'lock'):
                pytest.fail('held twice')


def test_lock_is_free_again_after_the_block_whatever_happened_there(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        with hold_lock(tmp_path / 'lock'):
            1 / 0

    with hold_lock(tmp_path / 'lock'):
        pass


def test_one_that_waits_says_so_once_and_gets_its_turn(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = []

    def wait_for_turn() -> None:
        with hold_lock(tmp_path / 'lock', 60, 'Waiting...'):
            order.append('second')

    waiting = threading.Thread(target=wait_for_turn)
    with hold_lock(tmp_path / 'lock'):
        waiting.start()
        # Long enough for several looks.
        waiting.join(0.3)
        order.append('first')
    waiting.join()

    assert order == ['first', 'second']
    assert capsys.readouterr().err == 'Waiting...\n'


def test_child_that_inherits_the_lock_holds_it_until_it_ends(tmp_path: Path) -> None:
    with hold_lock(tmp_path / 'lock') as descriptor:
        child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE, pass_fds=[descriptor])
    with child:
        with pytest.raises(BlockingIOError):
            with hold_lock(tmp_path / 'lock'):
                pytest.fail('held twice')
        child.communicate(b'end\n')

    with hold_lock(tmp_path / 'lock'):
        pass
