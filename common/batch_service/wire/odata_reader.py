"""Reads a ``$filter`` into a condition in SQL: the part of OData's grammar that Azure Batch has.

https://learn.microsoft.com/rest/api/batchservice/odata-filters-in-batch
https://docs.oasis-open.org/odata/odata/v4.01/odata-v4.01-part2-url-conventions.html#sec_SystemQueryOptionfilter
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Iterator, Mapping, NamedTuple

from ..values import moment, timestamp

Filterable = Mapping[str, frozenset[str]]
"""For each property, slashes between its levels, the comparisons that the list allows."""

_SIGNS = {'eq': '=', 'ne': '<>', 'gt': '>', 'ge': '>=', 'lt': '<', 'le': '<='}
_MIRRORED = {'gt': 'lt', 'ge': 'le', 'lt': 'gt', 'le': 'ge'}
_STRENGTHS = {'(': 0, 'or': 1, 'and': 2, 'not': 3}
_TOKEN = re.compile(r"\s*(?:(?P<date>(?i:datetime)'[^']*')|(?P<string>'[^']*(?:''[^']*)*')|(?P<mark>[(),])"
                    r"|(?P<word>[^\s(),']+)|(?P<quote>')|(?P<end>\Z))")
_ISO_8601 = re.compile(r'(\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d)?)((?<=:\d\d:\d\d)\.\d+)?(Z|[+-]\d\d:\d\d)?')
_VALUE = 'a value (a string in quotes, a number, a date, true or false)'
_MOST_COMPARISONS = 200
# Each open parenthesis or word takes up to two places on the stack of SQLite's parser; many versions have 100.
_MOST_OPEN = 30
_COLUMNS = ('id', 'state')
_OTHER_NAMES = {'lastModifiedTime': 'lastModified'}


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


class _Part(NamedTuple):
    """A comparison, or conditions that one word joins."""

    text: str
    word: str = ''

    def sql(self, within: str = '') -> str:
        """In parentheses where needed; a chain within a chain of the same word stays flat, to spare SQLite's parser."""
        return self.text if self.word in ('', within) else f'({self.text})'


