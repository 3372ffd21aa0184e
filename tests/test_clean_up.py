"""What becomes of the things that a run has made, with the services played by mocks."""
from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from types import SimpleNamespace
from unittest.mock import MagicMock

import azure.batch.models as batchmodels
import pytest
from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError
from pytest_mock import MockerFixture

from common.accounts import Account
from common.clean_up import Made, cleaned_up_after_errors

ACCOUNT = Account(batch_account_name='mybatch', batch_account_url='https://mybatch.westeurope.batch.azure.com',
                  storage_account_name='mystorage', storage_account_url='https://mystorage.blob.core.windows.net')


class Services:
    """Both clients, and what was deleted by them, in order."""

    def __init__(self) -> None:
        self.deleted: list[str] = []
        self.blobs = MagicMock()
        self.blobs.delete_container.side_effect = self.deleted.append
        self.batch = MagicMock()
        self.batch.job.delete.side_effect = self.deleted.append
        self.batch.pool.delete.side_effect = self.deleted.append

    def make_all(self, made: Made, *, container_created: bool = True, pool_created: bool = True) -> None:
        with made.container(self.blobs, 'input', ['a.txt']) as container:
            container.created = container_created
        with made.pool(self.batch, 'mypool') as pool:
            pool.created = pool_created
        with made.job(self.batch, 'myjob'):
            pass


@pytest.fixture
def services() -> Services:
    return Services()


def batch_error(code: str, status: int) -> batchmodels.BatchErrorException:
    error = batchmodels.BatchError(code=code, message=batchmodels.ErrorMessage(value=f'This is {code}.'))
    return batchmodels.BatchErrorException(lambda *_: error, SimpleNamespace(status_code=status, reason=''))


def test_an_error_deletes_job_pool_and_containers_in_this_order(services: Services) -> None:
    with pytest.raises(KeyError), cleaned_up_after_errors(ACCOUNT, ask=False) as made:
        services.make_all(made)
        raise KeyError('a bug')

    assert services.deleted == ['myjob', 'mypool', 'input']


def test_an_error_before_anything_was_made_says_and_does_nothing(
        services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), cleaned_up_after_errors(ACCOUNT, ask=False):
        raise RuntimeError('wrong key')

    assert capsys.readouterr() == ('', '')


