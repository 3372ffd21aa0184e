"""Removes directories of any size, depth and modes, without anybody waiting for it.

What is thrown away is moved aside at once, and removed by a thread of its own; what an earlier run of the service has
left there is removed too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import stat
import threading
import uuid
from pathlib import Path

_LOG = logging.getLogger(__name__)

_MOST_PASSES = 10
"""Over one directory: what is removed while it is listed may hide the rest, and something may still write to it."""


class Trash:
    """Takes directories that nobody needs any more.

    Args:
        directory: Where they wait for their removal; made if need be, on the same file system as they are.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, exist_ok=True)
        self._waiting: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for left in directory.iterdir():
            self._waiting.put(left)
        # It ends with the service: what is left then is removed by the next one.
        threading.Thread(target=self._remove_all, name='trash', daemon=True).start()

    def throw(self, path: Path) -> None:
        """Takes a file or a directory away from where it is; what cannot be moved is logged and stays."""
        try:
            self.take(path)
        except OSError as error:
            _LOG.warning('%s cannot be removed: %s', path, error.strerror)

    def take(self, path: Path) -> None:
        """The same, but raises OSError for what cannot be moved; what is gone already is fine."""
        aside = self._directory / uuid.uuid4().hex
        with contextlib.suppress(FileNotFoundError):
            _move(path, aside)
            self._waiting.put(aside)

    def _remove_all(self) -> None:
        while True:
            _remove_whole(self._waiting.get(), self._directory)


def _move(path: Path, aside: Path) -> None:
    """Renames, also where its owner may not write to the directory or to the one that it is in."""
    try:
        os.rename(path, aside)
    except PermissionError:
        for directory in (path.parent, path):
            with contextlib.suppress(PermissionError):
                if stat.S_ISDIR(os.lstat(directory).st_mode):
                    os.chmod(directory, stat.S_IRWXU)
        os.rename(path, aside)


def _remove_whole(path: Path, scratch: Path) -> None:
    """Removes a file, or a directory with all that is in it; what even its owner cannot remove is logged, once.

    Args:
        scratch: A directory on the same file system. Directories are moved there before they are emptied, so that no
            path becomes too long, however deep they lie.
    """
    problems: list[OSError] = []
    waiting = [os.fspath(path)]
    while waiting:
        try:
            _remove(waiting.pop(), scratch, waiting, problems)
        except OSError as error:
            problems.append(error)
    if problems:
        _LOG.warning('%d parts of %s cannot be removed; the first: %s', len(problems), path, problems[0])


def _remove(name: str, scratch: Path, waiting: list[str], problems: list[OSError]) -> None:
    """Removes a file or what is in one directory; the directories in it are moved aside, and wait."""
    if not stat.S_ISDIR(os.lstat(name).st_mode):
        os.unlink(name)
        return
    os.chmod(name, stat.S_IRWXU)
    problems_before = len(problems)
    for _ in range(_MOST_PASSES):
        progress = False
        with os.scandir(name) as entries:
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        os.chmod(entry.path, stat.S_IRWXU)
                        aside = os.path.join(scratch, uuid.uuid4().hex)
                        os.rename(entry.path, aside)
                        waiting.append(aside)
                    else:
                        os.unlink(entry.path)
                    progress = True
                except OSError as error:
                    problems.append(error)
        if not progress or len(problems) > problems_before:
            break
    if len(problems) == problems_before:
        os.rmdir(name)
