"""Output files: which of a task's files are uploaded, under which names, and when."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from common.batch_service.run import outputs as module
from common.batch_service.run.outputs import upload_outputs
from common.batch_service.run.transfers import TransferError

FAILED = {'category': 'usererror', 'code': 'FailureExitCode', 'message': '', 'details': []}
FILES = ['wd/a.txt', 'wd/b1.log', 'wd/b2.log', 'wd/deep/c.txt', 'wd/deep/er/d.txt', 'wd/.hidden.txt', 'wd/x*.txt',
         'stdout.txt', 'stderr.txt']


class Recorder:
    """Takes the place of the transfers: what it is given is storage's side, tested with Azurite elsewhere."""

    def __init__(self, refuse: str = '') -> None:
        self.blobs: dict[str, str] = {}
        self.refuse = refuse

    def upload(self, path: Path, container_url: str, blob_name: str, headers: dict[str, str]) -> None:
        if blob_name == self.refuse:
            raise TransferError('usererror', 'FileUploadAccessDenied', 'refused')
        self.blobs[blob_name] = path.name


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def output(pattern: str, *, path: str | None = None, condition: str = 'TaskCompletion') -> dict:
    container = {'containerUrl': 'http://storage/container?sas', **({'path': path} if path else {})}
    return {'filePattern': pattern, 'destination': {'container': container},
            'uploadOptions': {'uploadCondition': condition}}


def uploaded(directory: Path, *outputs: dict, failure: dict | None = None) -> dict[str, str]:
    recorder = Recorder()
    assert upload_outputs(list(outputs), directory, {'NAME': 'deep'}, failure, recorder) == failure
    return recorder.blobs


@pytest.mark.parametrize(('pattern', 'path', 'names'), [
    ('a.txt', None, ['a.txt']),
    ('a.txt', 'results/first.txt', ['results/first.txt']),
    ('*.log', None, ['b1.log', 'b2.log']),
    ('*.log', 'logs', ['logs/b1.log', 'logs/b2.log']),
    ('b?.log', None, ['b1.log', 'b2.log']),
    ('b[1].log', None, ['b1.log']),
    ('b[!1].log', None, ['b2.log']),
    ('b[0-1].log', None, ['b1.log']),
    ('x[*].txt', None, ['x*.txt']),
    ('*.txt', None, ['a.txt', 'x*.txt']),
    ('.h*.txt', None, ['.hidden.txt']),
    ('**/*.txt', None, ['a.txt', 'deep/c.txt', 'deep/er/d.txt', 'x*.txt']),
    ('deep/**/*.txt', None, ['c.txt', 'er/d.txt']),
    ('deep/**', None, ['c.txt', 'er/d.txt']),
    ('**.txt', None, ['a.txt', 'deep/c.txt', 'deep/er/d.txt', 'x*.txt']),
    ('**/**/er/**/*', None, ['deep/er/d.txt']),
    ('*/er/*', None, ['deep/er/d.txt']),
    ('deep', None, []),
    ('*', None, ['a.txt', 'b1.log', 'b2.log', 'x*.txt']),
    ('missing/**/*', None, []),
    ('$NAME/c.txt', None, ['c.txt']),
    ('${NAME}/*', None, ['c.txt']),
    ('../std*.txt', None, ['stderr.txt', 'stdout.txt']),
    ('missing.txt', None, []),
    ('missing*', None, []),
])
def test_pattern_names_files(directory, pattern: str, path: str | None, names: list[str]) -> None:
    assert sorted(uploaded(directory, output(pattern, path=path))) == names


def test_absolute_pattern_names_files(directory) -> None:
    assert list(uploaded(directory, output(f'{directory}/wd/b*.log'))) == ['b1.log', 'b2.log']


@pytest.mark.parametrize(('condition', 'after_success', 'after_failure'), [
    ('TaskSuccess', ['a.txt'], []), ('TaskFailure', [], ['a.txt']), ('TaskCompletion', ['a.txt'], ['a.txt'])])
