from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.batch_service.reaper import Reaper


@pytest.fixture
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    """A process group that has nothing of a node in its environment."""
    with subprocess.Popen(['sleep', '600'], env={}, start_new_session=True) as process:
        yield process
        process.kill()


def test_group_that_it_was_told_of_is_killed(sleeping, tmp_path: Path) -> None:
    reaper = Reaper(tmp_path)
    reaper.began(sleeping.pid)
    reaper.close()
    assert sleeping.wait(timeout=10) == -9


def test_group_that_has_ended_is_left_alone(sleeping, tmp_path: Path) -> None:
    reaper = Reaper(tmp_path)
    reaper.began(sleeping.pid)
    reaper.ended(sleeping.pid)
    reaper.close()
    assert sleeping.poll() is None
