"""What the service throws away is gone, whatever tasks have made of it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from common.batch_service.run.trash import Trash

from ..workbench import wait_until


@pytest.fixture
def trash(tmp_path: Path) -> Trash:
    return Trash(tmp_path / 'trash')


def is_empty(directory: Path) -> bool:
    return not any(directory.iterdir())


def as_ordinary_user(work: Callable[[], None]) -> None:
    """Runs it in a process of its own, which gives up the rights of root if it has them."""
    def run() -> None:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        work()
    process = multiprocessing.get_context('fork').Process(target=run)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)  # of threads, which do not matter here
        process.start()
    process.join(30)
    assert process.exitcode == 0


def test_what_is_thrown_away_is_gone_at_once_and_then_removed(trash, tmp_path) -> None:
    (tmp_path / 'task/wd').mkdir(parents=True)
    (tmp_path / 'task/wd/file').touch()
    trash.throw(tmp_path / 'task')
    assert not (tmp_path / 'task').exists()
    wait_until(lambda: is_empty(tmp_path / 'trash'))


def test_nobody_waits_for_the_removal(trash, tmp_path, monkeypatch) -> None:
    unlink, over = os.unlink, threading.Event()
    monkeypatch.setattr(os, 'unlink', lambda *path, **where: over.wait(2) and unlink(*path, **where))
    (tmp_path / 'task').mkdir()
    (tmp_path / 'task/file').touch()
    trash.throw(tmp_path / 'task')
    assert not over.is_set() and not is_empty(tmp_path / 'trash')
    over.set()
    wait_until(lambda: is_empty(tmp_path / 'trash'))


def test_nothing_can_be_thrown_away(trash, tmp_path, caplog) -> None:
    trash.throw(tmp_path / 'missing')
    assert not caplog.records


def test_what_an_earlier_service_left_is_removed(tmp_path) -> None:
    (tmp_path / 'trash/left/wd').mkdir(parents=True)
    Trash(tmp_path / 'trash')
    wait_until(lambda: is_empty(tmp_path / 'trash'))


def test_target_of_a_link_stays(trash, tmp_path) -> None:
    (tmp_path / 'kept').mkdir()
    (tmp_path / 'kept/file').touch()
    (tmp_path / 'kept').chmod(0o755)
    (tmp_path / 'task').mkdir()
    (tmp_path / 'task/link').symlink_to(tmp_path / 'kept')
    trash.throw(tmp_path / 'task')
    wait_until(lambda: is_empty(tmp_path / 'trash'))
    assert (tmp_path / 'kept/file').exists()
    assert (tmp_path / 'kept').stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize('mode', [0o000, 0o555, 0o200])
def test_modes_of_a_task_keep_nothing_back_from_an_ordinary_user(free_for_all, mode) -> None:
    def work() -> None:
        task = free_for_all / 'task'
        (task / 'wd/deep').mkdir(parents=True)
        (task / 'wd/deep/file').touch(mode=0)
        for directory in (task / 'wd/deep', task / 'wd', task):
            directory.chmod(mode)
        Trash(free_for_all / 'trash').throw(task)
        assert not task.exists()
        wait_until(lambda: is_empty(free_for_all / 'trash'))
    as_ordinary_user(work)


def test_task_that_closed_the_directory_above_its_own_is_removed(free_for_all) -> None:
    def work() -> None:
        task = free_for_all / 'job/task'
        task.mkdir(parents=True)
        task.parent.chmod(0o555)
        Trash(free_for_all / 'trash').throw(task)
        assert not task.exists()
    as_ordinary_user(work)


def test_names_that_are_not_utf_8_are_removed(trash, tmp_path) -> None:
    (tmp_path / 'task').mkdir()
    os.mkdir(os.fsencode(tmp_path) + b'/task/\xff')
    open(os.fsencode(tmp_path) + b'/task/\xff/\xfe', 'w').close()
    trash.throw(tmp_path / 'task')
    wait_until(lambda: is_empty(tmp_path / 'trash'))


def test_tree_deeper_than_any_path_may_be_long_is_removed(trash, tmp_path) -> None:
    (tmp_path / 'task').mkdir()
    above = os.open(tmp_path / 'task', os.O_RDONLY)
    for _ in range(1_500):
        os.mkdir('deeper', dir_fd=above)
        below = os.open('deeper', os.O_RDONLY, dir_fd=above)
        os.close(above)
        above = below
    os.close(above)
    trash.throw(tmp_path / 'task')
    wait_until(lambda: is_empty(tmp_path / 'trash'))


def test_what_cannot_be_removed_is_logged_once_and_keeps_no_other_back(trash, tmp_path, caplog, monkeypatch) -> None:
    unlink = os.unlink

    def immutable(path: str) -> None:
        if 'immutable' in str(path):
            raise PermissionError(1, 'Operation not permitted', path)
        unlink(path)
    monkeypatch.setattr(os, 'unlink', immutable)  # only root could make files so, and not on every file system
    (tmp_path / 'task').mkdir()
    for number in range(5):
        (tmp_path / f'task/immutable{number}').touch()
        (tmp_path / f'task/usual{number}').touch()
    (tmp_path / 'other').mkdir()
    trash.throw(tmp_path / 'task')
    trash.throw(tmp_path / 'other')
    wait_until(lambda: len(list((tmp_path / 'trash').iterdir())) == 1 and caplog.records)
    left, = (tmp_path / 'trash').iterdir()
    assert sorted(file.name for file in left.iterdir()) == [f'immutable{number}' for number in range(5)]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert '5 parts of' in caplog.text


def test_what_cannot_be_moved_is_logged_and_stays(tmp_path, trash, caplog, monkeypatch) -> None:
    def busy(path: Path, aside: Path) -> None:
        raise OSError(16, 'Device or resource busy', path)
    monkeypatch.setattr(os, 'rename', busy)  # so it is for a mount point
    (tmp_path / 'task').mkdir()
    trash.throw(tmp_path / 'task')
    assert (tmp_path / 'task').exists()
    assert 'Device or resource busy' in caplog.text
