"""The way of a request: checked for its signature and its version, read, matched with a route, answered."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import random
import re
import time
import uuid
from email.utils import formatdate
from urllib.parse import unquote, urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .api import ROUTES, Route
from .errors import BatchError, needs_trace
from .values import now
from .wire import versions
from .wire.auth import Key
from .wire.body import body_of
from .wire.call import Call, Service, json_answer, parse_query

_LOG = logging.getLogger(__name__)

_PARAMETERS = {'api-version', 'timeout', 'maxresults', '$filter', '$select', '$expand', '$skiptoken', 'recursive',
               'force', 'starttime', 'endtime'}
_PORTS = {'http': 80, 'https': 443}
_VERBS = ('GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'CONNECT')
_ERROR_FRAGMENT = 'Microsoft.Azure.Batch.Protocol.Entities.Container.errors/@Element'


class Server:
    """The ASGI application.

    Args:
        service: Whom the requests are for.
        key: Who may speak.
    """

    def __init__(self, service: Service, key: Key) -> None:
        self._service = service
        self._key = key
        self._hosts = hosts_of(service.url)
        self._routes = [(route, _pattern(route.path)) for route in ROUTES]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            raise RuntimeError(f'Only HTTP is served, not {scope["type"]}')
        request = Request(scope, receive)
        call = self._call(request)
        request_id, began = str(uuid.uuid4()), time.perf_counter()
        try:
            response = await self._answer(call, request)
        except ClientDisconnect:
            return
        except asyncio.CancelledError:  # the service ends: what was asked for may be done, or not
            response = _refusal(call, BatchError('ServerBusy'), request_id)
        except BatchError as error:
            response = _refusal(call, error, request_id)
        except Exception as error:  # the last resort: whatever is wrong here, the client gets an answer
            _LOG.error('Request %s failed: %s %s: %s', request_id, call.method, call.path, error,
                       exc_info=needs_trace(error))
            response = _refusal(call, BatchError('InternalError'), request_id)
        self._add_headers(call, response, request_id)
        with contextlib.suppress(asyncio.CancelledError):  # the service ends
            await response(scope, receive, send)
        _LOG.info('%s %s %d %.1f ms', call.method, call.path, response.status_code,
                  (time.perf_counter() - began) * 1000)

    def _call(self, request: Request) -> Call:
        scope = request.scope
        raw_path = (scope.get('raw_path') or scope['path'].encode()).decode('latin-1')
        headers = {name.decode('latin-1').lower(): value.decode('latin-1') for name, value in scope['headers']}
        host = headers.get('host', '').lower()
        base = f'{scope["scheme"]}://{host}' if host in self._hosts else self._service.url
        return Call(self._service, request.method, raw_path.partition('?')[0],
                    parse_query(scope['query_string'].decode('latin-1')), headers, base + scope.get('root_path', ''))

    async def _answer(self, call: Call, request: Request) -> Response:
        self._check_host(call)
        self._key.check(call.method, call.path, request.scope['query_string'].decode('latin-1'), call.headers)
        self._be_busy()
        call.version = versions.check(call.query.get('api-version'))
        _check_parameters(call)
        route = self._route(call)
        call.body, call.size = await body_of(request, call.headers, route.largest_body)
        _check_content_type(call)
        if inspect.iscoroutinefunction(route.handler):
            return await route.handler(call)
        with self._service.store.transaction():
            return route.handler(call)

    def _check_host(self, call: Call) -> None:
        """Refuses what a page of another site sends to a name of its own that leads to this machine."""
        host = call.headers.get('host', '')
        if host.lower() not in self._hosts:
            raise BatchError('InvalidHeaderValue', HeaderName='Host', HeaderValue=host,
                             Reason=f'Expected one of: {", ".join(self._hosts)}')

    def _be_busy(self) -> None:
        """Refuses a share of the requests, as a service under load does."""
        if random.random() < self._service.settings.busy_share:
            raise BatchError(random.choice(('ServerBusy', 'TooManyRequests')))

    def _route(self, call: Call) -> Route:
        """The route of a request; what its path names is kept on the call."""
        if call.method not in _VERBS:
            raise BatchError('InvalidHttpVerb')
        path, known_path = call.path.strip('/'), False
        for route, pattern in self._routes:
            match = pattern.fullmatch(path)
            if match and call.version <= route.until:
                known_path = True
                if route.method == call.method:
                    # Names of files are bytes, whatever they are.
                    call.names = {name: unquote(text, errors='surrogateescape' if name == 'path' else 'replace')
                                  for name, text in match.groupdict().items()}
                    return route
        raise BatchError('UnsupportedHttpVerb' if known_path else 'InvalidUri')

    @staticmethod
    def _add_headers(call: Call, response: Response, request_id: str) -> None:
        response.headers['Date'] = formatdate(usegmt=True)
        response.headers['request-id'] = request_id
        response.headers['DataServiceVersion'] = '3.0'
        response.headers['X-Content-Type-Options'] = 'nosniff'
        if call.headers.get('return-client-request-id', '').lower() == 'true' and 'client-request-id' in call.headers:
            response.headers['client-request-id'] = call.headers['client-request-id']


def hosts_of(url: str) -> tuple[str, ...]:
    """What the Host header may say: this machine by number or name, the port left out where it is the scheme's own."""
    address = urlsplit(url)
    hosts = tuple(f'{host}:{address.port}' for host in (address.hostname, 'localhost'))
    return hosts + (hosts[0].rpartition(':')[0], 'localhost') if address.port == _PORTS[address.scheme] else hosts


def _check_parameters(call: Call) -> None:
    for name in call.query:
        if name.lower() not in _PARAMETERS:
            raise BatchError('UnsupportedQueryParameter', QueryParameterName=name)


def _check_content_type(call: Call) -> None:
    kind = call.headers.get('content-type', '')
    if call.size and kind.partition(';')[0].strip().lower() != 'application/json':
        raise BatchError('InvalidHeaderValue', HeaderName='Content-Type', HeaderValue=kind)


def _pattern(path: str) -> re.Pattern[str]:
    """What matches the paths of a route, without slashes at both ends: those of files have more than slashes there."""
    def group(placeholder: re.Match[str]) -> str:
        return f'(?P<{placeholder[1]}>{"(?!(?:/|%2[Ff])*$).+" if placeholder[2] else "[^/]*"})'
    return re.compile(re.sub(r'\\{(\w+)(\\\*)?\\}', group, re.escape(path.strip('/'))))


def _refusal(call: Call, error: BatchError, request_id: str) -> Response:
    headers = {'Retry-After': '1'} if error.code in ('ServerBusy', 'TooManyRequests') else {}
    if call.method == 'HEAD' or error.status == 304:
        return Response(status_code=error.status, headers=headers)
    document = error.document()
    document['message']['value'] += f'\nRequestId:{request_id}\nTime:{now()}'
    return json_answer(call, _ERROR_FRAGMENT, document, error.status, headers)
