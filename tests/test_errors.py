"""What a reader sees of an error."""
from __future__ import annotations

import io
import os
import signal
import sys

import pytest
import requests
from azure.batch.models import BatchError, BatchErrorException, ErrorMessage
from azure.core.exceptions import HttpResponseError

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


def test_the_traceback_of_a_mistake_has_no_secrets(capsys: pytest.CaptureFixture[str],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)
    with pytest.raises(KeyError) as raised:
        run_raising(KeyError('https://mystorage/output?sp=w&sig=c2VjcmV0&se=2026'))

    sys.excepthook(raised.type, raised.value, raised.tb)

    errors = capsys.readouterr().err
    assert 'Traceback' in errors and 'run_raising' in errors
    assert "KeyError: 'https://mystorage/output?sp=w&sig=...&se=2026'" in errors


def refusal(status: int, code: str) -> BatchErrorException:
    response = requests.Response()
    response.status_code, response.request = status, requests.Request('GET', 'https://mybatch/pools').prepare()
    error = BatchError(code=code, message=ErrorMessage(value='No.'))
    return BatchErrorException(lambda *_: error, response)


def test_an_error_of_the_settings_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_raising(refusal(403, 'AuthenticationFailed')) == 1

    output, errors = capsys.readouterr()
    assert output == 'working\n'
    assert errors.startswith('ERROR: The Batch account at mybatch refuses the key: look at _BATCH_ACCOUNT_NAME')
    assert errors.count('\n') == 1


def test_any_other_error_of_batch_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_raising(refusal(409, 'PoolExists')) == 1

    assert 'Exception encountered:\nNo.\n\nCode:\tPoolExists\n' in capsys.readouterr().out


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
