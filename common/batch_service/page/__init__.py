"""The page to watch: its files, its reads of the API, word of every change; and who may see them.

All of it is below one path that no operation of Batch has. Nothing here changes anything.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone
from pathlib import Path
from typing import Mapping
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import BatchError
from ..server import Server, hosts_of
from ..service import BatchService
from ..settings import PAGE_PATH as PATH
from ..wire.versions import SUPPORTED
from .key import PageKey

_API = f'{PATH}/api'
_LONGEST_WAIT_SECONDS = 25.0
_KINDS = {'.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml'}
_STATIC = {path.name: (path.read_bytes(), _KINDS[path.suffix])
           for path in sorted(Path(__file__).with_name('static').iterdir()) if path.suffix in _KINDS}
_HTML = Path(__file__).with_name('static') / 'index.html'

# What comes from users is text to the scripts, and can be nothing else to the browser.
_POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
           "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
_HEADERS = {'Content-Security-Policy': _POLICY, 'Cache-Control': 'no-store', 'Referrer-Policy': 'no-referrer',
            'X-Content-Type-Options': 'nosniff', 'Cross-Origin-Resource-Policy': 'same-origin'}
# A file of a task that is a web page would be one of ours, were it opened.
_HEADERS_OF_API = {**_HEADERS, 'Content-Security-Policy': 'sandbox', 'Content-Disposition': 'attachment'}

_NO_KEY = ('This page is for whoever has its address with the token in it, which is another one for each run.\n'
           'The tutorial and "python -m common.local_azure" print it.\n')
# Not a redirect: a cookie that only this site gets is not sent to where another site's link is redirected.
_WELCOME = ('<!doctype html><title>Azure Batch on this machine</title>'
            f'<link rel="icon" href="{PATH}/static/icon.svg"><meta http-equiv="refresh" content="0; url={PATH}/">')


class Page:
    """The ASGI application in front of the API's: answers what is below its path, and hands on everything else.

    Args:
        service: What the page shows.
        api: The API for its other clients.
        token: What the page's address has in it for whoever may see it; empty: nobody may.
    """

    def __init__(self, service: BatchService, api: ASGIApp, token: str) -> None:
        self._service = service
        self._api = api
        self._key = PageKey(token, service.url)
        self._reads = Server(service, self._key)
        self._hosts = hosts_of(service.url)
        self._since = datetime.now(timezone.utc).isoformat()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http' or not f'{scope["path"]}/'.startswith(f'{PATH}/'):
            await self._api(scope, receive, send)
            return
        if scope['path'].startswith(f'{_API}/'):
            await self._reads(_as_of_api(scope), receive, _with_headers(send, _HEADERS_OF_API))
            return
        try:
            response = await self._answer(Request(scope))
        except asyncio.CancelledError:  # the service ends
            response = PlainTextResponse('The service ends.', 503)
        response.headers.update(_HEADERS)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if request.headers.get('host', '').lower() not in self._hosts:
            return PlainTextResponse('There is no such host here.\n', 400)
        if request.method not in ('GET', 'HEAD'):
            return PlainTextResponse('Nothing is changed here.\n', 405)
        if 'token' in request.query_params:
            if not self._key.is_token(request.query_params['token']):
                return PlainTextResponse(_NO_KEY, 403)
            return HTMLResponse(_WELCOME, headers={'Set-Cookie': self._key.cookie(PATH)})
        try:
            self._key.check(request.method, '', '', request.headers)
        except BatchError:
            return PlainTextResponse(_NO_KEY, 403)
        return await self._content(request.url.path, request.query_params)

    async def _content(self, path: str, query: Mapping[str, str]) -> Response:
        folder, _, name = path.rpartition('/')
        if folder == f'{PATH}/static':
            content, kind = _STATIC.get(name, (b'', ''))
            return Response(content, media_type=kind) if kind else PlainTextResponse('There is no such file.\n', 404)
        if path == f'{PATH}/about':
            return JSONResponse({'workspace': str(self._service.workspace.parent), 'since': self._since})
        if path == f'{PATH}/changes':
            return JSONResponse({'number': await self._next_change(query.get('after'))})
        # Every other address is that of a view, which the scripts find out.
        return HTMLResponse(_HTML.read_bytes())

    async def _next_change(self, after: str | None) -> str:
        """The number of the last change of the documents, when that is not the one which the page has seen."""
        store = self._service.store
        changed = asyncio.create_task(self._service.until(lambda: str(store.changes) != after))
        try:
            await asyncio.wait([changed], timeout=_LONGEST_WAIT_SECONDS)
        finally:
            changed.cancel()
        return str(store.changes)


def _as_of_api(scope: Scope) -> Scope:
    """A request of the page as the API knows it, of the newest version."""
    query = scope['query_string']
    if not any(name.lower() == 'api-version' for name, _ in parse_qsl(query.decode('latin-1'))):
        query = b'&'.join(filter(None, [f'api-version={SUPPORTED[-1]}'.encode(), query]))
    raw_path = scope.get('raw_path') or scope['path'].encode()
    return {**scope, 'path': scope['path'].removeprefix(_API), 'raw_path': raw_path.removeprefix(_API.encode()),
            'query_string': query, 'root_path': _API}


def _with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message['type'] == 'http.response.start':
            added = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            message = {**message, 'headers': [
                *(header for header in message['headers'] if header[0].lower() not in dict(added)), *added]}
        await send(message)
    return send_with_headers
