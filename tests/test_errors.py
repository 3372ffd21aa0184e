"""What a reader sees of an error."""
from __future__ import annotations

import io
import os
import signal
import sys

import pytest
from azure.core.exceptions import HttpResponseError, ServiceRequestError
from msrest.exceptions import ClientRequestError

from common.errors import errors_end_the_run, one_line
from common.helpers import ImageNotFoundError


def run_raising(error: BaseException) -> int:
    @errors_end_the_run
    def main() -> int:
        print('working')
        raise error
    return main()


def test_the_exit_code_of_a_good_run_is_its_own() -> None:
    assert errors_end_the_run(lambda: 7)() == 7


@pytest.mark.parametrize('error, line', [
    (ServiceRequestError('Name or service not known'), 'ERROR: Name or service not known'),
    (HttpResponseError('The account is off.\nRequestId:1\nErrorCode:X'), 'ERROR: The account is off.'),
    (ClientRequestError('Connection refused'), 'ERROR: Connection refused'),
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


def test_ctrl_c_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_raising(KeyboardInterrupt()) == 130

    assert capsys.readouterr().err == 'ERROR: Interrupted.\n'


@pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no SIGTERM to send')
def test_sigterm_unwinds_the_program() -> None:
    unwound = []
    before = signal.getsignal(signal.SIGTERM)

    @errors_end_the_run
    def main() -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            unwound.append(True)
        return 0

    with pytest.raises(SystemExit) as raised:
        main()

    assert (raised.value.code, unwound) == (143, [True])
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_line_never_shows_a_signature() -> None:
    url = 'https://mystorage.blob.core.windows.net/output?sp=w&sig=c2VjcmV0&se=2026'

    without = url.replace('c2VjcmV0', '...')
    assert one_line(RuntimeError(f'No answer from {url}')) == f'No answer from {without}'


def test_letters_that_the_terminal_has_not_do_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(written, encoding='ascii'))

    def main() -> int:
        print('größe')
        return 0

    assert errors_end_the_run(main)() == 0
    assert written.getvalue() == b'gr\\xf6\\xdfe' + os.linesep.encode()
