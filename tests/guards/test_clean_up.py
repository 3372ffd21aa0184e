"""What becomes of the things that a run has made, whatever ends it; the services are played by mocks."""
from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from azure.core.exceptions import HttpResponseError, ServiceRequestError
from msrest.exceptions import ClientRequestError
from pytest_mock import MockerFixture

from common.guards.clean_up import cleaned_up_after_errors, say_what_is_left
from common.guards.run import Run
from common.helpers import InterruptedQuestion
from tests.guards.cloud import ON_AZURE, ON_THIS_MACHINE, Cloud, batch_error

JOB_POOL_CONTAINERS = ['myjob', 'mypool', 'application', 'input', 'output']


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def answers(mocker: MockerFixture) -> MagicMock:
    """A reader at a terminal; side_effect is to be what he answers."""
    mocker.patch('sys.stdin', MagicMock(closed=False, isatty=lambda: True))
    return mocker.patch('builtins.input')


def end_by(error: BaseException, run: Run) -> None:
    with pytest.raises(type(error)) as raised, cleaned_up_after_errors(run):
        raise error
    assert raised.value is error


def interrupt_at(cloud: Cloud, number: int, error: BaseException) -> None:
    """Has the call of this number end in the error, once, when the service has done what it was asked for."""
    def wrap(call: Callable[..., object]) -> Callable[..., object]:
        def interrupted(*arguments: object, **options: object) -> object:
            nonlocal number
            result = call(*arguments, **options)
            number -= 1
            if number == 0:
                raise error
            return result
        return interrupted

    for mock in (cloud.batch.job.get, cloud.batch.job.delete, cloud.batch.pool.get, cloud.batch.pool.delete,
                 cloud.blobs.delete_container, cloud.blobs.get_container_client):
        mock.side_effect = wrap(mock.side_effect)


@pytest.mark.parametrize('error', [KeyError('a bug'), RuntimeError('x'), KeyboardInterrupt(), SystemExit(143)])
def test_an_error_deletes_job_pool_and_containers_in_this_order(cloud: Cloud, error: BaseException) -> None:
    run = cloud.run_that_has_made_all()
    cloud.things['container']['output'].blobs.clear()

    end_by(error, run)

    assert cloud.deleted == JOB_POOL_CONTAINERS


def test_a_good_end_deletes_nothing(cloud: Cloud) -> None:
    with cleaned_up_after_errors(cloud.run_that_has_made_all()):
        pass

    assert cloud.asked == []


