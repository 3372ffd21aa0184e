"""Against losing files: a blob goes never outside the directory, never by halves, never over a file of the reader's."""
from __future__ import annotations

import filecmp
import itertools
import os
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_MOST_LINES = 20
_END_OF_RESULT = re.compile(rb'^-{30}\nNode: .*\nTask: .*\nJob:  .*\nPool: .*\n\Z', re.MULTILINE)
_LONGEST_END = 4096  # bytes

# Two blobs that are downloaded side by side may get the same name here.
_naming = threading.Lock()


class DownloadError(RuntimeError):
    """Some blobs could not be downloaded; the text has a line for each, the first ones at least."""

    def __init__(self, container_name: str, reasons: Mapping[str, str]) -> None:
        """reasons are by blob name."""
        blobs = '1 blob' if len(reasons) == 1 else f'{len(reasons)} blobs'
        lines = [f'{blobs} of container [{container_name}] could not be downloaded:',
                 *(f'  [{name}]: {reason}' for name, reason in sorted(reasons.items())[:_MOST_LINES])]
        if len(reasons) > _MOST_LINES:
            lines.append(f'  ... and {len(reasons) - _MOST_LINES} more')
        super().__init__('\n'.join(lines))


def path_inside(directory: str | Path, blob_name: str) -> Path:
    """Returns where in the directory the blob goes; its name's slashes make folders, which are made.

    The name was chosen by whoever may write to the container. A part of it that is no name for a file, such as '..',
    becomes '_'. Raises OSError when a folder cannot be made, or is a symbolic link to elsewhere.
    """
    directory = Path(directory)
    *folders, name = (_file_name(part) for part in re.split(r'[/\\]', blob_name))
    for folder in folders:
        directory /= folder
        if directory.is_symlink():
            raise NotADirectoryError(f'{directory} is a symbolic link')
        directory.mkdir(exist_ok=True)
    return directory / name


def _file_name(part: str) -> str:
    if os.name == 'nt':
        # https://learn.microsoft.com/windows/win32/fileio/naming-a-file
        part = re.sub(r'[<>:"|?*\x00-\x1f]', '_', part).rstrip('. ')
        part = re.sub(r'(?i)^(con|prn|aux|nul|com\d|lpt\d)(?=\.|$)', r'\1_', part)
    return '_' if part in ('', '.', '..') else part


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a file to write to, which gets its name when the with block has ended without an error.

    A file of that name is renamed to NAME.bak1 (or 2, and so on) first, unless it has the same content, or is the
    result of an earlier run, or there would be one more of these after every run.
    """
    unfinished = path.with_name(f'.{secrets.token_hex(8)}.part')
    try:
        with unfinished.open('xb') as file:
            yield file
        with _naming:
            if os.path.lexists(path) and not _may_be_replaced(path, unfinished):
                backup = next(candidate for number in itertools.count(1)
                              if not os.path.lexists(candidate := path.with_name(f'{path.name}.bak{number}')))
                path.rename(backup)
                print(f'  Kept the file that was there before as {backup}')
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _may_be_replaced(path: Path, new: Path) -> bool:
    if path.is_symlink():
        return False
    if path.is_dir():
        raise IsADirectoryError(f'{path} is a directory')
    return path.is_file() and (is_result(path) or filecmp.cmp(path, new, shallow=False))


def is_result(path: Path) -> bool:
    """Says whether the file ends as the output of one of the tutorial's tasks does."""
    with path.open('rb') as file:
        file.seek(max(0, path.stat().st_size - _LONGEST_END))
        return _END_OF_RESULT.search(file.read(_LONGEST_END)) is not None
