from __future__ import annotations

import base64
import hashlib
import hmac
from email.utils import formatdate
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.batch_service.errors import BatchError
from common.batch_service.wire.auth import SharedKey
from common.batch_service.wire.call import parse_query

KEY = base64.b64encode(b'secret').decode()
SIGNED = ['content-encoding', 'content-language', 'content-length', 'content-md5', 'content-type', 'date',
          'if-modified-since', 'if-match', 'if-none-match', 'if-unmodified-since', 'range']
VALUE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8)
HEADERS = st.dictionaries(st.sampled_from([name for name in SIGNED if name != 'date'] + ['ocp-range', 'ocp-x']), VALUE)
QUERY = st.lists(st.tuples(st.sampled_from(['$filter', 'maxresults', 'recursive', 'Recursive', 'timeOut']), VALUE),
                 max_size=4, unique_by=lambda pair: pair[0].lower())
PATH = st.text('abc/%2Fd', max_size=10).map(lambda path: f'/{path}')
UNHURRIED = settings(deadline=None)


def sign(method: str, path: str, query: list[tuple[str, str]], headers: dict[str, str]) -> dict[str, str]:
    """The headers with a date and a signature, by the documentation: once more, and differently, than the service."""
    headers = {**headers, 'ocp-date': formatdate(usegmt=True)}
    text = method + '\n' + ''.join(headers.get(name, '') + '\n' for name in SIGNED)
    text += ''.join(f'{name}:{headers[name]}\n' for name in sorted(headers) if name.startswith('ocp-'))
    text += f'/account{path}' + ''.join(f'\n{name}:{value}' for name, value in sorted(query))
    digest = hmac.new(b'secret', text.encode(), hashlib.sha256).digest()
    return {**headers, 'authorization': f'SharedKey account:{base64.b64encode(digest).decode()}'}


def passes(method: str, path: str, query: str, headers: dict[str, str]) -> bool:
    try:
        SharedKey('account', KEY).check(method, path, query, headers)
    except BatchError as error:
        assert error.code in ('AuthenticationFailed', 'InvalidAuthenticationInfo')
        return False
    return True


@UNHURRIED
@given(st.sampled_from(['GET', 'DELETE']), PATH, QUERY, HEADERS)
def test_what_is_signed_as_documented_passes(method, path, query, headers) -> None:
    assert passes(method, path, urlencode(query), sign(method, path, query, headers))


@UNHURRIED
@given(PATH, QUERY, HEADERS, st.data())
def test_nothing_can_be_changed_that_is_signed(path, query, headers, data) -> None:
    signed = sign('GET', path, query, headers)
    assert not passes('DELETE', path, urlencode(query), signed)
    assert not passes('GET', path + 'x', urlencode(query), signed)
    name = data.draw(st.sampled_from([*SIGNED, 'ocp-range', 'ocp-date']).filter('date'.__ne__))  # ocp-date counts
    value = data.draw(VALUE.filter(lambda value: value != signed.get(name)))
    assert not passes('GET', path, urlencode(query), {**signed, name: value})


@UNHURRIED
@given(QUERY, QUERY)
def test_what_is_obeyed_of_a_query_is_what_is_signed(query, added) -> None:
    tampered = urlencode(added + query)
    if passes('GET', '/', tampered, sign('GET', '/', query, {})):
        assert parse_query(tampered) == parse_query(urlencode(query))


@UNHURRIED
@given(st.text(st.characters(max_codepoint=255), max_size=40) | VALUE.map('SharedKey account:'.__add__),
       st.text(st.characters(max_codepoint=255), max_size=30))
def test_any_header_is_refused_by_name(authorization, date) -> None:
    assert not passes('GET', '/', '', {'authorization': authorization, 'ocp-date': date, 'date': formatdate()})


@pytest.mark.parametrize('zone', ['-0000', '', 'GMT', '+0000'])
def test_date_without_a_zone_is_in_utc(zone, monkeypatch) -> None:
    monkeypatch.setenv('TZ', 'Asia/Tokyo')
    with pytest.raises(BatchError, match='^AuthenticationFailed') as error:
        SharedKey('account', KEY).check('GET', '/', '', {
            'authorization': 'SharedKey account:eA==', 'ocp-date': formatdate(usegmt=True).replace('GMT', zone)})
    assert 'MAC signature' in error.value.values['AuthenticationErrorDetail']
