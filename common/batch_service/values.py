"""Values on the wire: timestamps, durations, entity tags.

Seen in recorded traffic of the real service (azure-sdk-for-python, sdk/batch/azure-batch/tests/recordings).
"""

from __future__ import annotations

import functools
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime, parsedate_to_datetime

import isodate

INFINITE = 'P10675199DT2H48M5.4775807S'
"""No limit: the largest .NET TimeSpan, which the service fills in where a client gives no duration."""

_DAYS_OF_YEAR, _DAYS_OF_MONTH = 365, 30
_INFINITE_DAYS = 10_675_199
_TICKS_AT_EPOCH = 621_355_968_000_000_000
_LONGEST_DURATION = 100
_LAST_SECOND = 253_402_300_799

# It goes on while the machine sleeps, where there is such a clock.
_STEADY = getattr(time, 'CLOCK_BOOTTIME', time.CLOCK_MONOTONIC)
_WALL_BEFORE, _STEADY_BEFORE = time.time(), time.clock_gettime(_STEADY)


def clock() -> float:
    """This moment in seconds since 1970, by a clock that nobody sets while the service runs."""
    return _WALL_BEFORE + time.clock_gettime(_STEADY) - _STEADY_BEFORE


def now() -> str:
    """This moment in UTC by ``clock()``, as in ``2026-01-31T08:00:00.25Z``: no later one is before it."""
    return timestamp_of(clock())


def timestamp_of(seconds: float) -> str:
    """Seconds since 1970 as a timestamp; what no timestamp can say becomes the next one that can."""
    return timestamp(datetime.fromtimestamp(min(max(seconds, 0), _LAST_SECOND), timezone.utc))


def timestamp(moment: datetime) -> str:
    """A moment (aware) in UTC with ``Z``, its fraction without trailing zeros."""
    text = moment.astimezone(timezone.utc).replace(tzinfo=None).isoformat()
    return (text.rstrip('0') if '.' in text else text) + 'Z'


def moment(text: str) -> datetime:
    """The aware datetime of a timestamp.

    Raises:
        ValueError: The text is none.
    """
    parsed = isodate.parse_datetime(text)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)


def http_date(text: str) -> str:
    """A timestamp in the form of HTTP headers (RFC 1123)."""
    return format_datetime(moment(text).astimezone(timezone.utc), usegmt=True)


def moment_of_header(text: str) -> datetime:
    """The aware datetime of a date in an HTTP header; without a zone it is in UTC.

    Raises:
        ValueError: The text is none.
    """
    try:
        parsed = parsedate_to_datetime(text)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
    except (TypeError, IndexError, OverflowError) as error:
        raise ValueError(f'{text!r} is no date') from error


@functools.lru_cache
def duration(text: str) -> timedelta | None:
    """The length of an ISO 8601 duration, None for no limit; years are 365 days, months 30.

    The SDKs round the largest TimeSpan when they read and write it, so all of its days are no limit.

    Raises:
        ValueError: The text is none.
    """
    if len(text) > _LONGEST_DURATION:
        raise ValueError('The text is too long for an ISO 8601 duration')
    try:
        parsed = isodate.parse_duration(text)
        if isinstance(parsed, isodate.Duration):
            days = int(parsed.years) * _DAYS_OF_YEAR + int(parsed.months) * _DAYS_OF_MONTH
            parsed = parsed.tdelta + timedelta(days=days)
        return parsed if parsed.days < _INFINITE_DAYS else None
    except (OverflowError, ArithmeticError) as error:
        raise ValueError(f'{text!r} is no ISO 8601 duration') from error


def duration_text(length: timedelta | None) -> str:
    """The duration as the service writes it, ``PT6M`` or ``P1279DT2H``; None is no limit."""
    return INFINITE if length is None else isodate.duration_isoformat(length) if length else 'PT0S'


def entity_tag() -> str:
    """A new entity tag, such as ``0x8DBAEB9737D2CB2``: the moment in 100 ns ticks."""
    return f'0x{_TICKS_AT_EPOCH + time.time_ns() // 100:X}'
