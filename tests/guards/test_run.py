"""What bears the mark of a run, asked of mocks that answer as Azure does, and of the real local services."""
from __future__ import annotations

import secrets

import azure.batch.models as batchmodels
import pytest
from azure.batch import BatchServiceClient
from azure.storage.blob import BlobServiceClient

from common.guards.accounts import Account
from common.guards.run import Run, in_words
from tests.guards.cloud import ON_THIS_MACHINE, Cloud, batch_error


def test_each_run_has_a_mark_of_its_own() -> None:
    runs = [Cloud().run() for _ in range(2)]

    assert runs[0].mark != runs[1].mark
    for run in runs:
        assert {item.name: item.value for item in run.metadata} == run.mark


@pytest.mark.parametrize('kind', ['job', 'pool'])
def test_a_job_or_a_pool_is_made_by_the_run_if_it_bears_the_mark_and_is_not_being_deleted(kind: str) -> None:
    cloud, another = Cloud(), Cloud()
    run, name = cloud.run(), f'my{kind}'
    found = {'no such thing': run.has(kind, run.mark)}
    for what, mark, state in (
            ('of the run', {**run.mark, 'recipe': 'x'}, 'active'), ('without metadata', None, 'active'),
            ('of another run', another.run().mark, 'active'), ('going', run.mark, 'deleting')):
        cloud.has(kind, name, mark, state)
        found[what] = run.has(kind, run.mark)

    assert [what for what, is_made in found.items() if is_made] == ['of the run']


def test_a_container_is_made_by_the_run_if_it_bears_the_mark() -> None:
    cloud, another = Cloud(), Cloud()
    run = cloud.run()
    cloud.has('container', 'application', {'theirs': 'x', **run.mark})
    cloud.has('container', 'input', another.run().mark)

    assert [name for name in run.container_names if run.has_made_container(name)] == ['application']


@pytest.mark.parametrize('error', [batch_error('AuthenticationFailed', 403), batch_error('InternalError', 500),
                                   batch_error(None, 404)], ids=['403', '500', 'no code'])
def test_an_answer_that_does_not_say_that_there_is_none_goes_on(error: Exception) -> None:
    cloud = Cloud()
    cloud.trouble['get job'] = error

    with pytest.raises(batchmodels.BatchErrorException):
        cloud.run().find('job')


def test_of_a_container_only_the_blobs_of_the_run_are_deleted() -> None:
    cloud = Cloud()
    container = cloud.has('container', 'input', blobs=['a.txt', 'theirs.txt', 'task.py'])
    run = cloud.run()

    for name in run.container_names:
        run.delete_blobs(name)

    assert container.blobs == ['theirs.txt', 'task.py']
    assert [call for call in cloud.asked if call.startswith('empty')] == ['empty container input']


def test_any_number_of_blobs_is_deleted() -> None:
    cloud, names = Cloud(), [f'{number}.txt' for number in range(600)]
    container = cloud.has('container', 'input', blobs=names)
    run = Run(ON_THIS_MACHINE, cloud.batch, cloud.blobs, 'j', 'p', blob_names={'input': iter(names)}, ask=False)

    run.delete_blobs('input')

    assert container.blobs == [] and len(cloud.asked) == 4


@pytest.mark.parametrize('kind, name, command', [
    ('container', 'input', 'az storage container delete --name input --account-name mystorage'),
    ('job', 'myjob', 'az batch job delete --job-id myjob --account-name mybatch '
                     '--account-endpoint https://mybatch.westeurope.batch.azure.com'),
    ('pool', 'mypool', 'az batch pool delete --pool-id mypool --account-name mybatch '
                       '--account-endpoint https://mybatch.westeurope.batch.azure.com')])
def test_how_to_delete_what_stays(kind: str, name: str, command: str) -> None:
    assert Cloud().run().how_to_delete(kind, name) == f'to delete it: {command}'
    assert 'az ' not in Cloud().run(account=ON_THIS_MACHINE).how_to_delete(kind, name)


def test_states_are_said_in_words() -> None:
    assert [in_words(state) for state in (batchmodels.ComputeNodeState.waiting_for_start_task, 'deallocating')] == [
        'waiting for start task', 'deallocating']


def test_the_real_services_know_what_bears_the_mark(
        batch_client: BatchServiceClient, blob_client: BlobServiceClient) -> None:
    """With blobs whose names are not easily put into a request."""
    container, names = f'input{secrets.token_hex(4)}', ['größe #1 & "50%".txt', "it's+a=b?.txt", 'a/b.txt']
    runs = [Run(Account(), batch_client, blob_client, secrets.token_hex(4), 'nopool', blob_names={container: names},
                ask=False) for _ in range(2)]
    pool = batchmodels.PoolInformation(pool_id='nopool')
    batch_client.job.add(batchmodels.JobAddParameter(id=runs[0].ids['job'], pool_info=pool, metadata=runs[0].metadata))
    runs[1].ids['job'] = runs[0].ids['job']
    try:
        with blob_client.create_container(container, metadata=runs[0].mark) as client:
            for name in [*names, 'theirs.txt']:
                client.upload_blob(name, b'words')
            client.get_blob_client(names[0]).create_snapshot()

            assert [run.has('job', run.mark) for run in runs] == [True, False]
            assert [run.has_made_container(container) for run in runs] == [True, False]
            assert runs[1].find('pool') is None
            assert sorted(runs[1].blob_names(container)) == sorted(names)
            runs[1].delete_blobs(container)
            assert list(client.list_blob_names()) == ['theirs.txt']
    finally:
        batch_client.job.delete(runs[0].ids['job'])
        blob_client.delete_container(container)
    assert runs[0].blob_names(container) == [] and not runs[0].has_made_container(container)
    assert not runs[0].has('job', runs[0].mark)
