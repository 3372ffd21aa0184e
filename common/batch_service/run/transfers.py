"""What a node fetches before a task runs and uploads after it: resource files and output files, each whole or not.

https://learn.microsoft.com/azure/batch/resource-files
https://learn.microsoft.com/azure/batch/batch-task-output-files
"""

from __future__ import annotations

import asyncio
import errno
import http.client
import os
import re
import ssl
import stat
import urllib.error
import urllib.request
import uuid
import xml.etree.ElementTree
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Iterator, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from . import threads

T = TypeVar('T')

_CONNECT_SECONDS = 10
_SILENCE_SECONDS = 60
_PAUSES = (0.5, 1.0, 2.0, 4.0)
"""The seconds between one try and the next. How often a real node tries is not known."""

_MOST_AT_ONCE = 4
_BLOCK = 1 << 18
_STORAGE_API_VERSION = '2020-10-02'
_LOOPBACK = ('127.0.0.1', 'localhost', '::1')


class TransferError(Exception):
    """A file could not be fetched or uploaded.

    Args:
        category: ``usererror`` or ``servererror``.
        code: The failure's code in a task's ``failureInfo``.
        message: One sentence, with no signature in it.
        details: What it was about.
    """

    def __init__(self, category: str, code: str, message: str, **details: str) -> None:
        super().__init__(message)
        self.failure_info = {'category': category, 'code': code, 'message': message,
                             'details': [{'name': name, 'value': value} for name, value in details.items()]}


