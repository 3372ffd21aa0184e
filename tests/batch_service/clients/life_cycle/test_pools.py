from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from tests.leftovers import eventually

from .client import Refused
from .workbench import pool_document


def test_pool_is_echoed_with_its_defaults(empty_bench) -> None:
    empty_bench.add_pool(nodes=0, displayName='Échantillon', metadata=[{'name': 'owner', 'value': 'me'}],
                         startTask={'commandLine': 'true'})
    pool = empty_bench.pool()
    assert pool['id'] == empty_bench.pool_id
    assert pool['url'].endswith(f'/pools/{empty_bench.pool_id}')
    assert (pool['displayName'], pool['metadata']) == ('Échantillon', [{'name': 'owner', 'value': 'me'}])
    assert (pool['state'], pool['vmSize'], pool['taskSlotsPerNode']) == ('active', 'standard_d2s_v5', 4)
    assert pool['resizeTimeout'] == timedelta(minutes=15)
    assert isinstance(pool['creationTime'], datetime)
    assert pool['enableAutoScale'] is False
    assert pool['enableInterNodeCommunication'] is False
    assert pool['virtualMachineConfiguration']['imageReference']['version'] == 'latest'
    assert pool['startTask']['waitForSuccess'] is True
    assert pool['startTask']['userIdentity'] == {'autoUser': {'scope': 'pool', 'elevationLevel': 'nonadmin'}}


def test_pool_gets_the_nodes_it_asks_for(empty_bench) -> None:
    empty_bench.add_pool(nodes=2, targetLowPriorityNodes=1)
    nodes = empty_bench.wait_for_nodes('idle', 'idle', 'idle')
    assert sorted(node['isDedicated'] for node in nodes) == [False, True, True]
    pool = empty_bench.pool()
    assert (pool['currentDedicatedNodes'], pool['currentLowPriorityNodes']) == (2, 1)
    assert 'resizeErrors' not in pool


def test_pools_can_be_listed(empty_bench) -> None:
    empty_bench.add_pool(nodes=0)
    client, pool_id = empty_bench.client, empty_bench.pool_id
    assert pool_id in [pool['id'] for pool in client.list_pools()]
    chosen = client.list_pools(filter=f"startswith(id, '{pool_id}') and state eq 'active'", select=['id', 'state'])
    assert chosen == [{'id': pool_id, 'state': 'active'}]
    assert [pool['id'] for pool in client.list_pools(filter=f"id eq '{pool_id}'", expand=['stats'])] == [pool_id]


def test_pool_is_there_until_it_is_deleted(empty_bench) -> None:
    client, pool_id = empty_bench.client, empty_bench.pool_id
    assert client.pool_exists(pool_id) is False
    empty_bench.add_pool()
    assert client.pool_exists(pool_id) is True
    client.delete_pool(pool_id)
    assert eventually(lambda: not client.pool_exists(pool_id))
    with pytest.raises(Refused, match='^404 PoolNotFound'):
        client.get_pool(pool_id)


def test_patch_changes_what_it_names_and_nothing_else(empty_bench) -> None:
    empty_bench.add_pool(nodes=0, metadata=[{'name': 'owner', 'value': 'me'}], startTask={'commandLine': 'true'})
    before = empty_bench.pool()
    empty_bench.client.patch_pool(empty_bench.pool_id, {'metadata': [{'name': 'owner', 'value': 'you'}]})
    after = empty_bench.pool()
    assert after['metadata'] == [{'name': 'owner', 'value': 'you'}]
    assert after['startTask'] == before['startTask']
    assert after['eTag'] != before['eTag']


def test_update_properties_removes_what_it_does_not_name(empty_bench) -> None:
    empty_bench.add_pool(nodes=0, metadata=[{'name': 'owner', 'value': 'me'}], startTask={'commandLine': 'true'})
    empty_bench.client.update_pool_properties(empty_bench.pool_id, {
        'startTask': {'commandLine': 'false'}, 'applicationPackageReferences': [], 'certificateReferences': [],
        'metadata': []})
    pool = empty_bench.pool()
    assert pool['startTask']['commandLine'] == 'false'
    assert not pool.get('metadata')


def test_pool_is_resized_up_and_down(empty_bench) -> None:
    empty_bench.add_pool(nodes=1)
    first, = empty_bench.wait_for_nodes('idle')
    empty_bench.client.resize_pool(empty_bench.pool_id, {'targetDedicatedNodes': 3})
    nodes = empty_bench.wait_for_nodes('idle', 'idle', 'idle')
    assert first['id'] in [node['id'] for node in nodes]
    empty_bench.client.resize_pool(empty_bench.pool_id, {
        'targetDedicatedNodes': 0, 'resizeTimeout': timedelta(minutes=5), 'nodeDeallocationOption': 'requeue'})
    assert empty_bench.wait_for_nodes() == []
    assert empty_bench.pool()['resizeTimeout'] == timedelta(minutes=5)


def test_resize_puts_the_tasks_of_leaving_nodes_back(bench) -> None:
    bench.add('endless', 'sleep 600')
    bench.wait_for('endless', 'running')
    bench.client.resize_pool(bench.pool_id, {'targetDedicatedNodes': 0, 'nodeDeallocationOption': 'requeue'})
    bench.wait_for_nodes()
    task = bench.wait_for('endless', 'active')
    assert task['executionInfo']['requeueCount'] == 1


def test_resize_can_be_stopped(slow_client, new_id) -> None:
    pool_id = new_id('pool')
    slow_client.add_pool(pool_document(pool_id, nodes=2))
    assert slow_client.get_pool(pool_id)['allocationState'] == 'resizing'
    slow_client.stop_pool_resize(pool_id)
    assert eventually(lambda: slow_client.get_pool(pool_id)['allocationState'] == 'steady')
    pool = slow_client.get_pool(pool_id)
    assert (pool['targetDedicatedNodes'], pool['currentDedicatedNodes']) == (2, 0)
    assert [error['code'] for error in pool['resizeErrors']] == ['ResizeStopped']


def test_pool_that_is_being_resized_is_not_resized_again(slow_client, new_id) -> None:
    pool_id = new_id('pool')
    slow_client.add_pool(pool_document(pool_id))
    with pytest.raises(Refused, match='^409 PoolBeingResized'):
        slow_client.resize_pool(pool_id, {'targetDedicatedNodes': 2})


def test_nodes_are_removed_by_id(empty_bench) -> None:
    empty_bench.add_pool(nodes=2)
    leaving, staying = empty_bench.wait_for_nodes('idle', 'idle')
    empty_bench.client.remove_nodes(empty_bench.pool_id, {'nodeList': [leaving['id']]})
    node, = empty_bench.wait_for_nodes('idle')
    assert node['id'] == staying['id']
    assert empty_bench.pool()['targetDedicatedNodes'] == 1


def test_nodes_are_counted_by_pool_and_state(empty_bench) -> None:
    empty_bench.add_pool(nodes=2)
    empty_bench.wait_for_nodes('idle', 'idle')
    counts, = empty_bench.client.list_node_counts(filter=f"poolId eq '{empty_bench.pool_id}'")
    assert counts['poolId'] == empty_bench.pool_id
    assert (counts['dedicated']['idle'], counts['dedicated']['running'], counts['dedicated']['total']) == (2, 0, 2)
    assert counts['lowPriority']['total'] == 0
