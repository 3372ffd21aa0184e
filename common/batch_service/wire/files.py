"""The files of a task or a node as the API shows them: listed, found, read whole or in part.

A task makes and removes what it likes meanwhile, under any names: what is gone is left out, and nothing is opened that
could keep its reader waiting. All of this waits for a disk: it is for a thread, not for the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import mimetypes
import os
import re
import stat
from pathlib import Path
from typing import Any, AsyncIterator, BinaryIO, Callable, Iterable, Iterator
from urllib.parse import quote, unquote

from starlette.responses import Response, StreamingResponse

from ..errors import BatchError
from ..values import http_date, timestamp_of

Document = dict[str, Any]

_CHUNK = 1 << 18


def listing(base: Path, url: str, *, recursive: bool, prefix: str, after: str, most: int
            ) -> tuple[list[Document], str | None]:
    """Some of the files below a directory, as NodeFile objects in the order of their names; costs what it returns.

    Args:
        base: What the names are relative to.
        url: The address of the ``files`` collection.
        recursive: Whether the contents of directories are listed too.
        prefix: What the names must start with.
        after: The name that the listing begins behind.
        most: How many to list.

    Returns:
        The files, and the name of the last one if there are more.

    Raises:
        BatchError: IOError, if the directory cannot be read.
    """
    try:
        os.scandir(base).close()
    except OSError as error:
        raise _refusal(error) from None
    entries: list[Document] = []
    last, gone = None, False
    for name in _names(str(base), recursive, prefix, after.split('/') if after else [], most + 1):
        if len(entries) == most:
            return entries, last
        last = name
        try:
            entries.append(_entry(os.path.join(base, name), name, url))
        except OSError:
            gone = True
    # What went meanwhile was counted: there may be more.
    return entries, last if gone else None


def _names(base: str, recursive: bool, prefix: str, after: list[str], most: int) -> Iterator[str]:
    """The names behind one, a directory before what is in it; of no directory more than are needed."""
    pending = [('', after, _lowest(base, '', prefix, after, most))]
    while pending:
        parent, listed, names = pending[-1]
        name = next(names, None)
        if name is None:
            pending.pop()
            continue
        path, was_listed = parent + name, listed[:1] == [name]
        if path.startswith(prefix) and not was_listed:
            yield path
        inside = f'{path}/'
        if (recursive and (inside.startswith(prefix) or prefix.startswith(inside))
                and _is_real_directory(os.path.join(base, path))):
            listed = listed[1:] if was_listed else []
            pending.append((inside, listed, _lowest(base, inside, prefix, listed, most)))


def _lowest(base: str, parent: str, prefix: str, after: list[str], most: int) -> Iterator[str]:
    """The first names in a directory that a listing may need, from the one that it goes on behind."""
    try:
        names: Iterable[str] = os.listdir(os.path.join(base, parent))
    except OSError:  # gone, or not to be read
        return iter(())
    here = prefix[len(parent):].partition('/')[0]
    names = (name for name in names if name >= (after[0] if after else '') and name.startswith(here))
    return iter(heapq.nsmallest(most + 1, names))


def _is_real_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _entry(path: str, name: str, url: str) -> Document:
    facts = os.lstat(path)
    entry: Document = {'name': _readable(name), 'url': f'{url}/{quote(os.fsencode(name))}',
                       'isDirectory': os.path.isdir(path)}
    if not entry['isDirectory']:
        entry['properties'] = {
            'creationTime': timestamp_of(facts.st_ctime), 'lastModified': timestamp_of(facts.st_mtime),
            'contentLength': str(facts.st_size), 'contentType': _content_type(name),
            'fileMode': f'0{facts.st_mode:o}'}
    return entry


def _readable(name: str) -> str:
    """The name with those bytes that are not UTF-8 percent-encoded."""
    return re.sub('[\udc80-\udcff]', lambda byte: f'%{ord(byte[0]) - 0xDC00:02X}', name)


def find(base: Path, name: str, *, follow: bool = True) -> Path:
    """The path of a file or directory that a client names, as it is or as ``listing`` shows it.

    Args:
        follow: Whether it is what a symbolic link leads to, or the link itself.

    Raises:
        BatchError: FileNotFound, also for every name that leads out of the base directory; or IOError.
    """
    root = base.resolve()
    for spelling in dict.fromkeys((name, unquote(name, errors='surrogateescape'))):
        path = Path(os.path.normpath(base / spelling.lstrip('/')))
        try:
            found = path.resolve(strict=True) if follow else path.parent.resolve(strict=True) / path.name
            os.lstat(found)
        except PermissionError:
            raise BatchError('IOError') from None
        except (OSError, ValueError, RuntimeError):  # not there; too long; with a NUL; a link to itself
            continue
        if root in found.parents or follow and root == found:
            return found
    raise BatchError('FileNotFound')


def properties(base: Path, name: str, url: str) -> Response:
    """The answer to HEAD: what a file or a directory is, in headers.

    Raises:
        BatchError: FileNotFound, IOError.
    """
    path = find(base, name)
    facts = _facts(path, stat.S_ISREG, stat.S_ISDIR)
    headers = _headers(facts, url)
    if stat.S_ISREG(facts.st_mode):
        headers['Content-Length'] = str(facts.st_size)
    return Response(headers=headers, media_type=_content_type(path.name))


def content(base: Path, name: str, url: str, byte_range: str | None) -> Response:
    """The file, whole or the part that ``ocp-range`` asks for; a part is answered with 200, as clients expect.

    Raises:
        BatchError: FileNotFound, IOError, InvalidHeaderValue or InvalidRange.
    """
    path = find(base, name)
    _facts(path, stat.S_ISREG)  # before it is opened: a pipe would notice
    with contextlib.ExitStack() as opened:
        try:
            file = opened.enter_context(open(path, 'rb', buffering=0, opener=lambda path, flags: os.open(
                path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)))
            facts = os.fstat(file.fileno())
            first, last = _range(byte_range, facts.st_size) if byte_range else (0, facts.st_size - 1)
            wanted = last - first + 1
            file.seek(first)
            begin = file.read(min(_CHUNK, wanted)) or b''
        except OSError as error:
            raise _refusal(error) from None
        headers, media_type = _headers(facts, url), _content_type(path.name)
        if len(begin) == wanted or len(begin) < _CHUNK:  # all, also of a file that has shrunk meanwhile
            return Response(begin, headers=headers, media_type=media_type)
        opened.pop_all()
        # Without a Content-Length, as the service sends it: a file that shrinks meanwhile breaks no promise.
        return StreamingResponse(_chunks(file, begin, wanted), headers=headers, media_type=media_type)


async def _chunks(file: BinaryIO, chunk: bytes, left: int) -> AsyncIterator[bytes]:
    """The bytes of a file that may still grow: never more than were there."""
    with file:
        while chunk:
            yield chunk
            left -= len(chunk)
            chunk = await asyncio.to_thread(file.read, min(_CHUNK, left))


def delete(base: Path, name: str, recursive: bool, throw_away: Callable[[Path], None]) -> None:
    """Removes a file, a link, or a directory that is empty or to be removed with all below it.

    Raises:
        BatchError: FileNotFound, IOError, or OperationInvalidForCurrentState for a directory with contents.
    """
    path = find(base, name, follow=False)
    try:
        if not recursive and stat.S_ISDIR(os.lstat(path).st_mode) and any(os.scandir(path)):
            raise BatchError('OperationInvalidForCurrentState',
                             Reason='The directory is not empty, and recursive is not set')
        throw_away(path)
    except OSError as error:
        raise _refusal(error) from None


def _facts(path: Path, *kinds: Any) -> os.stat_result:
    try:
        facts = os.stat(path)
    except OSError as error:
        raise _refusal(error) from None
    if not any(kind(facts.st_mode) for kind in kinds):
        raise BatchError('FileNotFound', 'The specified path is no regular file.')
    return facts


def _refusal(error: OSError) -> BatchError:
    return BatchError('FileNotFound' if isinstance(error, (FileNotFoundError, NotADirectoryError)) else 'IOError')


def _range(text: str, size: int) -> tuple[int, int]:
    match = re.fullmatch('bytes=([0-9]{1,18})-([0-9]{0,18})', text.strip())
    if not match:
        raise BatchError('InvalidHeaderValue', HeaderName='ocp-range', HeaderValue=text)
    first, last = int(match[1]), min(int(match[2] or size - 1), size - 1)
    if first >= size or last < first:
        raise BatchError('InvalidRange', HeaderName='ocp-range', HeaderValue=text)
    return first, last


def _headers(facts: os.stat_result, url: str) -> dict[str, str]:
    return {'Last-Modified': http_date(timestamp_of(facts.st_mtime)),
            'ocp-creation-time': http_date(timestamp_of(facts.st_ctime)),
            'ocp-batch-file-isdirectory': str(stat.S_ISDIR(facts.st_mode)), 'ocp-batch-file-url': url,
            'ocp-batch-file-mode': f'0{facts.st_mode:o}'}


def _content_type(name: str) -> str:
    # By the suffix alone: a name such as data:text/x,y would choose the type itself.
    return mimetypes.guess_type('file' + os.path.splitext(name)[1])[0] or 'application/octet-stream'
