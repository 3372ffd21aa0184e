"""How the service talks: requests as handlers see them, answers, conditions, pages.

Seen in recorded traffic of the real service (azure-sdk-for-python, sdk/batch/azure-batch/tests/recordings).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Callable, Mapping, Protocol
from urllib.parse import parse_qsl, quote, urlencode

from starlette.responses import Response

from ..errors import BatchError
from ..settings import Settings
from ..store import Store
from ..values import http_date, moment, moment_of_header
from .odata import Filterable, condition

Document = dict[str, Any]

LARGEST_PAGE = 1000
_CONDITIONS = {'if-match', 'if-none-match', 'if-modified-since', 'if-unmodified-since'}
_JSON = 'application/json; odata=minimalmetadata'


class Service(Protocol):
    """What handlers ask of the service, besides its documents."""

    store: Store
    settings: Settings
    url: str

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns when a condition on the documents holds."""

    def node_root(self, node_id: str) -> Path | None:
        """Where the files of a node are; None while it is not up."""

    def task_directory(self, node_id: str, job_id: str, task_id: str) -> Path | None:
        """Where the files of a task are, or were; None when its node is not up."""

    def remove_files_of(self, task: Document) -> None:
        """Removes the files of a task."""

    def throw_away(self, path: Path) -> None:
        """Removes a file, or a directory of any size and any modes; from any thread. Raises OSError."""


@dataclass
class Call:
    """One request, as a handler sees it.

    Attributes:
        service: What the request is about to.
        method: The HTTP method.
        path: The path exactly as sent.
        query: The query's parameters, names in lower case; those without a value are left out.
        headers: Names in lower case.
        base: Scheme and address that the client reached the service by.
        names: What the path names, by the route's placeholders, percent-decoded.
        version: The version of the API that the client speaks.
        size: How many bytes the body has.
        body: The parsed JSON body; None if there is none or it is null.
    """

    service: Service
    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    base: str
    names: dict[str, str] = field(default_factory=dict)
    version: str = ''
    size: int = 0
    body: Any = None

    def pool(self) -> Document:
        """The pool that the path names; this and the next three raise BatchError where there is none."""
        return self.service.store.get('pool', '', self.names['pool'])

    def node(self) -> Document:
        return self.service.store.get('node', self.pool()['id'], self.names['node'])

    def job(self) -> Document:
        return self.service.store.get('job', '', self.names['job'])

    def task(self) -> tuple[str, Document]:
        """The job's id, and the task."""
        job_id = self.job()['id']
        return job_id, self.service.store.get('task', job_id, self.names['task'])

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number from the query.

        Raises:
            BatchError: InvalidQueryParameterValue or OutOfRangeQueryParameterValue, with the reason.
        """
        text = self.query.get(name)
        if text is None:
            return default
        if not re.fullmatch('-?[0-9]+', text):
            raise _bad_parameter(name, text, 'A whole number is expected')
        number = int(text[:20])
        if number < least:
            raise _bad_parameter(name, text, f'{name.replace("maxresults", "MaxResults")} cannot be less than {least}')
        if number > most:
            raise BatchError('OutOfRangeQueryParameterValue', QueryParameterName=name, QueryParameterValue=text,
                             Reason=f'The largest value is {most}')
        return number


def _bad_parameter(name: str, value: str, reason: str) -> BatchError:
    return BatchError('InvalidQueryParameterValue', QueryParameterName=name, QueryParameterValue=value, Reason=reason)


def json_answer(call: Call, fragment: str, document: Document, status: int = 200,
                headers: Mapping[str, str] | None = None) -> Response:
    """An answer with a JSON body, whose metadata link ends in the fragment."""
    body = {'odata.metadata': f'{call.base}/$metadata#{fragment}', **document}
    return Response(json.dumps(body, separators=(',', ':')), status, {**(headers or {}), 'Content-Type': _JSON})


def one(call: Call, fragment: str, document: Document) -> Response:
    """A single resource, with its entity tag, and only the properties that the client selected."""
    _check_expand(call)
    check_conditions(call, document)
    return json_answer(call, f'{fragment}/@Element', _selected(call, document), headers=_tags(document))


def changed(call: Call, status: int, document: Document | None = None, location: str | None = None) -> Response:
    """The answer to a write: no body, the resource's entity tag, and its address."""
    headers = {'DataServiceId': location or call.base + call.path}
    if document and 'eTag' in document:
        headers |= _tags(document)
    if status == 201 and location:
        headers['Location'] = location
    return Response(status_code=status, headers=headers)


