"""Names that are still taken."""
from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import MagicMock

import azure.batch.models as batchmodels
import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError
from azure.storage.blob import StorageErrorCode
from pytest_mock import MockerFixture

from common.taken_names import NameTakenError, delete_existing_job, error_code, once_deleted


def batch_error(code: str) -> batchmodels.BatchErrorException:
    error = batchmodels.BatchError(code=code, message=batchmodels.ErrorMessage(value=code))
    return batchmodels.BatchErrorException(lambda *_: error, SimpleNamespace(status_code=409, reason=''))


@pytest.fixture
def slept(mocker: MockerFixture) -> list[float]:
    """The pauses that were taken, on a clock that only they move."""
    pauses: list[float] = []
    mocker.patch('time.sleep', pauses.append)
    mocker.patch('time.monotonic', lambda: sum(pauses))
    return pauses


@pytest.mark.parametrize('code', ['PoolBeingDeleted', 'JobBeingDeleted'])
def test_what_is_being_deleted_is_waited_for_with_one_line(slept: list[float], code: str,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    create = MagicMock(side_effect=[batch_error(code)] * 5 + [None])

    once_deleted(create, 'pool [mypool]')

    assert create.call_count == 6 and len(slept) == 5
    assert capsys.readouterr().out == '  Waiting for the pool [mypool] of an earlier run to be deleted...\n'


def test_waiting_has_an_end(slept: list[float]) -> None:
    create = MagicMock(side_effect=batch_error('PoolBeingDeleted'))

    with pytest.raises(NameTakenError, match=r'pool \[mypool\] .* still being deleted after 0:15:00: try again'):
        once_deleted(create, 'pool [mypool]')

    assert sum(slept) == pytest.approx(15 * 60) and max(slept) == 5


@pytest.mark.parametrize('error', [batch_error('PoolExists'), ResourceExistsError('there')])
def test_any_other_answer_is_not_waited_for(slept: list[float], error: Exception) -> None:
    with pytest.raises(type(error)):
        once_deleted(MagicMock(side_effect=error), 'pool [mypool]')

    assert slept == []


@pytest.mark.parametrize('state, asked', [('completed', False), ('terminating', False), ('active', True),
                                          ('disabled', True)])
def test_only_a_job_that_has_not_ended_is_asked_about(state: str, asked: bool,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    client = MagicMock()
    client.job.get.return_value = batchmodels.CloudJob(id='myjob', state=state)

    if asked:
        with pytest.raises(NameTakenError, match=rf'Job \[myjob\] exists and is {state}, so another run'):
            delete_existing_job(client, 'myjob', ask=False)
        client.job.delete.assert_not_called()
    else:
        delete_existing_job(client, 'myjob', ask=False)
        client.job.delete.assert_called_once_with('myjob')
    assert ('[y/N] no' in capsys.readouterr().out) is asked


def test_the_code_of_any_error_can_be_asked_for() -> None:
    storage = HttpResponseError('x')
    storage.error_code = StorageErrorCode.CONTAINER_BEING_DELETED
    not_json = batchmodels.BatchErrorException(lambda *_: None, MagicMock(status_code=502, reason=''))

    assert [error_code(error) for error in (storage, batch_error('JobExists'), not_json, OSError())] == [
        'ContainerBeingDeleted', 'JobExists', '', '']
