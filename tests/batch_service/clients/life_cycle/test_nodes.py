from __future__ import annotations

from datetime import datetime

import pytest

from tests.leftovers import eventually

from .client import Refused


@pytest.fixture
def node_id(bench) -> str:
    node, = bench.wait_for_nodes('idle')
    return node['id']


def test_node_tells_of_itself(bench, node_id) -> None:
    node = bench.client.get_node(bench.pool_id, node_id)
    assert node['url'].endswith(f'/pools/{bench.pool_id}/nodes/{node_id}')
    assert (node['state'], node['schedulingState'], node['vmSize']) == ('idle', 'enabled', 'standard_d2s_v5')
    assert isinstance(node['lastBootTime'], datetime)
    assert node['isDedicated'] is True
    assert node['affinityId'] == f'TVM:{node_id}'
    assert node['virtualMachineInfo']['imageReference']['sku'] == 'server'


def test_node_remembers_what_it_ran(bench, node_id) -> None:
    bench.run('good', 'true')
    bench.run('bad', 'false')
    assert eventually(lambda: bench.client.get_node(bench.pool_id, node_id)['totalTasksRun'] == 2)
    node = bench.client.get_node(bench.pool_id, node_id)
    assert node['totalTasksSucceeded'] == 1
    assert [(task['taskId'], task['taskState']) for task in node['recentTasks']] == [
        ('bad', 'completed'), ('good', 'completed')]
    assert node['recentTasks'][0]['taskUrl'].endswith(f'/jobs/{bench.job_id}/tasks/bad')


def test_nodes_can_be_listed(bench, node_id) -> None:
    client = bench.client
    assert client.list_nodes(bench.pool_id, filter="state eq 'idle'", select=['id']) == [{'id': node_id}]
    assert client.list_nodes(bench.pool_id, filter="state eq 'offline'") == []
    with pytest.raises(Refused, match='^400 InvalidQueryParameterValue'):
        client.list_nodes(bench.pool_id, filter="id eq 'x'")


def test_reboot_runs_the_start_task_again_and_keeps_the_files(empty_bench) -> None:
    empty_bench.add_pool(startTask={'commandLine': '/bin/bash -c "echo up >> $AZ_BATCH_NODE_SHARED_DIR/log"'})
    client, pool_id = empty_bench.client, empty_bench.pool_id
    node, = empty_bench.wait_for_nodes('idle')
    client.reboot_node(pool_id, node['id'], {'nodeRebootOption': 'requeue'})
    after, = empty_bench.wait_for_nodes('idle')
    assert after['lastBootTime'] > node['lastBootTime']
    assert client.get_node_file(pool_id, node['id'], 'shared/log') == b'up\nup\n'


def test_reimage_loses_the_files(empty_bench) -> None:
    empty_bench.add_pool(startTask={'commandLine': '/bin/bash -c "echo up >> $AZ_BATCH_NODE_SHARED_DIR/log"'})
    client, pool_id = empty_bench.client, empty_bench.pool_id
    node, = empty_bench.wait_for_nodes('idle')
    client.reimage_node(pool_id, node['id'], {'nodeReimageOption': 'requeue'})
    empty_bench.wait_for_nodes('idle')
    assert client.get_node_file(pool_id, node['id'], 'shared/log') == b'up\n'


def test_node_taken_off_the_schedule_runs_nothing(bench, node_id) -> None:
    bench.client.disable_node(bench.pool_id, node_id, {'nodeDisableSchedulingOption': 'requeue'})
    bench.wait_for_nodes('offline')
    assert bench.client.get_node(bench.pool_id, node_id)['schedulingState'] == 'disabled'
    bench.add('waiting', 'true')
    with pytest.raises(Refused, match='^409 NodeAlreadyInTargetSchedulingState'):
        bench.client.disable_node(bench.pool_id, node_id, {'nodeDisableSchedulingOption': 'requeue'})
    assert bench.task('waiting')['state'] == 'active'
    bench.client.enable_node(bench.pool_id, node_id)
    assert bench.wait_for('waiting', 'completed')['nodeInfo']['nodeId'] == node_id


@pytest.mark.parametrize(('option', 'state', 'requeues'), [('requeue', 'active', 1), ('terminate', 'completed', 0)])
def test_running_task_of_a_node_taken_off_the_schedule_is(bench, node_id, option, state, requeues) -> None:
    bench.add('endless', 'sleep 600')
    bench.wait_for('endless', 'running')
    bench.client.disable_node(bench.pool_id, node_id, {'nodeDisableSchedulingOption': option})
    bench.wait_for_nodes('offline')
    task = bench.wait_for('endless', state)
    assert task['executionInfo']['requeueCount'] == requeues


def test_node_taken_off_the_schedule_may_finish_its_task(bench, node_id) -> None:
    bench.add('patient', '/bin/bash -c "until [ -e $AZ_BATCH_NODE_SHARED_DIR/go ]; do sleep 0.02; done"')
    bench.wait_for('patient', 'running')
    bench.add('end', '/bin/bash -c "sleep 600"')
    bench.wait_for('end', 'running')
    bench.client.disable_node(bench.pool_id, node_id, {'nodeDisableSchedulingOption': 'taskcompletion'})
    assert bench.client.get_node(bench.pool_id, node_id)['state'] == 'running'
    for task_id in ('patient', 'end'):
        bench.client.terminate_task(bench.job_id, task_id)
    bench.wait_for_nodes('offline')
