"""The files of a task or a node as the API shows them: listed, read whole or in part, deleted."""

from __future__ import annotations

import mimetypes
import os
import re
import shutil
import stat
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Iterator
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse

from .errors import BatchError
from .values import http_date, timestamp

Document = dict[str, Any]

_CHUNK = 1 << 20


def listing(base: Path, url: str, recursive: bool, prefix: str = '') -> list[Document]:
    """The files below a directory, as NodeFile objects in the order of their names.

    Args:
        base: What the names are relative to.
        url: The address of the ``files`` collection.
        recursive: Whether the contents of directories are listed too.
        prefix: What the names must start with.
    """
    return [_entry(base, path, url) for path in _walk(base, recursive)
            if str(path.relative_to(base)).startswith(prefix)]


def _walk(directory: Path, recursive: bool) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        yield path
        if recursive and path.is_dir() and not path.is_symlink():
            yield from _walk(path, recursive)


def _entry(base: Path, path: Path, url: str) -> Document:
    name = str(path.relative_to(base))
    entry: Document = {'name': name, 'url': f'{url}/{quote(name)}', 'isDirectory': path.is_dir()}
    if not path.is_dir():
        facts = path.lstat()
        entry['properties'] = {
            'creationTime': _moment(facts.st_ctime), 'lastModified': _moment(facts.st_mtime),
            'contentLength': str(facts.st_size), 'contentType': _content_type(path),
            'fileMode': f'0{stat.S_IFMT(facts.st_mode) | stat.S_IMODE(facts.st_mode):o}'}
    return entry


def find(base: Path, name: str) -> Path:
    """The path of a file or directory that a client names.

    Raises:
        BatchError: FileNotFound, also for every name that leads out of the base directory.
    """
    path = Path(os.path.normpath(base / name.lstrip('/')))
    root = base.resolve()
    try:
        resolved = path.resolve(strict=True)
    except (OSError, ValueError, RuntimeError):  # not there; too long; with a NUL; a link to itself
        raise BatchError('FileNotFound') from None
    if root not in (resolved, *resolved.parents):
        raise BatchError('FileNotFound')
    return path


def properties(path: Path, url: str) -> Response:
    """The answer to HEAD: what the file is, in headers."""
    headers = _headers(path, url)
    if path.is_file():
        headers['Content-Length'] = str(path.stat().st_size)
    return Response(headers=headers, media_type=_content_type(path))


def content(path: Path, url: str, byte_range: str | None) -> Response:
    """The file, whole or the part that ``ocp-range`` asks for; a part is answered with 200, as clients expect.

    Raises:
        BatchError: OperationInvalidForCurrentState for a directory, InvalidRange.
    """
    if path.is_dir():
        raise BatchError('FileNotFound', 'The specified path is a directory.')
    size = path.stat().st_size
    first, last = _range(byte_range, size) if byte_range else (0, size - 1)
    headers = {**_headers(path, url), 'Content-Length': str(last - first + 1)}
    return StreamingResponse(_chunks(path, first, last), headers=headers, media_type=_content_type(path))


def delete(path: Path, recursive: bool) -> None:
    """Removes a file, or a directory that is empty or to be removed with all below it.

    Raises:
        BatchError: OperationInvalidForCurrentState for a directory with contents.
    """
    if not path.is_dir():
        path.unlink()
    elif recursive:
        shutil.rmtree(path)
    elif any(path.iterdir()):
        raise BatchError('OperationInvalidForCurrentState', Reason='The directory is not empty, and recursive is '
                                                                   'not set')
    else:
        path.rmdir()


def _range(text: str, size: int) -> tuple[int, int]:
    match = re.fullmatch(r'bytes=(\d+)-(\d*)', text.strip())
    if not match:
        raise BatchError('InvalidHeaderValue', HeaderName='ocp-range', HeaderValue=text)
    first, last = int(match[1]), min(int(match[2] or size - 1), size - 1)
    if first >= size or last < first:
        raise BatchError('InvalidRange', HeaderName='ocp-range', HeaderValue=text)
    return first, last


def _chunks(path: Path, first: int, last: int) -> Iterator[bytes]:
    """The bytes of a file that may still grow: never more than were promised."""
    with open(path, 'rb') as file:
        file.seek(first)
        left = last - first + 1
        while left > 0 and (chunk := file.read(min(_CHUNK, left))):
            left -= len(chunk)
            yield chunk


def _headers(path: Path, url: str) -> dict[str, str]:
    facts = path.stat()
    return {'Last-Modified': http_date(_moment(facts.st_mtime)),
            'ocp-creation-time': http_date(_moment(facts.st_ctime)),
            'ocp-batch-file-isdirectory': str(path.is_dir()), 'ocp-batch-file-url': url,
            'ocp-batch-file-mode': f'0{facts.st_mode:o}'}


def _moment(seconds: float) -> str:
    return timestamp(datetime.fromtimestamp(seconds, timezone.utc))


def _content_type(path: Path) -> str:
    return mimetypes.guess_type(path.name)[0] or 'application/octet-stream'
