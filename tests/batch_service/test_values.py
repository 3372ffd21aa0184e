from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.batch_service import values


@given(st.datetimes(timezones=st.just(timezone.utc), min_value=datetime(1601, 1, 1)))
def test_timestamp_names_its_moment(when: datetime) -> None:
    text = values.timestamp(when)
    assert values.moment(text) == when
    assert text.endswith('Z') and '0Z' not in text[19:]


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=10_000)))
def test_duration_survives_the_wire(length: timedelta) -> None:
    assert values.duration(values.duration_text(length)) == length


@pytest.mark.parametrize(('sent', 'answered'), [
    ('PT06M00S', 'PT6M'), ('PT15M', 'PT15M'), ('PT15M00S', 'PT15M'), ('P7D', 'P7D'), ('PT90S', 'PT1M30S'),
    ('P3Y6M4DT12H30M5S', 'P1279DT12H30M5S'), ('PT0S', 'PT0S'), (values.INFINITE, values.INFINITE),
    ('P10675199DT2H48M5.477581S', values.INFINITE)])
def test_duration_is_normalised(sent: str, answered: str) -> None:
    assert values.duration_text(values.duration(sent)) == answered


@pytest.mark.parametrize('text', ['', 'soon', '15'])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        values.duration(text)


def test_moments_do_not_go_back_with_the_clock_on_the_wall(monkeypatch) -> None:
    before = values.now()
    monkeypatch.setattr(time, 'time', lambda: 0.0)
    monkeypatch.setattr(time, 'time_ns', lambda: 0)
    # Not as text: the fraction has no trailing zeros.
    assert values.moment(before) < values.moment(values.now()) and values.clock() > values.moment(before).timestamp()


@pytest.mark.parametrize(('text', 'moment'), [
    ('Sat, 31 Jan 2026 08:00:00 GMT', '2026-01-31T08:00:00Z'), ('Sat, 31 Jan 2026 08:00:00', '2026-01-31T08:00:00Z'),
    ('Sat, 31 Jan 2026 08:00:00 -0000', '2026-01-31T08:00:00Z'),
    ('Sat, 31 Jan 2026 08:00:00 +0200', '2026-01-31T06:00:00Z')])
def test_date_of_a_header_is_in_utc_where_it_has_no_zone(text: str, moment: str) -> None:
    assert values.timestamp(values.moment_of_header(text)) == moment


@given(st.text(max_size=40) | st.from_regex(
    r'(Sat, )?[0-9]{1,30} (Jan|Feb|Foo) [0-9]{1,30} [0-9]{1,3}:[0-9]{1,3}(:[0-9]{1,30})?( (GMT|-0000|[+-][0-9]{1,9}))?',
    fullmatch=True))
def test_any_text_is_a_date_of_a_header_or_none(text: str) -> None:
    try:
        assert values.moment_of_header(text).utcoffset() == timedelta(0)
    except ValueError:
        pass


@given(st.text(max_size=200) | st.from_regex(r'-?P([0-9]{1,40}[YMWD])?(T[0-9.]{1,40}[HMS])?', fullmatch=True))
def test_any_text_is_a_duration_or_none(text: str) -> None:
    try:
        values.duration_text(values.duration(text))
    except ValueError:
        pass


def test_entity_tags_differ() -> None:
    assert len({values.entity_tag() for _ in range(1000)}) > 900
    assert values.entity_tag().startswith('0x8D') or values.entity_tag().startswith('0x8E')