class Transfers:
    """Moves files between storage and nodes, in threads of their own; what fails for a while is tried again.

    Args:
        certificate: A PEM file to trust besides the system's, for storage on this machine that speaks https.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        context = ssl.create_default_context()
        if certificate:
            context.load_verify_locations(certificate)
        # Not build_opener, which would also serve file: and ftp: URLs.
        self._opener = urllib.request.OpenerDirector()
        for handler in (_Proxies(), _Http(), _Https(context), _Redirects(), urllib.request.HTTPErrorProcessor(),
                        urllib.request.HTTPDefaultErrorHandler()):
            self._opener.add_handler(handler)

    async def fetch(self, resource_files: list[dict[str, Any]], directory: Path) -> None:
        """Brings the resource files of a task into its working directory, several at a time.

        Raises:
            TransferError: BlobNotFound, BlobAccessDenied and the like, for the first file that could not be had.
        """
        waiting = iter(resource_files)

        def fetch_each() -> None:
            for file in waiting:
                self._fetch(file, directory)

        works = [asyncio.ensure_future(threads.in_thread(fetch_each))
                 for _ in range(min(_MOST_AT_ONCE, len(resource_files)))]
        try:
            await asyncio.gather(*works)
        finally:
            for work in works:
                work.cancel()

    def _fetch(self, file: dict[str, Any], directory: Path) -> None:
        for url, path in self._files_of(file):
            try:
                target = directory / path
                if directory not in target.resolve().parents:
                    raise ValueError('it would lie outside the working directory')
                _make_folders(directory, target.parent)
            except (OSError, ValueError, RuntimeError) as error:
                raise _not_written(error, path) from None
            self._exchange('Blob', url, lambda answer: _save(answer, target, path, file.get('fileMode', '0770')))

    def _files_of(self, file: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """The URL of each blob that a resource file stands for, and its path on the node."""
        if 'httpUrl' in file:
            yield file['httpUrl'], file['filePath']
            return
        container = _parts(file['storageContainerUrl'], 'ResourceContainer')
        marker = None
        while marker != '':
            query = [*parse_qsl(container.query), ('restype', 'container'), ('comp', 'list'),
                     *([('prefix', file['blobPrefix'])] if file.get('blobPrefix') else []),
                     *([('marker', marker)] if marker else [])]
            listing = self._exchange('ResourceContainer', urlunsplit(container._replace(query=urlencode(query))),
                                     _listing, headers={'x-ms-version': _STORAGE_API_VERSION})
            for name in (element.text or '' for element in listing.iterfind('.//Blob/Name')):
                path = f'{container.path}/{quote(name)}'
                folder = file.get('filePath', '').strip('/')
                yield urlunsplit(container._replace(path=path)), f'{folder}/{name}'.lstrip('/')
            marker = listing.findtext('NextMarker') or ''

    def upload(self, path: Path, container_url: str, blob_name: str, headers: dict[str, str]) -> None:
        """Puts one file into a container; to be called in a thread of threads.in_thread.

        Raises:
            TransferError: FileUploadContainerNotFound, FileUploadAccessDenied and the like.
        """
        container = _parts(container_url, 'FileUpload')
        try:
            url = urlunsplit(container._replace(path=f'{container.path}/{quote(blob_name)}'))
            descriptor = _open_regular(path)
        except UnicodeError:
            raise TransferError('usererror', 'FileUploadMiscError', 'The name of the file is not UTF-8') from None
        except OSError as error:
            raise TransferError('usererror', 'FileUploadMiscError',
                                f'The file cannot be read: {error.strerror}') from None
        with open(descriptor, 'rb', buffering=0) as file:
            size = os.fstat(descriptor).st_size
            self._exchange('FileUpload', url, lambda answer: None, lambda: _content(file, size), method='PUT', headers={
                **headers, 'x-ms-version': _STORAGE_API_VERSION, 'x-ms-blob-type': 'BlockBlob',
                'Content-Length': str(size), 'Content-Type': 'application/octet-stream'})

    def _exchange(self, what: str, url: str, use: Callable[[http.client.HTTPResponse], T],
                  content: Callable[[], Iterator[bytes] | None] = lambda: None, **request: Any) -> T:
        """Sends a request until it has its answer, and returns what ``use`` makes of that.

        Args:
            what: What it is for, ``Blob``, ``ResourceContainer`` or ``FileUpload``: it names the failure.
        """
        parts = _parts(url, what)
        address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition('@')[2], query='', fragment=''))
        for seconds in (*_PAUSES, None):
            asked = None
            try:
                message = urllib.request.Request(quote(url, safe="%/:=&?~#+!$,;'@()*[]"), content(), **request)
                with self._opener.open(message) as answer:
                    return use(answer)
            except urllib.error.HTTPError as error:
                error.close()
                problem = _refusal(what, address, error.code)
                lasting = error.code < 500 and error.code not in (408, 429)
                asked = re.fullmatch('[0-9]{1,4}', error.headers.get('Retry-After', ''))
            except (OSError, http.client.HTTPException, ValueError) as error:
                reason = getattr(error, 'reason', error)
                # A certificate that is not trusted is a ValueError, too.
                lasting = isinstance(reason, ValueError)
                problem = _trouble('usererror' if lasting else 'servererror', what, address, reason)
            if lasting or seconds is None:
                raise problem from None
            threads.pause(float(asked[0]) if asked else seconds)
        raise AssertionError('the last try has no pause')


def _parts(url: str, what: str) -> Any:
    try:
        parts = urlsplit(url)
        if parts.scheme in ('http', 'https') and parts.hostname and parts.port != 0:
            return parts
    except ValueError:  # it is no URL at all, or its port is no number
        pass
    raise TransferError('usererror', _code(what, 'MiscError'), 'An http or https URL with a host is needed')


def _refusal(what: str, address: str, status: int) -> TransferError:
    missing = 'FileUploadContainerNotFound' if what == 'FileUpload' else f'{what}NotFound'
    category, code = {
        404: ('usererror', missing), 403: ('usererror', f'{what}AccessDenied'),
        401: ('usererror', f'{what}AccessDenied'),
        409: ('usererror', _code(what, 'Conflict' if what == 'FileUpload' else 'MiscError')),
        408: ('servererror', _code(what, 'TimedOut')), 504: ('servererror', _code(what, 'TimedOut')),
    }.get(status, ('servererror', _code(what, 'MiscError')))
    return TransferError(category, code, f'{address} answered {status} {http.client.responses.get(status, "")}'.strip(),
                         HttpUrl=address)


def _trouble(category: str, what: str, address: str, reason: Any) -> TransferError:
    return TransferError(category, _code(what, 'TimedOut' if isinstance(reason, TimeoutError) else 'MiscError'),
                         f'{address} could not be reached: {getattr(reason, "strerror", None) or reason}',
                         HttpUrl=address)


def _code(what: str, kind: str) -> str:
    return {'Blob': 'BlobDownload', 'ResourceContainer': 'ResourceContainerList'}.get(what, what) + kind


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.timeout = _CONNECT_SECONDS
        super().connect()
        self.sock.settimeout(_SILENCE_SECONDS)
        threads.watch(self.sock)


class _SecureConnection(http.client.HTTPSConnection, _Connection):
    """Connects as above, and then begins to speak TLS."""


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self._trust = context

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, request, context=self._trust)


class _Proxies(urllib.request.ProxyHandler):
    """The proxies that the environment names, around which the calls to this machine go."""

    def proxy_open(self, request: urllib.request.Request, *proxy: str) -> Any:
        if urlsplit(request.full_url).hostname in _LOOPBACK:
            return None
        return super().proxy_open(request, *proxy)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request: urllib.request.Request, *answer: Any) -> urllib.request.Request | None:
        if urlsplit(answer[-1]).scheme not in ('http', 'https'):
            return None
        return super().redirect_request(request, *answer)


class _CutOff(http.client.HTTPException):
    def __init__(self, reason: object) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _blocks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """The content of an answer. Raises _CutOff when it does not come whole."""
    try:
        while block := answer.read(_BLOCK):
            yield block
    except OSError as error:
        raise _CutOff(error) from None
    if answer.length:
        raise _CutOff(f'the answer was cut off, {answer.length} bytes are missing')


def _make_folders(directory: Path, folder: Path) -> None:
    # Not with parents=True: a task that has gone meanwhile would get its directory back.
    for part in folder.relative_to(directory).parts:
        directory /= part
        directory.mkdir(exist_ok=True)


def _save(answer: http.client.HTTPResponse, target: Path, path: str, mode: str) -> None:
    part = target.with_name(f'.{uuid.uuid4().hex}')
    try:
        try:
            with open(part, 'xb') as copy:
                for block in _blocks(answer):
                    copy.write(block)
            part.chmod(int(mode, 8))
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise _not_written(error, path) from None


def _not_written(error: Exception, path: str) -> TransferError:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return TransferError('servererror' if isinstance(error, OSError) else 'usererror',
                         'DiskFull' if full else 'ResourceFileCreateFailed',
                         f'A resource file cannot be written: {getattr(error, "strerror", None) or error}',
                         FilePath=path)


def _listing(answer: http.client.HTTPResponse) -> xml.etree.ElementTree.Element:
    try:
        return xml.etree.ElementTree.fromstring(b''.join(islice(_blocks(answer), 256)))
    except xml.etree.ElementTree.ParseError:
        raise TransferError('servererror', 'ResourceContainerListMiscError',
                            'What the server sent is no list of blobs') from None


def _open_regular(path: Path) -> int:
    """Returns a descriptor. Raises OSError for what would block, or do something else, when it is opened or read."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, 'it is not a regular file')
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _content(file: Any, size: int) -> Iterator[bytes]:
    """As many bytes as were announced, of a file that may change meanwhile."""
    try:
        file.seek(0)
        while size and (block := file.read(min(size, _BLOCK))):
            size -= len(block)
            yield block
    except OSError as error:
        raise TransferError('usererror', 'FileUploadMiscError',
                            f'The file cannot be read: {error.strerror}') from None
    if size:
        raise TransferError('usererror', 'FileUploadMiscError', 'The file became shorter while it was uploaded')
