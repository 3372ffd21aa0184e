from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

from .client import Client, Refused
from .workbench import MACHINE, Workbench, pool_document


def test_write_with_another_entity_tag_does_nothing(bench) -> None:
    client, pool_id, job_id = bench.client, bench.pool_id, bench.job_id
    bench.add('task', 'sleep 600')
    for write in (lambda: client.patch_pool(pool_id, {'metadata': []}, if_match='0x8DBAEB9737D2CB2'),
                  lambda: client.delete_pool(pool_id, if_match='0x8DBAEB9737D2CB2'),
                  lambda: client.patch_job(job_id, {'priority': 5}, if_match='0x8DBAEB9737D2CB2'),
                  lambda: client.delete_job(job_id, if_match='0x8DBAEB9737D2CB2'),
                  lambda: client.delete_task(job_id, 'task', if_match='0x8DBAEB9737D2CB2'),
                  lambda: client.delete_pool(pool_id, if_none_match=bench.pool()['eTag'])):
        with pytest.raises(Refused, match='^412 ConditionNotMet'):
            write()
    assert (bench.pool()['state'], bench.job()['priority'], bench.task_ids()) == ('active', 0, ['task'])


def test_write_with_the_right_entity_tag_is_done_and_changes_it(empty_bench) -> None:
    empty_bench.add_job()
    before = empty_bench.job()['eTag']
    empty_bench.client.patch_job(empty_bench.job_id, {'priority': 5}, if_match=before)
    assert empty_bench.job()['priority'] == 5
    assert empty_bench.job()['eTag'] != before


def test_read_of_what_has_not_changed_is_cut_short(empty_bench) -> None:
    empty_bench.add_job()
    client, job_id, tag = empty_bench.client, empty_bench.job_id, empty_bench.job()['eTag']
    with pytest.raises(Refused, match='^304 '):
        client.get_job(job_id, if_none_match=tag)
    with pytest.raises(Refused, match='^304 '):
        client.get_job(job_id, if_modified_since=datetime.now(timezone.utc) + timedelta(hours=1))
    assert client.get_job(job_id, if_none_match='0x8DBAEB9737D2CB2')['id'] == job_id
    assert client.get_job(job_id, if_modified_since=datetime(2020, 1, 1, tzinfo=timezone.utc))['id'] == job_id


def test_write_to_what_was_modified_since_does_nothing(empty_bench) -> None:
    empty_bench.add_job()
    with pytest.raises(Refused, match='^412 ConditionNotMet'):
        empty_bench.client.patch_job(empty_bench.job_id, {'priority': 5},
                                     if_unmodified_since=datetime(2020, 1, 1, tzinfo=timezone.utc))
    assert empty_bench.job()['priority'] == 0


def test_what_the_service_does_by_itself_leaves_the_entity_tag(bench) -> None:
    bench.add('task', 'true')
    before = bench.task('task')['eTag']
    assert bench.wait_for('task', 'completed')['eTag'] == before


def test_request_id_of_the_client_comes_back_when_it_asks_for_it(empty_bench) -> None:
    empty_bench.add_job()
    headers = empty_bench.client.answer_headers('get_job', empty_bench.job_id, headers={
        'client-request-id': 'my-request', 'return-client-request-id': 'true'})
    assert headers['client-request-id'] == 'my-request'
    headers = empty_bench.client.answer_headers('get_job', empty_bench.job_id)
    assert 'client-request-id' not in headers
    assert headers['request-id']
    assert headers['ETag'] == empty_bench.job()['eTag']


_NOT_FOUND: dict[str, Callable[[Workbench], object]] = {
    'PoolNotFound': lambda bench: bench.client.list_nodes('none'),
    'NodeNotFound': lambda bench: bench.client.get_node(bench.pool_id, 'none'),
    'JobNotFound': lambda bench: bench.client.add_task('none', {'id': 'task', 'commandLine': 'true'}),
    'TaskNotFound': lambda bench: bench.client.terminate_task(bench.job_id, 'none'),
}


@pytest.mark.parametrize('code', _NOT_FOUND)
def test_what_does_not_exist_is_not_found(bench, code) -> None:
    with pytest.raises(Refused, match=f'^404 {code}: The specified .* does not exist'):
        _NOT_FOUND[code](bench)


