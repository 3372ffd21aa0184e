"""Names that are taken: by what is still being deleted, or by a job that was there before."""
from __future__ import annotations

import datetime
from collections.abc import Callable

import azure.batch.models as batchmodels
from azure.batch import BatchServiceClient
from azure.core.exceptions import ResourceExistsError

from common.helpers import query_yes_no
from common.patience import looks
from common.sdk_errors import batch_code

# https://learn.microsoft.com/rest/api/storageservices/delete-container and
# https://learn.microsoft.com/rest/api/batchservice/batch-status-and-error-codes
_BEING_DELETED = ('ContainerBeingDeleted', 'PoolBeingDeleted', 'JobBeingDeleted')

# A container takes half a minute or more, a pool as long as its nodes need to stop.
_PATIENCE = datetime.timedelta(minutes=15)
_LONGEST_PAUSE = datetime.timedelta(seconds=5)


class NameTakenError(RuntimeError):
    """Something of the same name is in the way; the text says what, and what to do."""


def error_code(error: Exception) -> str:
    """Returns the code of an error that Batch or Storage answered, '' when it has none."""
    code = batch_code(error) if isinstance(error, batchmodels.BatchErrorException) else getattr(error, 'error_code', '')
    return str(getattr(code, 'value', code) or '')


def once_deleted(create: Callable[[], object], what: str) -> None:
    """Calls create, and again while the service says that something of this name is still being deleted.

    Raises NameTakenError when that lasts longer than any deletion should, and whatever else create raises.
    """
    for waited in looks(_PATIENCE, _LONGEST_PAUSE):
        try:
            create()
            return
        except (batchmodels.BatchErrorException, ResourceExistsError) as error:
            if error_code(error) not in _BEING_DELETED:
                raise
        if not waited:
            print(f'  Waiting for the {what} of an earlier run to be deleted...')
    raise NameTakenError(f'The {what} of an earlier run is still being deleted after {_PATIENCE}: try again later.')


def delete_existing_job(batch_service_client: BatchServiceClient, job_id: str, *, ask: bool) -> None:
    """Deletes a job that has ended; one that has not, only if the reader says so.

    Raises NameTakenError when the job stays.
    """
    job = batch_service_client.job.get(job_id)
    state = getattr(job.state, 'value', job.state)
    if state not in ('completed', 'terminating', 'deleting'):
        question = f'  Job [{job_id}] exists and is {state}. Delete it and its tasks?'
        if query_yes_no(question, 'no', ask=ask) == 'no':
            raise NameTakenError(
                f'Job [{job_id}] exists and is {state}, so another run may be using it: wait until it has ended, '
                'or delete it, or set another _JOB_ID at the top of python_tutorial_client.py.')
    try:
        batch_service_client.job.delete(job_id)
    except batchmodels.BatchErrorException as error:
        if error_code(error) not in ('JobNotFound', 'JobBeingDeleted'):
            raise
