"""How the service talks: requests as handlers see them, answers, conditions, pages.

Seen in recorded traffic of the real service (azure-sdk-for-python, sdk/batch/azure-batch/tests/recordings).
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Callable, Mapping
from urllib.parse import parse_qsl, quote, urlencode

from starlette.responses import Response

from .errors import BatchError
from .odata import Filterable, condition
from .service import BatchService
from .values import http_date, moment

Document = dict[str, Any]

_LARGEST_PAGE = 1000
_CONDITIONS = {'if-match', 'if-none-match', 'if-modified-since', 'if-unmodified-since'}
_JSON = 'application/json; odata=minimalmetadata'


@dataclass
class Call:
    """One request, as a handler sees it.

    Attributes:
        service: What the request is about to.
        method: The HTTP method.
        path: The path exactly as sent.
        query: The query's parameters; those without a value are left out.
        headers: Names in lower case.
        base: Scheme and address that the client reached the service by.
        names: What the path names, by the route's placeholders, percent-decoded.
        version: The version of the API that the client speaks.
        size: How many bytes the body has.
        body: The parsed JSON body; None if there is none.
    """

    service: BatchService
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

    def task(self) -> Document:
        return self.service.store.get('task', self.job()['id'], self.names['task'])

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number from the query.

        Raises:
            BatchError: InvalidQueryParameterValue or OutOfRangeQueryParameterValue, with the reason.
        """
        text = self.query.get(name)
        if text is None:
            return default
        try:
            number = int(text)
        except ValueError:
            raise _bad_parameter(name, text, 'A whole number is expected') from None
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
         present: Callable[[Document], Document], largest: int = _LARGEST_PAGE) -> Response:
    """One page of a list of resources in the order of their ids, with the link to the next one."""
    _check_expand(call)
    most = call.number('maxresults', largest, 1, largest)
    chosen = condition(call.query['$filter'], filterable) if call.query.get('$filter') else None
    documents = call.service.store.page(kind, parent, _from_token(call.query.get('$skiptoken')), most + 1, chosen)
    listing: Document = {'value': [_selected(call, present(dict(document))) for document in documents[:most]]}
    if len(documents) > most:
        listing['odata.nextLink'] = _next_link(call, documents[most - 1]['id'])
    return json_answer(call, fragment, listing)


def page_of(call: Call, fragment: str, items: list[Document], largest: int = _LARGEST_PAGE) -> Response:
    """One page of a list that is no table of resources, files for instance."""
    most = call.number('maxresults', largest, 1, largest)
    token = _from_token(call.query.get('$skiptoken')) or '0'
    if not token.isdigit():
        raise _bad_parameter('$skiptoken', token, 'It was not given by this service')
    start = int(token)
    listing: Document = {'value': items[start:start + most]}
    if len(items) > start + most:
        listing['odata.nextLink'] = _next_link(call, str(start + most))
    return json_answer(call, fragment, listing)


def _next_link(call: Call, last: str) -> str:
    token = base64.urlsafe_b64encode(last.encode()).decode().rstrip('=')
    return f'{call.base}{call.path}?{urlencode({**call.query, "$skiptoken": token}, quote_via=quote)}'


def _from_token(token: str | None) -> str:
    if not token:
        return ''
    try:
        return base64.urlsafe_b64decode(token + '=' * (-len(token) % 4)).decode()
    except (binascii.Error, ValueError):
        raise _bad_parameter('$skiptoken', token, 'It was not given by this service') from None


def _selected(call: Call, document: Document) -> Document:
    """The top-level properties that ``$select`` names, or all; the Azure CLI puts blanks between the names."""
    if not call.query.get('$select'):
        return document
    names = {name.strip() for name in call.query['$select'].split(',')}
    return {name: value for name, value in document.items() if name in names}


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


def _date(name: str, text: str) -> Any:
    try:
        return parsedate_to_datetime(text)
    except ValueError:
        raise BatchError('InvalidHeaderValue', HeaderName=name, HeaderValue=text) from None


def parse_query(query: str) -> dict[str, str]:
    """The parameters of a query string; of a repeated name the first value counts."""
    parameters: dict[str, str] = {}
    for name, value in parse_qsl(query):
        parameters.setdefault(name, value)
    return parameters


def address(call: Call, *segments: str) -> str:
    """The URL of a resource of this service."""
    return '/'.join([call.base, *(quote(segment, safe='()=,') for segment in segments)])
