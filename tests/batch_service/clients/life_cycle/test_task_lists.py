from __future__ import annotations

import pytest

from .client import Refused


@pytest.fixture
def job(empty_bench):
    """A workbench with a job whose tasks nothing runs."""
    empty_bench.add_job()
    return empty_bench


def _documents(*ids: str, **properties: object) -> list[dict[str, object]]:
    return [{'id': id, 'commandLine': 'true', **properties} for id in ids]


def test_more_tasks_than_one_request_takes_are_added(job) -> None:
    ids = [f'task{number:03}' for number in range(250)]
    added, refused = job.client.add_tasks(job.job_id, _documents(*ids))
    assert (sorted(added), refused) == (ids, {})
    assert job.task_ids() == ids


def test_tasks_of_a_collection_are_refused_one_by_one(job) -> None:
    documents = _documents(*(f'task{number:03}' for number in range(120)))
    documents[3] = {'id': 'task003', 'commandLine': 'true', 'dependsOn': {'taskIds': ['task001']}}
    documents[110] = {'id': 'bad id', 'commandLine': 'true'}
    _, refused = job.client.add_tasks(job.job_id, documents)
    assert refused == {'task003': 'TaskDependenciesNotSpecifiedOnJob', 'bad id': 'InvalidPropertyValue'}
    assert len(job.task_ids()) == 118


def test_task_that_is_there_already_does_not_stop_a_collection(job) -> None:
    job.add('task1', 'true', displayName='the first')
    _, refused = job.client.add_tasks(job.job_id, _documents('task0', 'task1', 'task2'))
    assert refused == {}  # so do both SDKs read TaskExists
    assert job.task_ids() == ['task0', 'task1', 'task2']
    assert job.task('task1')['displayName'] == 'the first'


def test_tasks_come_in_pages(job) -> None:
    ids = [f'task{number}' for number in range(8)]
    job.client.add_tasks(job.job_id, _documents(*ids))
    assert job.task_ids(max_results=3) == ids
    assert job.task_ids(max_results=3, filter="startswith(id, 'task') and id gt 'task2'", select=['id']) == ids[3:]


def test_listed_tasks_have_the_selected_properties(job) -> None:
    job.client.add_tasks(job.job_id, _documents('task', displayName='x'))
    assert job.client.list_tasks(job.job_id, select=['id', 'state']) == [{'id': 'task', 'state': 'active'}]
    task, = job.client.list_tasks(job.job_id, expand=['stats'])
    assert task['displayName'] == 'x'
    with pytest.raises(Refused, match='^400 '):
        job.client.list_tasks(job.job_id, expand=['everything'])


@pytest.mark.parametrize(('filter', 'ids'), [
    ("state eq 'completed'", ['bad', 'good']),
    ("state ne 'completed'", ['endless']),
    ('executionInfo/exitCode ne 0', ['bad']),
    ("executionInfo/result eq 'success' or startswith(id, 'end')", ['endless', 'good']),
    ("(id eq 'good' or id eq 'bad') and executionInfo/exitCode lt 1", ['good']),
    ("creationTime gt DateTime'2020-01-31T08:00:00Z'", ['bad', 'endless', 'good']),
    ("executionInfo/endTime lt DateTime'2020-01-31T08:00:00Z'", []),
])
def test_tasks_can_be_filtered(bench, filter, ids) -> None:
    bench.run('good', 'true')
    bench.run('bad', '/bin/bash -c "exit 3"')
    bench.add('endless', 'sleep 600')
    assert bench.task_ids(filter=filter) == ids


@pytest.mark.parametrize('filter', [
    'nonsense', "commandLine eq 'true'", "startswith(state, 'act')", "state gt 'active'", "endswith(id, 'x')"])
def test_filter_that_batch_does_not_allow_is_refused(job, filter) -> None:
    with pytest.raises(Refused, match='^400 InvalidQueryParameterValue') as refusal:
        job.task_ids(filter=filter)
    assert refusal.value.values['QueryParameterName'] == '$filter'
    assert refusal.value.values['QueryParameterValue'] == filter
