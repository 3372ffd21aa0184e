"""Reading a request's body: bounded in size, and JSON that can be kept and answered again.

The standard library's reader lets through what no answer may carry (NaN), what breaks later (numbers of any size,
nesting of any depth) and what says two things at once (a name twice).
"""

from __future__ import annotations

import asyncio
import codecs
import json
import math
import re
from typing import Any, Mapping

from starlette.requests import Request

from ..errors import BatchError, invalid_property

LARGEST = 4 * 1024 * 1024
LARGEST_TASK = 1_000_000
LARGEST_COLLECTION = 128 * 1024 * 1024
MOST_TASKS = 100

_MOST_LEVELS = 100
_LONGEST_NUMBER = 100
# What is larger is read in a thread, so that other requests are answered meanwhile.
_LARGE = 64 * 1024
_BEGIN = re.compile(rb'\s*\{\s*"value"\s*:\s*\[\s*')
_NEXT = re.compile(rb'\s*(?:(,)\s*|\]\s*\}\s*\Z)')


async def body_of(request: Request, headers: Mapping[str, str], most: int) -> tuple[Any, int]:
    """The parsed body, None if it is empty, and its size in bytes.

    The tasks of a collection that is larger than LARGEST stay bytes, each to be parsed by itself: what is small as text
    can be many times as large as objects.

    Raises:
        BatchError: RequestBodyTooLarge, as soon as the size is known; or InvalidRequestBody.
    """
    data = bytearray()
    if int(headers.get('content-length', '0')) > most:
        raise BatchError('RequestBodyTooLarge')
    async for part in request.stream():
        data += part
        if len(data) > most:
            raise BatchError('RequestBodyTooLarge')
    size = len(data)
    if not size:
        return None, 0
    read = parse if size <= LARGEST else _split
    return (await asyncio.to_thread(read, data) if size > _LARGE else read(data)), size


def parse(data: bytes | bytearray) -> Any:
    """The value of a JSON text in UTF-8.

    Raises:
        BatchError: InvalidRequestBody, with the reason.
    """
    try:
        value = _DECODER.decode(data.decode('utf-8-sig'))
    except (ValueError, RecursionError) as error:
        raise _invalid(str(error)) from error
    level = [value]
    for _ in range(_MOST_LEVELS):
        level = [inner for outer in level if isinstance(outer, (dict, list))
                 for inner in (outer.values() if isinstance(outer, dict) else outer)]
        if not level:
            return value
    raise _invalid(f'It has more than {_MOST_LEVELS} levels')


def _split(data: bytearray) -> dict[str, list[bytes]]:
    """A collection whose tasks are not parsed yet."""
    tasks: list[bytes] = []
    mark = _BEGIN.match(data)
    while mark:
        at = mark.end()
        cut = len(data) > at + LARGEST_TASK
        try:
            text = codecs.getincrementaldecoder('utf-8')().decode(data[at:at + LARGEST_TASK], final=not cut)
            length = len(text[:_DECODER.raw_decode(text)[1]].encode())
        except (ValueError, RecursionError) as error:
            raise BatchError('RequestBodyTooLarge') if cut else _invalid(str(error)) from error
        tasks.append(bytes(data[at:at + length]))
        mark = _NEXT.match(data, at + length)
        if mark and not mark[1]:
            return {'value': tasks}
        if len(tasks) == MOST_TASKS:
            raise invalid_property('value', f'more than {MOST_TASKS} elements', f'Expected 0 to {MOST_TASKS} elements')
    raise _invalid('Expected {"value": [...]} with one task after the other')


def _invalid(reason: str) -> BatchError:
    return BatchError('InvalidRequestBody', Reason=reason)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    known = dict(pairs)
    if len(known) < len(pairs):
        raise ValueError('A name stands twice in one object')
    return known


def _whole(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise ValueError('A number is too long')
    return int(text)


def _fraction(text: str) -> float:
    if len(text) > _LONGEST_NUMBER or not math.isfinite(float(text)):
        raise ValueError('A number is too long or too large')
    return float(text)


def _no_constant(text: str) -> None:
    raise ValueError(f'{text} is no JSON')


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole, parse_float=_fraction,
                            parse_constant=_no_constant)