def page(call: Call, fragment: str, kind: str, parent: str, filterable: Filterable,
         present: Callable[[Document], Document]) -> Response:
    """One page of a list of resources in the order of their ids, with the link to the next one."""
    _check_expand(call)
    most = call.number('maxresults', LARGEST_PAGE, 1, LARGEST_PAGE)
    chosen = condition(call.query['$filter'], filterable) if call.query.get('$filter') else None
    after = skip_token(call)
    if not after.isascii():
        raise _bad_token(call)
    documents = call.service.store.page(kind, parent, after, most + 1, chosen)
    return listing(call, fragment, [_selected(call, present(dict(document))) for document in documents[:most]],
                   documents[most - 1]['id'] if len(documents) > most else None)


def page_of(call: Call, fragment: str, items: list[Document], largest: int = LARGEST_PAGE) -> Response:
    """One page of a list that is no table of resources."""
    most = call.number('maxresults', largest, 1, largest)
    token = skip_token(call) or '0'
    if not re.fullmatch('[0-9]{1,9}', token):
        raise _bad_token(call)
    end = int(token) + most
    return listing(call, fragment, items[int(token):end], str(end) if len(items) > end else None)


def listing(call: Call, fragment: str, items: list[Document], last: str | None) -> Response:
    """A page, with the link to what comes after the name ``last`` if there is more."""
    document: Document = {'value': items}
    if last is not None:
        token = base64.urlsafe_b64encode(last.encode('utf-8', 'surrogateescape')).decode().rstrip('=')
        query = urlencode({**call.query, '$skiptoken': token}, quote_via=quote)
        document['odata.nextLink'] = f'{call.base}{call.path}?{query}'
    return json_answer(call, fragment, document)


def skip_token(call: Call) -> str:
    """After which name a page begins; bytes of it that are not UTF-8 are surrogates, as in the names of files.

    Raises:
        BatchError: InvalidQueryParameterValue for what no page has had as its link.
    """
    token = call.query.get('$skiptoken', '')
    try:
        return base64.b64decode(token + '=' * (-len(token) % 4), b'-_', validate=True).decode(
            'utf-8', 'surrogateescape')
    except (binascii.Error, ValueError):
        raise _bad_token(call) from None


def _bad_token(call: Call) -> BatchError:
    return _bad_parameter('$skiptoken', call.query['$skiptoken'], 'It was not given by this service')


def _selected(call: Call, document: Document) -> Document:
    """The top-level properties that ``$select`` names, or all; the Azure CLI puts blanks between the names."""
    document = {name: value for name, value in document.items() if not name.startswith('_')}
    if not call.query.get('$select'):
        return document
    names = {name.strip() for name in call.query['$select'].split(',')}
    return {name: value for name, value in document.items() if '*' in names or name in names}


def _check_expand(call: Call) -> None:
    expand = call.query.get('$expand', 'stats')
    if expand != 'stats':
        raise _bad_parameter('$expand', expand, "Only 'stats' can be expanded")


def _tags(document: Document) -> dict[str, str]:
    if 'eTag' not in document:
        return {}
    return {'ETag': document['eTag'], 'Last-Modified': http_date(document['lastModified'])}


def check_conditions(call: Call, document: Document) -> None:
    """Compares the request's conditional headers with a resource.

    Raises:
        BatchError: ConditionNotMet, with status 304 for a read and 412 for a write; or
            MultipleConditionHeadersNotSupported.
    """
    if len(_CONDITIONS & call.headers.keys()) > 1:
        raise BatchError('MultipleConditionHeadersNotSupported')
    tag, modified = document.get('eTag', ''), document.get('lastModified')
    met = True
    if 'if-match' in call.headers:
        met &= _names_tag(call.headers['if-match'], tag)
    if 'if-none-match' in call.headers:
        met &= not _names_tag(call.headers['if-none-match'], tag)
    for name, expected in (('if-modified-since', True), ('if-unmodified-since', False)):
        if modified and name in call.headers:
            met &= (moment(modified).replace(microsecond=0) > _date(name, call.headers[name])) == expected
    if not met:
        error = BatchError('ConditionNotMet')
        error.status = 304 if call.method in ('GET', 'HEAD') else 412
        raise error


def _names_tag(header: str, tag: str) -> bool:
    return any(one.strip().strip('"') in ('*', tag) for one in header.split(','))


def _date(name: str, text: str) -> datetime:
    try:
        return moment_of_header(text)
    except ValueError:
        raise BatchError('InvalidHeaderValue', HeaderName=name, HeaderValue=text) from None


def parse_query(query: str) -> dict[str, str]:
    """The parameters of a query string; of a repeated name, in whatever case, the first value counts."""
    parameters: dict[str, str] = {}
    for name, value in parse_qsl(query):
        parameters.setdefault(name.lower(), value)
    return parameters


def address(call: Call, *segments: str) -> str:
    """The URL of a resource of this service."""
    return '/'.join([call.base, *(quote(segment, safe='()=,') for segment in segments)])
