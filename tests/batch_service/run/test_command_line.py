from __future__ import annotations

import shlex
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.batch_service.run.command_line import split


@settings(deadline=None)
@given(st.text('ab \t\r\n\'"\\$&;*#ä\x0b'))
def test_line_is_split_as_a_shell_splits_it(line: str) -> None:
    try:
        expected = shlex.split(line)
    except ValueError:
        with pytest.raises(ValueError):
            split(line)
    else:
        assert split(line) == expected


@pytest.mark.parametrize('line', ["'" + 'a' * 900_000 + "'", '"' + '\\"' * 450_000 + '"', '\\a' * 450_000,
                                  "''" * 450_000, '"' + 'a' * 900_000 + '"'],
                         ids=['quoted', 'escaped in quotes', 'escaped', 'empty', 'in double quotes'])
def test_long_line_is_split_in_a_time_in_proportion_to_its_length(line: str) -> None:
    began = time.process_time()
    assert len(split(line)) == 1
    assert time.process_time() - began < 5


def test_more_words_than_linux_takes_are_refused() -> None:
    with pytest.raises(ValueError, match='450000 words'):
        split('a ' * 450_000)