def test_condition_decides(directory, condition, after_success, after_failure) -> None:
    wanted = output('a.txt', condition=condition)
    assert list(uploaded(directory, wanted)) == after_success
    assert list(uploaded(directory, wanted, failure=FAILED)) == after_failure


def test_failed_upload_fails_the_task_and_keeps_no_other_file_back(directory) -> None:
    recorder = Recorder(refuse='b1.log')
    failure = upload_outputs([output('*.log')], directory, {}, None, recorder)
    assert failure['code'] == 'FileUploadAccessDenied'
    assert list(recorder.blobs) == ['b2.log']
    assert 'b1.log: refused' in (directory / 'fileuploaderr.txt').read_text()
    assert 'b2.log' in (directory / 'fileuploadout.txt').read_text()


@pytest.mark.parametrize('pattern', ['*' * 30 + 'x', '*a' * 40 + 'x', '**/' * 200 + 'x', '*/**/' * 200 + 'x',
                                     '**/' + '*?' * 100 + 'x', '*[a-c]' * 60 + 'x'])
def test_no_pattern_takes_long(directory, pattern) -> None:
    (directory / 'wd' / ('a' * 60)).mkdir()
    (directory / 'wd' / ('a' * 60) / ('a' * 255)).touch()
    began = time.process_time()
    assert not uploaded(directory, output(pattern))
    assert time.process_time() - began < 2


def failure_of(directory: Path, pattern: str) -> str:
    """Returns the message of the FileUploadMiscError that a pattern leads to."""
    failure = upload_outputs([output(pattern)], directory, {}, None, Recorder())
    assert (failure['code'], failure['category']) == ('FileUploadMiscError', 'usererror')
    return failure['message']


@pytest.mark.parametrize(('name', 'most'), [('_MOST_ENTRIES', 5), ('_MOST_SECONDS', -1.0)])
def test_pattern_that_leads_everywhere_is_given_up(directory, monkeypatch, name, most) -> None:
    monkeypatch.setattr(module, name, most)
    assert 'leads to too much' in failure_of(directory, '**/x')


@pytest.mark.parametrize(('pattern', 'message'), [
    ('[z-a]*', "from 'z' to 'a'"), ('a' * 5_000, 'longer than 4096')])
def test_what_is_no_pattern_fails(directory, pattern, message) -> None:
    assert message in failure_of(directory, pattern)


def test_pattern_leads_into_no_directory_that_it_cannot_match(directory, monkeypatch) -> None:
    (directory / 'wd/deep/other').mkdir()
    scandir, scanned = os.scandir, []
    monkeypatch.setattr(os, 'scandir', lambda path: scanned.append(os.path.relpath(path, directory)) or scandir(path))
    uploaded(directory, output('*/er/*.txt'))
    assert scanned == ['wd', 'wd/deep', 'wd/deep/er']


def test_linked_directory_is_not_walked(directory) -> None:
    (directory / 'wd/deep/round').symlink_to(directory / 'wd')
    assert sorted(uploaded(directory, output('**/a.txt'), output('deep/*'))) == ['a.txt', 'c.txt']


def test_logs_are_files_whatever_the_task_put_in_their_places(directory) -> None:
    os.mkfifo(directory / 'fileuploadout.txt')
    (directory / 'kept').write_text('kept')
    (directory / 'fileuploaderr.txt').symlink_to(directory / 'kept')
    assert list(uploaded(directory, output('a.txt'))) == ['a.txt']
    assert 'a.txt' in (directory / 'fileuploadout.txt').read_text()
    assert (directory / 'kept').read_text() == 'kept'


def test_directory_that_the_task_removed_fails_it(directory) -> None:
    failure = upload_outputs([output('a.txt')], directory / 'gone', {}, None, Recorder())
    assert failure['code'] == 'FileUploadMiscError'
    assert upload_outputs([output('a.txt')], directory / 'gone', {}, FAILED, Recorder()) == FAILED
