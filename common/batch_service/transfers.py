"""What a node fetches before a task runs and uploads after it: resource files and output files.

https://learn.microsoft.com/azure/batch/resource-files
https://learn.microsoft.com/azure/batch/batch-task-output-files
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
import urllib.error
import urllib.request
import xml.etree.ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Iterator
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

_TIMEOUT_SECONDS = 60
_STORAGE_API_VERSION = '2020-10-02'
_LOOPBACK = ('127.0.0.1', 'localhost', '[::1]')


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
    """Moves files between storage and nodes, several at a time, outside the event loop.

    Args:
        certificate: A PEM file to trust besides the system's, for storage on this machine that speaks https.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        self._threads = ThreadPoolExecutor(max_workers=16, thread_name_prefix='transfer')
        context = ssl.create_default_context()
        if certificate:
            context.load_verify_locations(certificate)
        self._direct = urllib.request.build_opener(urllib.request.ProxyHandler({}),
                                                   urllib.request.HTTPSHandler(context=context))
        self._default = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))

    def close(self) -> None:
        """Waits for no transfer that is still under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, resource_files: list[dict[str, Any]], directory: Path) -> None:
        """Brings the resource files of a task into its working directory.

        Raises:
            TransferError: BlobNotFound, BlobAccessDenied and the like, for the first file that could not be had.
        """
        if resource_files:
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(self._threads, self._fetch, file, directory)
                                   for file in resource_files))

    def _fetch(self, file: dict[str, Any], directory: Path) -> None:
        for url, path in self._files_of(file):
            target = directory / path
            if directory not in target.resolve().parents:
                raise TransferError('usererror', 'ResourceFileCreateFailed',
                                    'A resource file would lie outside the working directory', FilePath=path)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with self._open(urllib.request.Request(url), 'Blob') as source, open(target, 'wb') as copy:
                    shutil.copyfileobj(source, copy)
                target.chmod(int(file.get('fileMode', '0770'), 8))
            except OSError as error:
                raise TransferError('servererror', 'ResourceFileCreateFailed', f'A resource file could not be '
                                    f'written: {error.strerror or error}', FilePath=path) from error

    def _files_of(self, file: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """The URL of each blob that a resource file stands for, and its path on the node."""
        if 'httpUrl' in file:
            yield file['httpUrl'], file['filePath']
            return
        container = urlsplit(file['storageContainerUrl'])
        marker = None
        while marker != '':
            query = [*parse_qsl(container.query), ('restype', 'container'), ('comp', 'list'),
                     *([('prefix', file['blobPrefix'])] if file.get('blobPrefix') else []),
                     *([('marker', marker)] if marker else [])]
            request = urllib.request.Request(urlunsplit(container._replace(query=urlencode(query))),
                                             headers={'x-ms-version': _STORAGE_API_VERSION})
            with self._open(request, 'ResourceContainer') as answer:
                listing = xml.etree.ElementTree.parse(answer)
            for name in (element.text or '' for element in listing.iterfind('.//Blob/Name')):
                path = f'{container.path}/{quote(name)}'
                folder = file.get('filePath', '').strip('/')
                yield urlunsplit(container._replace(path=path)), f'{folder}/{name}'.lstrip('/')
            marker = listing.findtext('NextMarker') or ''

    async def upload(self, path: Path, container_url: str, blob_name: str, headers: dict[str, str]) -> None:
        """Puts one file into a container.

        Raises:
            TransferError: FileUploadContainerNotFound, FileUploadAccessDenied and the like.
        """
        await asyncio.get_running_loop().run_in_executor(
            self._threads, self._upload, path, container_url, blob_name, headers)

    def _upload(self, path: Path, container_url: str, blob_name: str, headers: dict[str, str]) -> None:
        container = urlsplit(container_url)
        url = urlunsplit(container._replace(path=f'{container.path}/{quote(blob_name)}'))
        with open(path, 'rb') as file:
            request = urllib.request.Request(url, data=file, method='PUT', headers={
                **headers, 'x-ms-version': _STORAGE_API_VERSION, 'x-ms-blob-type': 'BlockBlob',
                'Content-Length': str(path.stat().st_size), 'Content-Type': 'application/octet-stream'})
            self._open(request, 'FileUpload').close()

    def _open(self, request: urllib.request.Request, what: str) -> IO[bytes]:
        """Sends a request; what it is for, ``Blob``, ``ResourceContainer`` or ``FileUpload``, names the failure."""
        parts = urlsplit(request.full_url)
        address = urlunsplit(parts._replace(query=''))
        opener = self._direct if parts.hostname in _LOOPBACK else self._default
        try:
            return opener.open(request, timeout=_TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            error.close()
            missing = 'FileUploadContainerNotFound' if what == 'FileUpload' else f'{what}NotFound'
            category, code = {404: ('usererror', missing), 403: ('usererror', f'{what}AccessDenied'),
                              401: ('usererror', f'{what}AccessDenied')}.get(
                                  error.code, ('servererror', _trouble(what, 'MiscError')))
            raise TransferError(category, code, f'{address} answered {error.code} {error.reason}',
                                HttpUrl=address) from None
        except (OSError, ValueError) as error:
            timed_out = isinstance(error, TimeoutError) or isinstance(getattr(error, 'reason', None), TimeoutError)
            raise TransferError('servererror', _trouble(what, 'TimedOut' if timed_out else 'MiscError'),
                                f'{address} could not be reached: {getattr(error, "reason", error)}',
                                HttpUrl=address) from None


def _trouble(what: str, kind: str) -> str:
    return {'Blob': 'BlobDownload', 'ResourceContainer': 'ResourceContainerList'}.get(what, what) + kind
