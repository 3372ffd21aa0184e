"""Output files: which of a task's files are uploaded, under which names, and when."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from common.batch_service.outputs import upload_outputs
from common.batch_service.transfers import TransferError

FAILED = {'category': 'usererror', 'code': 'FailureExitCode', 'message': '', 'details': []}
FILES = ['wd/a.txt', 'wd/b1.log', 'wd/b2.log', 'wd/deep/c.txt', 'wd/deep/er/d.txt', 'wd/.hidden.txt', 'wd/x*.txt',
         'stdout.txt', 'stderr.txt']


class Recorder:
    """Takes the place of the transfers: what it is given is storage's side, tested with Azurite elsewhere."""

    def __init__(self, refuse: str = '') -> None:
        self.blobs: dict[str, str] = {}
        self.refuse = refuse

    async def upload(self, path: Path, container_url: str, blob_name: str, headers: dict[str, str]) -> None:
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
    asyncio.run(upload_outputs(list(outputs), directory, {'NAME': 'deep'}, failure, recorder))
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
    failure = asyncio.run(upload_outputs([output('*.log')], directory, {}, None, recorder))
    assert failure['code'] == 'FileUploadAccessDenied'
    assert list(recorder.blobs) == ['b2.log']
    assert 'b1.log: refused' in (directory / 'fileuploaderr.txt').read_text()
    assert 'b2.log' in (directory / 'fileuploadout.txt').read_text()