def test_every_step_is_tried_whatever_became_of_the_others(
        services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    services.batch.job.delete.side_effect = batch_error('ServerBusy', 503)
    services.batch.pool.delete.side_effect = ConnectionResetError(104, 'Connection reset by peer')

    with pytest.raises(RuntimeError, match='the first'), cleaned_up_after_errors(ACCOUNT, ask=False) as made:
        services.make_all(made)
        raise RuntimeError('the first error')

    assert services.deleted == ['input']
    job, pool = capsys.readouterr().err.splitlines()
    assert job.startswith('Job [myjob] may be left; to delete it: az batch job delete --job-id myjob --account-name ')
    assert job.endswith('(This is ServerBusy. (ServerBusy))')
    assert pool.startswith('Pool [mypool] may be left; ') and 'Connection reset by peer' in pool


@pytest.mark.parametrize('code', ['JobNotFound', 'JobBeingDeleted'])
def test_a_job_that_is_gone_already_is_no_error(services: Services, code: str,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    services.batch.job.delete.side_effect = batch_error(code, 404)

    with cleaned_up_after_errors(ACCOUNT, ask=False) as made:
        services.make_all(made)
        made.offer_to_delete_job()

    assert capsys.readouterr() == ('Delete job? [Y/n] yes\n', '')


def test_what_a_service_has_refused_is_not_looked_for(services: Services) -> None:
    with pytest.raises(batchmodels.BatchErrorException), cleaned_up_after_errors(ACCOUNT, ask=False) as made:
        with made.pool(services.batch, 'mypool'):
            raise batch_error('PoolQuotaReached', 409)

    services.batch.pool.get.assert_not_called()
    assert services.deleted == []


@pytest.mark.parametrize('answered_before', [True, False])
def test_only_a_service_that_has_never_answered_is_not_asked_what_was_made(
        services: Services, answered_before: bool, capsys: pytest.CaptureFixture[str]) -> None:
    container_client = services.blobs.get_container_client.return_value
    container_client.get_container_properties.side_effect = ServiceRequestError('still none')
    with pytest.raises(ServiceRequestError), cleaned_up_after_errors(ACCOUNT, ask=False) as made:
        if answered_before:
            with made.container(services.blobs, 'application', []) as container:
                container.created = True
        with made.container(services.blobs, 'input', []):
            raise ServiceRequestError('no connection')

    assert container_client.get_container_properties.called is answered_before
    assert ('Cleaning up' in capsys.readouterr().out) is answered_before


@pytest.mark.parametrize('cut_off', [KeyboardInterrupt(), ConnectionResetError(), batch_error('InternalError', 500)])
@pytest.mark.parametrize('ours', [True, False])
def test_a_pool_whose_creation_was_cut_off_is_deleted_if_it_bears_the_mark_of_the_run(
        services: Services, cut_off: BaseException, ours: bool) -> None:
    with pytest.raises(type(cut_off)), cleaned_up_after_errors(ACCOUNT, ask=False) as made:
        mark = made.metadata if ours else [batchmodels.MetadataItem(name=made.metadata[0].name, value='another')]
        services.batch.pool.get.return_value = batchmodels.CloudPool(metadata=mark)
        with made.pool(services.batch, 'mypool'):
            raise cut_off

    assert services.deleted == (['mypool'] if ours else [])


@pytest.mark.parametrize('age, ours', [(timedelta(seconds=0), True), (timedelta(minutes=10), False)])
def test_a_container_whose_creation_was_cut_off_is_deleted_if_it_is_no_older_than_that(
        services: Services, age: timedelta, ours: bool) -> None:
    # The service's clock need not be this machine's.
    now = datetime(2031, 1, 1, tzinfo=timezone.utc)
    container = services.blobs.get_container_client.return_value
    container.list_blob_names.return_value = []

    def properties(raw_response_hook) -> SimpleNamespace:
        raw_response_hook(SimpleNamespace(http_response=SimpleNamespace(
            headers={'Date': format_datetime(now, usegmt=True)})))
        return SimpleNamespace(last_modified=now - age)

    container.get_container_properties.side_effect = properties
    with pytest.raises(ServiceResponseError), cleaned_up_after_errors(ACCOUNT, ask=False) as made:
        with made.container(services.blobs, 'input', ['a.txt']):
            raise ServiceResponseError('Connection aborted')

    assert services.deleted == (['input'] if ours else [])


def test_a_container_of_others_loses_only_the_blobs_of_this_run(services: Services) -> None:
    container = services.blobs.get_container_client.return_value
    container.list_blob_names.return_value = ['a.txt', 'theirs.txt']

    with cleaned_up_after_errors(ACCOUNT, ask=False) as made:
        services.make_all(made, container_created=False)
        made.delete_containers()

    assert [call.args for call in container.delete_blobs.call_args_list] == [('a.txt',), ('a.txt',)]
    assert services.deleted == []


def test_a_pool_that_was_there_before_is_kept_by_default(
        services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    with cleaned_up_after_errors(ACCOUNT, ask=False) as made:
        services.make_all(made, pool_created=False)
        made.offer_to_delete_pool()

    assert services.deleted == []
    question, kept = capsys.readouterr().out.splitlines()
    assert question == 'Delete pool? [y/N] no'
    assert kept.startswith('  Pool [mypool] is kept; ') and 'az batch pool delete --pool-id mypool' in kept


def test_what_was_settled_is_not_asked_again(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), cleaned_up_after_errors(ACCOUNT, ask=False) as made:
        services.make_all(made)
        made.delete_containers()
        made.offer_to_delete_job()
        raise KeyboardInterrupt

    assert services.deleted == ['input', 'myjob', 'mypool']
    assert capsys.readouterr().out.count('Delete job?') == 1


@pytest.mark.parametrize('error, asked', [
    (KeyboardInterrupt(), True), (RuntimeError('x'), True), (SystemExit(143), False)])
def test_the_reader_is_asked_but_not_after_sigterm(services: Services, mocker: MockerFixture, error: BaseException,
                                                   asked: bool) -> None:
    mocker.patch('sys.stdin', MagicMock(closed=False, isatty=lambda: True))
    answer = mocker.patch('builtins.input', side_effect=['n', 'n'])

    with pytest.raises(type(error)), cleaned_up_after_errors(ACCOUNT, ask=True) as made:
        services.make_all(made)
        raise error

    assert answer.called is asked
    assert services.deleted == (['input'] if asked else ['myjob', 'mypool', 'input'])


def test_ctrl_c_while_cleaning_up_leaves_at_once_and_says_what_is_left(
        services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    services.batch.pool.delete.side_effect = KeyboardInterrupt

    with pytest.raises(RuntimeError, match='the first'), cleaned_up_after_errors(ACCOUNT, ask=False) as made:
        services.make_all(made)
        raise RuntimeError('the first error')

    assert services.deleted == ['myjob']
    pool, container = capsys.readouterr().err.splitlines()
    assert pool.startswith('Pool [mypool] may be left; to delete it: az batch pool delete --pool-id mypool')
    assert container.startswith('Container [input] may be left; to delete it: az storage container delete')


def test_a_failure_on_the_way_out_of_a_good_run_is_tried_again_and_ends_it(services: Services) -> None:
    services.blobs.delete_container.side_effect = [HttpResponseError('busy'), None]

    with pytest.raises(HttpResponseError, match='busy'), cleaned_up_after_errors(ACCOUNT, ask=False) as made:
        services.make_all(made)
        made.delete_containers()

    assert services.blobs.delete_container.call_count == 2
    assert services.deleted == ['myjob', 'mypool']