def test_same_id_again_is_refused(bench) -> None:
    with pytest.raises(Refused, match='^409 PoolExists'):
        bench.add_pool()
    with pytest.raises(Refused, match='^409 JobExists: The specified job already exists'):
        bench.add_job()
    bench.add('task', 'true')
    with pytest.raises(Refused, match='^409 TaskExists'):
        bench.add('TASK', 'true')


def test_id_that_is_being_deleted_is_refused(slow_client: Client, new_id) -> None:
    pool_id, job_id = new_id('pool'), new_id('job')
    slow_client.add_pool(pool_document(pool_id, nodes=0))
    slow_client.add_job({'id': job_id, 'poolInfo': {'poolId': pool_id}})
    slow_client.begin('delete_job', job_id)
    slow_client.begin('delete_pool', pool_id)
    assert slow_client.get_job(job_id)['state'] == 'deleting'
    assert slow_client.get_pool(pool_id)['state'] == 'deleting'
    with pytest.raises(Refused, match='^409 PoolBeingDeleted'):
        slow_client.add_pool(pool_document(pool_id))
    with pytest.raises(Refused, match='^409 JobBeingDeleted'):
        slow_client.add_job({'id': job_id, 'poolInfo': {'poolId': pool_id}})
    with pytest.raises(Refused, match='^409 JobBeingDeleted'):
        slow_client.add_task(job_id, {'id': 'task', 'commandLine': 'true'})


@pytest.mark.parametrize(('name', 'value', 'code'), [
    ('id', 'no blanks', 'InvalidPropertyValue'),
    ('id', 'x' * 65, 'InvalidPropertyValue'),
    ('taskSlotsPerNode', 257, 'InvalidPropertyValue'),
    ('resizeTimeout', timedelta(minutes=4), 'InvalidPropertyValue'),
    ('targetDedicatedNodes', -1, 'InvalidPropertyValue'),
])
def test_bad_value_of_a_pool_is_named(client, new_id, name, value, code) -> None:
    with pytest.raises(Refused, match=f'^400 {code}') as refusal:
        client.add_pool({**pool_document(new_id('pool'), nodes=0), name: value})
    assert refusal.value.values['PropertyName'] == name
    assert refusal.value.values['Reason']


def test_unknown_node_agent_is_not_found(client, new_id) -> None:
    machine = {**MACHINE, 'nodeAgentSKUId': 'batch.node.debian 8'}
    with pytest.raises(Refused, match='^404 NodeAgentSKUNotFound'):
        client.add_pool(pool_document(new_id('pool'), virtualMachineConfiguration=machine))


def test_priority_out_of_range_is_refused(empty_bench) -> None:
    with pytest.raises(Refused, match='^400 OutOfRangePriority'):
        empty_bench.add_job(priority=1001)


def test_dependency_needs_a_job_with_dependencies(empty_bench) -> None:
    empty_bench.add_job()
    with pytest.raises(Refused, match='^400 TaskDependenciesNotSpecifiedOnJob'):
        empty_bench.add('child', 'true', dependsOn={'taskIds': ['parent']})


def test_job_action_needs_a_job_that_takes_it(empty_bench) -> None:
    empty_bench.add_job()
    with pytest.raises(Refused, match='^400 InvalidPropertyValue'):
        empty_bench.add('task', 'true', exitConditions={'default': {'jobAction': 'terminate'}})


def test_task_may_not_be_called_like_the_preparation(empty_bench) -> None:
    empty_bench.add_job(jobPreparationTask={'id': 'prepare', 'commandLine': 'true'})
    with pytest.raises(Refused, match='^409 TaskIdSameAsJobPreparationTask'):
        empty_bench.add('prepare', 'true')


def test_job_cannot_go_back_to_no_action(empty_bench) -> None:
    empty_bench.add_job()
    empty_bench.add('waiting', 'true')
    empty_bench.client.patch_job(empty_bench.job_id, {'onAllTasksComplete': 'terminatejob'})
    with pytest.raises(Refused, match='^400 InvalidPropertyValue') as refusal:
        empty_bench.client.patch_job(empty_bench.job_id, {'onAllTasksComplete': 'noaction'})
    assert refusal.value.values['PropertyName'] == 'onAllTasksComplete'


def test_wrong_key_is_refused(client, wrong_key_client) -> None:
    with pytest.raises(Refused, match='^403 AuthenticationFailed') as refusal:
        wrong_key_client.list_pools()
    assert 'GET' in refusal.value.values['AuthenticationErrorDetail']
