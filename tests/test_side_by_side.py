"""Calls side by side look as if they had been made one after another."""
from __future__ import annotations

import io
import random
import threading
import time
from contextlib import redirect_stdout

import pytest

from common.side_by_side import side_by_side
from tests.leftovers import eventually


def test_results_and_texts_come_in_the_order_of_the_items(capsys: pytest.CaptureFixture[str]) -> None:
    def call(number: int) -> str:
        print('begin', number)
        time.sleep(random.random() / 50)
        print('end', number)
        return str(number)

    assert side_by_side(call, range(100)) == [str(number) for number in range(100)]
    assert capsys.readouterr().out == ''.join(f'begin {number}\nend {number}\n' for number in range(100))


def test_eight_calls_are_made_at_a_time() -> None:
    at_a_time, all_here = [], threading.Barrier(8, timeout=10)

    def call(_: int) -> None:
        at_a_time.append(True)
        all_here.wait()
        assert len(at_a_time) % 8 == 0
        all_here.wait()

    side_by_side(call, range(40))

    assert len(at_a_time) == 40


def test_nothing_to_do_is_done() -> None:
    assert side_by_side(lambda item: 1 / 0, []) == []


def test_what_the_call_says_whose_turn_it_is_is_seen_at_once() -> None:
    seen = threading.Event()

    class Screen(io.StringIO):
        def write(self, text: str) -> int:
            seen.set()
            return super().write(text)

    def call(_: int) -> bool:
        print('Uploading a large file...')
        return seen.wait(10)

    with redirect_stdout(Screen()):
        assert side_by_side(call, range(2)) == [True, True]


def test_the_first_error_in_order_is_raised_and_nothing_is_said_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    called = []

    def call(number: int) -> None:
        called.append(number)
        print(number)
        if number == 3:
            time.sleep(0.1)
        if number >= 3:
            raise OSError(f'call {number}')

    with pytest.raises(OSError, match='^call 3$'):
        side_by_side(call, range(10_000))

    assert capsys.readouterr().out == '0\n1\n2\n3\n'
    assert len(called) < 10_000


@pytest.mark.parametrize('error', [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_whatever_a_call_raises_is_raised(error: type[BaseException]) -> None:
    def call(_: int) -> None:
        raise error

    with pytest.raises(error):
        side_by_side(call, range(3))


def test_ctrl_c_ends_the_calls_that_have_begun(capsys: pytest.CaptureFixture[str]) -> None:
    ended = []

    class Terminal(io.StringIO):
        def write(self, text: str) -> int:
            raise KeyboardInterrupt

    def call(number: int) -> None:
        try:
            print(number)
            while True:
                time.sleep(0.01)
        finally:
            ended.append(number)
            print('never shown')

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt), redirect_stdout(Terminal()):
        side_by_side(call, range(1000))

    assert sorted(ended) == list(range(8))
    assert threading.active_count() == threads
    assert capsys.readouterr().out == ''


def test_a_call_that_waits_for_the_network_is_not_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    network, all_here = threading.Lock(), threading.Barrier(8, timeout=10)

    def call(number: int) -> None:
        all_here.wait()
        if number == 0:
            raise OSError('no network')
        with network:
            pass
        tell()

    def tell() -> None:
        print('too late')

    began, threads = time.monotonic(), threading.active_count()
    with network, pytest.raises(OSError, match='no network'):
        side_by_side(call, range(100))
    assert time.monotonic() - began < 10

    assert eventually(lambda: threading.active_count() == threads)
    assert capsys.readouterr().out == ''