class Reader:
    """Reads one filter from left to right; whatever it cannot read is a ValueError with the reason.

    Args:
        text: The filter.
        filterable: What it may ask for.

    Attributes:
        parameters: What goes into the places ``?1``, ``?2`` and so on of the condition.
    """

    def __init__(self, text: str, filterable: Filterable) -> None:
        self.parameters: list[Any] = []
        self._filterable = filterable
        self._tokens = _tokens(text)
        self._token = next(self._tokens)
        self._open: list[str] = []

    def condition(self) -> str:
        """The whole filter in SQL; to be called once."""
        parts: list[_Part] = []
        while True:
            while self._token.text in ('not', '('):
                self._begin()
            parts.append(self._comparison())
            while self._token.text == ')' and '(' in self._open:
                self._join(parts, 'or')
                self._open.pop()
                self._take(')')
            if self._token.kind == 'end' and '(' not in self._open:
                self._join(parts, 'or')
                return parts[0].sql()
            if self._token.text not in ('and', 'or'):
                raise self._expected('and, or, or ' + (')' if '(' in self._open else 'the end'))
            self._join(parts, self._token.text)
            self._begin()

    def _begin(self) -> None:
        if len(self._open) == _MOST_OPEN:
            raise ValueError(f'The filter is nested too deeply at position {self._token.position}: '
                             f'more than {_MOST_OPEN} parentheses and words such as not are open')
        self._open.append(self._take(*_STRENGTHS))

    def _join(self, parts: list[_Part], word: str) -> None:
        """Joins the last parts by the open words that bind at least as strongly as this one."""
        while self._open and _STRENGTHS[self._open[-1]] >= _STRENGTHS[word]:
            joint, last = self._open.pop(), parts.pop()
            before = '' if joint == 'not' else parts.pop().sql(joint) + ' '
            parts.append(_Part(f'{before}{joint.upper()} {last.sql(joint)}', joint))

    def _comparison(self) -> _Part:
        if len(self.parameters) == _MOST_COMPARISONS:
            raise ValueError(f'The filter has more than {_MOST_COMPARISONS} comparisons')
        kind, name = self._operand()
        if kind == 'property' and self._token.text == '(':
            return self._call(name)
        operator = self._take(*_SIGNS)
        if kind == 'property':
            kind, value = self._operand(_VALUE, 'string', 'number', 'date', 'boolean')
        else:
            operator, value = _MIRRORED.get(operator, operator), name
            _, name = self._operand('a property', 'property')
        column, place = self._compared(name, operator, kind, value)
        if kind == 'date':
            return _Part(f"(rtrim({column}, 'Z') {_SIGNS[operator]} {place})")
        return _Part(f'({column} {_SIGNS[operator]} {place}{"" if name == "state" else " COLLATE NOCASE"})')

    def _call(self, function: str) -> _Part:
        if function != 'startswith':
            raise ValueError(f'The function {function!r:.60} is not supported; startswith is')
        self._take('(')
        _, name = self._operand('a property', 'property')
        self._take(',')
        column, place = self._compared(name, function, *self._operand('a string in quotes', 'string'))
        self._take(')')
        part = _Part(f'(lower(substr({column}, 1, length({place}))) = lower({place}))')
        if self._token.text not in ('eq', 'ne'):
            return part
        plain = (self._take('eq', 'ne') == 'eq') == (self._take('true', 'false') == 'true')
        return part if plain else _Part(f'NOT {part.text}')

    def _compared(self, name: str, operator: str, kind: str, value: Any) -> tuple[str, str]:
        """The column of a property, and the place of the value that it is compared with."""
        if name not in self._filterable:
            raise ValueError(f'The property {name!r:.60} cannot be filtered by; possible: '
                             f'{", ".join(sorted(self._filterable))}')
        if operator not in self._filterable[name]:
            raise ValueError(f'The property {name!r} cannot be compared with {operator!r}')
        if name in _COLUMNS and kind != 'string':
            raise ValueError(f'The property {name!r} can be compared with a string in quotes only')
        self.parameters.append(value.lower() if name == 'state' else value)
        path = '.'.join(_OTHER_NAMES.get(part, part) for part in name.split('/'))
        return name if name in _COLUMNS else f"json_extract(doc, '$.{path}')", f'?{len(self.parameters)}'

    def _operand(self, what: str = 'a property or a value', *kinds: str) -> tuple[str, Any]:
        """The kind (property, string, number, date or boolean) and the value of the next token."""
        kind, text, _ = self._token
        value: Any = text
        if kind == 'string':
            value = text[1:-1].replace("''", "'")
        elif kind == 'date':
            value = _utc(text[len("DateTime'"):-1])
        elif text in ('true', 'false'):
            kind, value = 'boolean', text == 'true'
        elif re.match('[+-]?[0-9]', text):
            kind, value = _number_or_date(text)
        elif kind == 'word' and text not in _SIGNS and text not in _STRENGTHS:
            kind = 'property'
        if kind in ('mark', 'word', 'quote', 'end') or kinds and kind not in kinds:
            raise self._expected(what)
        self._token = next(self._tokens)
        return kind, value

    def _take(self, *texts: str) -> str:
        """The token, which must be one of these; the next one takes its place."""
        text = self._token.text
        if text not in texts:
            raise self._expected(', '.join(texts[:-1]) + ' or ' + texts[-1] if texts[1:] else texts[0])
        self._token = next(self._tokens)
        return text

    def _expected(self, what: str) -> ValueError:
        kind, text, position = self._token
        if kind == 'quote':
            return ValueError(f'The quote at position {position} is never closed')
        where = 'the end' if kind == 'end' else f'{text!r:.60}, position {position}'
        return ValueError(f'Expected {what} at {where}')


def _tokens(text: str) -> Iterator[_Token]:
    """What the text is made of, and then its end without end."""
    if half := re.search('[\ud800-\udfff]', text):
        raise ValueError(f'Half of a character (a lone surrogate) at position {half.start() + 1}')
    position = 0
    while match := _TOKEN.match(text, position):
        kind = match.lastgroup or ''
        yield _Token(kind, match[kind], match.start(kind) + 1)
        position = match.end()


def _number_or_date(text: str) -> tuple[str, Any]:
    match = re.fullmatch('([+-]?)0*([0-9]+)', text)
    if not match:
        return 'date', _utc(text)
    number = int(match[1] + match[2][:20])
    if not -1 << 63 <= number < 1 << 63:
        raise ValueError(f'The number {text:.60} is too large')
    return 'number', number


def _utc(text: str) -> str:
    """A moment in UTC without the Z: so those with and without a fraction sort as text."""
    try:
        text.encode('ascii')  # to Python, the digits of every script are digits
        if match := _ISO_8601.fullmatch(text):
            whole, fraction, offset = match.groups('')
            return timestamp(moment(whole + offset))[:-1] + fraction.rstrip('0').rstrip('.')
        return timestamp(datetime.strptime(text.replace('GMT', '+0000'), '%a, %d %b %Y %H:%M:%S %z'))[:-1]
    except (ValueError, OverflowError):
        raise ValueError(f'{text!r:.60} is neither a whole number nor a date such as 2026-01-31T08:00:00Z') from None
