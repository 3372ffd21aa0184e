"""What a reader sees of an error."""
from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.batch.custom.custom_errors import CreateTasksErrorException
from azure.core.exceptions import AzureError, DeserializationError, HttpResponseError
from msrest.exceptions import ClientException

from common.guards.end_of_run import errors_end_in_one_line, print_error_line, say_to_anybody
from common.helpers import ImageNotFoundError
from tests.guards.cloud import batch_error


def run_raising(error: BaseException) -> int:
    @errors_end_in_one_line
    def main() -> int:
        print('working')
        raise error
    return main()


def test_the_exit_code_of_a_good_run_is_its_own() -> None:
    assert errors_end_in_one_line(lambda: 7)() == 7


@pytest.mark.parametrize('error, line', [
    (HttpResponseError('The account is off.\nRequestId:1\nErrorCode:X'), 'ERROR: The account is off.'),
    (FileNotFoundError(2, 'No such file', '/a'), "ERROR: [Errno 2] No such file: '/a'"),
    (ImageNotFoundError('No image.'), 'ERROR: No image.'),
    (RuntimeError('ERROR: Tasks did not finish'), 'ERROR: Tasks did not finish'),
    (RuntimeError(), 'ERROR: RuntimeError'),
])
def test_a_foreseeable_error_is_one_line_and_exit_code_1(
        error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_raising(error) == 1

    assert capsys.readouterr() == ('working\n', f'{line}\n')


def test_a_mistake_of_the_program_is_not_hidden() -> None:
    with pytest.raises(KeyError):
        run_raising(KeyError('a bug'))


def test_an_error_of_batch_is_one_line_without_its_details(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_raising(batch_error('PoolExists')) == 1

    assert capsys.readouterr() == ('working\n', 'ERROR: This is PoolExists. (PoolExists)\n')


@pytest.mark.parametrize('error', [
    ClientException('x'), CreateTasksErrorException([], [], [RuntimeError('x')]), DeserializationError('x'),
    AzureError('x'), ConnectionResetError(), BrokenPipeError()])
def test_whatever_the_sdks_and_the_system_raise_is_foreseeable(error: Exception) -> None:
    assert run_raising(error) == 1


def test_what_this_project_writes_may_take_several_lines_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_raising(RuntimeError('Two lines:\n  https://mystorage/output?sig=c2VjcmV0')) == 1

    assert capsys.readouterr().err == 'ERROR: Two lines:\n  https://mystorage/output?sig=...\n'


def test_ctrl_c_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_raising(KeyboardInterrupt()) == 130

    assert capsys.readouterr().err == 'ERROR: Interrupted.\n'


SIGNALS = [getattr(signal, name) for name in ('SIGTERM', 'SIGHUP') if hasattr(signal, name)]
needs_signals = pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no signals to send')


@pytest.fixture(params=SIGNALS)
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal that nobody has asked the system to ignore."""
    before = signal.signal(request.param, signal.SIG_DFL)
    yield request.param
    signal.signal(request.param, before)


@needs_signals
def test_a_signal_unwinds_the_program(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    unwound = []

    @errors_end_in_one_line
    def main() -> int:
        try:
            signal.raise_signal(number)
        finally:
            # A terminal that is closed sends a second one.
            signal.raise_signal(number)
            unwound.append(True)
        return 0

    with pytest.raises(SystemExit) as raised:
        main()

    assert (raised.value.code, unwound) == (128 + number, [True])
    assert capsys.readouterr().err == f'ERROR: {"Terminated" if number == signal.SIGTERM else "Hung up"}.\n'
    assert signal.getsignal(number) == signal.SIG_DFL


class LastWords:
    """An object that a signal reaches while Python frees it."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __del__(self) -> None:
        signal.raise_signal(self._number)


@needs_signals
def test_a_signal_that_comes_while_an_object_is_freed_is_not_lost(
        number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    @errors_end_in_one_line
    def main() -> int:
        LastWords(number)
        time.sleep(10)
        return 0

    with pytest.raises(SystemExit) as raised:
        main()

    assert raised.value.code == 128 + number
    assert capsys.readouterr().err == f'ERROR: {"Terminated" if number == signal.SIGTERM else "Hung up"}.\n'


@needs_signals
def test_ctrl_c_that_comes_while_an_object_is_freed_is_not_lost(default_ctrl_c: None) -> None:
    @errors_end_in_one_line
    def main() -> int:
        LastWords(signal.SIGINT)
        time.sleep(10)
        return 0

    assert main() == 130


def test_other_errors_while_an_object_is_freed_are_told_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(sys, 'unraisablehook', lambda ignored: told.append(str(ignored.exc_value)))

    class Broken:
        def __del__(self) -> None:
            raise error

    for error in (ValueError('a bug'), SystemExit(3), SystemExit('text')):
        assert errors_end_in_one_line(lambda: Broken() and 7)() == 7

    assert told == ['a bug', '3', 'text']


@needs_signals
def test_a_signal_that_is_ignored_stays_so(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)

    @errors_end_in_one_line
    def main() -> int:
        signal.raise_signal(number)
        return 7

    assert main() == 7 and signal.getsignal(number) == signal.SIG_IGN


@pytest.mark.parametrize('code', [2, 0, 'text', None])
def test_an_exit_without_a_signal_says_nothing(code: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        run_raising(SystemExit(code))

    assert raised.value.code == code and capsys.readouterr().err == ''


def test_output_that_nobody_reads_is_one_line_and_ends_nothing_else(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, 'w') as stdout, (tmp_path / 'err').open('w') as stderr:
        monkeypatch.setattr(sys, 'stdout', stdout)
        monkeypatch.setattr(sys, 'stderr', stderr)
        code = run_raising(RuntimeError('never reached'))
        print('This goes nowhere.', flush=True)
        monkeypatch.undo()

    assert code == 1
    assert (tmp_path / 'err').read_text() == 'ERROR: Standard output cannot be written to.\n'


def test_what_is_said_to_anybody_may_be_heard_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, 'w') as stream, open(os.dup(writing), 'w') as other:
        monkeypatch.setattr(sys, 'stdout', stream)
        monkeypatch.setattr(sys, 'stderr', other)
        heard = [say_to_anybody(text) for text in ('a', 'b', '')]
        print_error_line('ERROR: x')
        print_error_line('ERROR: y')
        monkeypatch.undo()

    assert heard == [False, True, True]


def test_an_error_comes_below_what_was_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    both = io.TextIOWrapper(written, encoding='utf-8', write_through=True)
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(written, encoding='utf-8'))
    monkeypatch.setattr(sys, 'stderr', both)

    print('said', end='')
    print_error_line('ERROR: x')

    assert written.getvalue().startswith(b'said')


def test_letters_that_the_terminal_has_not_do_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(written, encoding='ascii'))

    def main() -> int:
        print('größe')
        return 0

    assert errors_end_in_one_line(main)() == 0
    assert written.getvalue() == b'gr\\xf6\\xdfe' + os.linesep.encode()
