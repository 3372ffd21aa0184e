from __future__ import annotations

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


@pytest.mark.parametrize('text', ['', 'soon', '15', None, 15])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError):
        values.duration(text)


def test_entity_tags_differ() -> None:
    assert len({values.entity_tag() for _ in range(1000)}) > 900
    assert values.entity_tag().startswith('0x8D') or values.entity_tag().startswith('0x8E')