def test_an_error_before_anything_was_made_deletes_nothing(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    end_by(RuntimeError('The key is wrong.'), cloud.run())

    assert cloud.deleted == []
    assert capsys.readouterr() == ('\nThe key is wrong.\nCleaning up; press Ctrl-C to leave at once...\n', '')


def test_what_does_not_bear_the_mark_stays(cloud: Cloud) -> None:
    another = Cloud().run()
    for kind in ('job', 'pool'):
        cloud.has(kind, f'my{kind}', another.mark)
    cloud.has('container', 'application')
    cloud.has('container', 'input', another.mark, blobs=['a.txt', 'theirs.txt'])

    end_by(KeyboardInterrupt(), cloud.run())

    assert cloud.deleted == []
    # The run has put its own blob in the place of theirs.
    assert cloud.things['container']['input'].blobs == ['theirs.txt']


@pytest.mark.parametrize('error', [KeyError('a bug'), KeyboardInterrupt()])
def test_a_pool_of_an_earlier_run_is_kept_and_named(cloud: Cloud, error: BaseException,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    cloud.has('pool', 'mypool', Cloud().run().mark)

    end_by(error, cloud.run())

    assert '  Pool [mypool] is kept: the next run offers to reuse it; to delete it: az batch pool delete' in (
        capsys.readouterr().out)


def test_what_a_service_refuses_is_named_and_all_else_is_tried(cloud: Cloud,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    refused = HttpResponseError('Not now.')
    refused.response = MagicMock(spec=[])
    cloud.trouble = {'delete job': batch_error('InternalError', 500), 'get container application': refused}

    end_by(KeyboardInterrupt(), cloud.run_that_has_made_all())

    assert cloud.left() == {'myjob', 'application'}
    job, container = capsys.readouterr().err.splitlines()
    assert job.startswith('Job [myjob] may be left; to delete it: az batch job delete --job-id myjob --account-name ')
    assert job.endswith('(This is InternalError. (InternalError))')
    assert container.startswith('Container [application] may be left; to delete it: az storage container delete')
    assert container.endswith('(Not now.)')


@pytest.mark.parametrize('dead, error, asked, left', [
    (('get job', 'get pool'), ClientRequestError('No connection.'), 'get job myjob', ['Job [myjob]', 'Pool [mypool]']),
    (('list', 'get container'), ServiceRequestError('No connection.'), 'get container application',
     ['Container [application]', 'Container [input]', 'Container [output]']),
], ids=['Batch', 'Storage'])
@pytest.mark.parametrize('end', [KeyboardInterrupt(), RuntimeError('x')])
def test_a_service_that_gives_no_answer_is_asked_once(
        cloud: Cloud, dead: tuple[str, ...], error: Exception, asked: str, left: list[str], end: BaseException,
        capsys: pytest.CaptureFixture[str]) -> None:
    run = cloud.run_that_has_made_all()
    run.results_fetched = True
    cloud.trouble = dict.fromkeys(dead, error)

    end_by(end, run)

    assert [call for call in cloud.asked if call.startswith(dead)] == [asked]
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(' may be left; to delete it: az ')[0] for line in lines] == left
    assert len(cloud.deleted) == 5 - len(left)


def test_batch_is_soon_given_up_while_cleaning_up(cloud: Cloud) -> None:
    retries = []
    cloud.batch.job.get.side_effect = lambda _: retries.append(cloud.batch.config.retry_policy.retries)

    end_by(KeyboardInterrupt(), cloud.run())

    assert set(retries) == {1}
    assert cloud.batch.config.retry_policy.retries == 3


def test_results_that_an_error_has_kept_from_being_fetched_stay_and_are_named(
        cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    end_by(OSError(28, 'No space left on device'), cloud.run_that_has_made_all())

    assert cloud.left() == {'output'} and cloud.things['container']['output'].blobs == ['a_OUTPUT.txt']
    assert capsys.readouterr().err == (
        'The results that were not fetched stay in container [output]; to fetch them: az storage blob download-batch '
        '--source output --destination . --account-name mystorage\n')


def test_results_that_stay_on_this_machine_can_be_fetched_too(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    end_by(RuntimeError('x'), cloud.run_that_has_made_all(account=ON_THIS_MACHINE))

    errors = capsys.readouterr().err
    assert '[output]; to fetch them, start "python -m common.local_azure"' in errors and 'az ' not in errors


def test_results_in_a_container_of_others_stay_too(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    run = cloud.run_that_has_made_all()
    container = cloud.has('container', 'output', blobs=['theirs.txt', 'a_OUTPUT.txt'])

    end_by(RuntimeError('x'), run)

    assert container.blobs == ['theirs.txt', 'a_OUTPUT.txt']
    assert 'stay in container [output]' in capsys.readouterr().err


@pytest.mark.parametrize('end, fetched', [(KeyboardInterrupt(), False), (SystemExit(129), False),
                                          (InterruptedQuestion(), False), (RuntimeError('x'), True)])
def test_results_go_when_the_reader_stops_the_run_or_has_them(
        cloud: Cloud, end: BaseException, fetched: bool, capsys: pytest.CaptureFixture[str]) -> None:
    run = cloud.run_that_has_made_all()
    run.results_fetched = fetched

    end_by(end, run)

    assert cloud.left() == set()
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('end', [KeyboardInterrupt(), RuntimeError('x')])
def test_ctrl_c_at_any_point_of_cleaning_up_names_what_may_be_left(
        end: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    calls = 0
    while True:
        calls += 1
        cloud = Cloud()
        run = cloud.run_that_has_made_all()
        interrupt_at(cloud, calls, KeyboardInterrupt())

        end_by(end, run)

        output, errors = capsys.readouterr()
        assert {name for name in cloud.left() if f'[{name}]' not in errors} == set(), calls
        if 'may be left' not in errors:
            break
        # Left at once: nothing that comes later was deleted.
        assert 'Container [output] may be left' in errors
    assert calls > 10


@pytest.mark.parametrize('again', [SystemExit(143), SystemExit(129)])
@pytest.mark.parametrize('end', [KeyboardInterrupt(), RuntimeError('x'), SystemExit(129)])
def test_a_signal_at_any_point_of_cleaning_up_does_not_stop_it(
        end: BaseException, again: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    for calls in range(1, 12):
        cloud = Cloud()
        run = cloud.run_that_has_made_all()
        run.results_fetched = True
        interrupt_at(cloud, calls, again)

        end_by(end, run)

        assert cloud.left() == set(), calls
        assert capsys.readouterr().err == ''


def test_ctrl_c_at_a_question_is_the_answer_that_leaves_nothing(
        cloud: Cloud, answers: MagicMock, capsys: pytest.CaptureFixture[str]) -> None:
    answers.side_effect = KeyboardInterrupt

    end_by(KeyboardInterrupt(), cloud.run_that_has_made_all(ask=True))

    assert answers.call_count == 1 and cloud.left() == set()
    output, errors = capsys.readouterr()
    assert errors == ''
    assert '  Ctrl-C counts as the answer that leaves nothing behind, here and from now on.\n' in output
    assert 'Delete pool? [Y/n] yes\n' in output


def test_ctrl_c_at_a_question_of_the_run_asks_nothing_more(
        cloud: Cloud, answers: MagicMock, capsys: pytest.CaptureFixture[str]) -> None:
    end_by(InterruptedQuestion(), cloud.run_that_has_made_all(ask=True))

    assert not answers.called and cloud.left() == set()
    assert capsys.readouterr().out.count('Ctrl-C counts as the answer that leaves nothing behind') == 1


def test_a_signal_at_a_question_asks_nothing_more(cloud: Cloud, answers: MagicMock) -> None:
    answers.side_effect = SystemExit(129)

    end_by(KeyboardInterrupt(), cloud.run_that_has_made_all(ask=True))

    assert answers.call_count == 1 and cloud.left() == set()


@pytest.mark.parametrize('end, asked', [(KeyboardInterrupt(), True), (RuntimeError('x'), True),
                                        (SystemExit(143), False), (SystemExit(129), False)])
def test_the_reader_is_asked_but_not_after_a_signal(cloud: Cloud, answers: MagicMock, end: BaseException,
                                                    asked: bool, capsys: pytest.CaptureFixture[str]) -> None:
    answers.return_value = 'n'
    run = cloud.run_that_has_made_all(ask=True)
    run.results_fetched = True

    end_by(end, run)

    assert answers.called is asked
    assert cloud.left() == ({'myjob', 'mypool'} if asked else set())
    assert ('  Pool [mypool] is kept: ' in capsys.readouterr().out) is asked


@pytest.mark.parametrize('printed', ['Cleaning up', 'Delete job?', 'is being deleted', '[application]', '[output]'])
def test_nobody_who_reads_stops_no_cleaning_up(cloud: Cloud, printed: str, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with open(writing, 'w', buffering=1) as stdout, (tmp_path / 'err').open('w') as stderr:
        monkeypatch.setattr(sys, 'stdout', stdout)
        monkeypatch.setattr(sys, 'stderr', stderr)
        say, closed = print, []

        def say_or_close(*texts: object, **options: object) -> None:
            if not closed and printed in str(texts):
                os.close(reading)
                closed.append(True)
            say(*texts, **options)

        monkeypatch.setattr('builtins.print', say_or_close)
        end_by(KeyboardInterrupt(), cloud.run_that_has_made_all())
        monkeypatch.undo()

    assert closed and cloud.left() == set()
    assert (tmp_path / 'err').read_text() == ''


@pytest.mark.parametrize('state, account, text', [
    (None, ON_AZURE, 'is deleted.'), ('deleting', ON_AZURE, 'is being deleted.'),
    ('active', ON_THIS_MACHINE, 'is kept: the next run {}')])
def test_what_is_left_is_said(cloud: Cloud, state: str | None, account: object, text: str,
                              capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ('job', 'pool'):
        if state:
            cloud.has(kind, f'my{kind}', state=state)

    say_what_is_left(cloud.run(account=account))

    assert capsys.readouterr().out == (f'  Job [myjob] {text.format("replaces it")}\n'
                                       f'  Pool [mypool] {text.format("offers to reuse it")}\n')


def test_what_is_left_on_azure_is_said_with_the_command_that_deletes_it(
        cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    say_what_is_left(cloud.run_that_has_made_all())

    job, pool = capsys.readouterr().out.splitlines()
    assert job.startswith('  Job [myjob] is kept: the next run replaces it; to delete it: az batch job delete ')
    assert pool.startswith('  Pool [mypool] is kept: the next run offers to reuse it; to delete it: az batch pool ')


def test_a_step_that_has_failed_on_the_way_out_is_tried_again(cloud: Cloud) -> None:
    run = cloud.run_that_has_made_all()
    run.results_fetched = True
    run.blobs.delete_container('application')

    end_by(HttpResponseError('Busy.'), run)

    assert cloud.left() == set()
