from __future__ import annotations

import pytest

from common.batch_service.errors import BatchError
from common.batch_service.life import moves, nodes
from common.batch_service.life.outcome import Outcome
from common.batch_service.store import Store

from .bench import FAILURE, NOT_STARTED, SUCCESS, Document, pool_document

START_TASK = {'commandLine': 'x', 'maxTaskRetryCount': 1}


def add(store: Store, state: str = 'idle', **properties: object) -> Document:
    """A node of the pool p that is in a state."""
    nodes.add(store, pool_document(), True, 7.0)
    node = store.all('node', 'p')[-1]
    if state not in nodes.ENDING_WORK + ('creating', 'starting'):
        del node['_booting'], node['_due']
    node |= {'state': state, **properties}
    store.save('node', 'p', node)
    return node


def read(store: Store, node: Document) -> Document:
    return store.get('node', 'p', node['id'])


def test_new_node_boots_when_it_is_due(store: Store) -> None:
    nodes.add(store, pool_document(), False, 7.0)
    node, = store.all('node', 'p')
    assert (node['state'], node['_booting'], node['_due'], node['isDedicated']) == ('creating', True, 7.0, False)
    assert node['id'].endswith('_p') and not nodes.takes_tasks(node)


def test_node_without_a_start_task_is_idle_when_it_comes_up(store: Store) -> None:
    node = add(store, 'creating')
    assert nodes.come_up(store, pool_document(), node) is False
    node = read(store, node)
    assert node['state'] == 'idle' and '_booting' not in node and nodes.takes_tasks(node)
    assert node['lastBootTime'] and node['nodeAgentInfo']['version']


@pytest.mark.parametrize(('waits', 'state'), [(True, 'waitingforstarttask'), (False, 'idle')])
def test_node_with_a_start_task_runs_it_when_it_comes_up(store: Store, waits: bool, state: str) -> None:
    node = add(store, 'rebooting')
    assert nodes.come_up(store, pool_document(startTask={**START_TASK, 'waitForSuccess': waits}), node) is True
    node = read(store, node)
    assert (node['state'], node['startTaskInfo']['state'], node['startTaskInfo']['retryCount']) == (state, 'running', 0)
    assert nodes.takes_tasks(node) == (not waits)


def test_unusable_node_says_why(store: Store) -> None:
    node = add(store, 'creating')
    assert nodes.come_up(store, pool_document(startTask=START_TASK), node, 'It is broken') is False
    node = read(store, node)
    assert (node['state'], node['errors'][0]['message']) == ('unusable', 'It is broken')
    assert 'startTaskInfo' not in node


def test_so_many_nodes_of_a_pool_are_to_be_unusable(store: Store) -> None:
    all_nodes = [add(store, 'creating') for _ in range(3)]
    assert [bool(nodes.is_to_be_unusable(store, node, 0)) for node in all_nodes] == [False] * 3
    assert sum(bool(nodes.is_to_be_unusable(store, node, 2)) for node in all_nodes) == 2


@pytest.mark.parametrize(('outcomes', 'state', 'retries'), [
    ([SUCCESS], 'idle', 0), ([FAILURE, SUCCESS], 'idle', 1), ([FAILURE, FAILURE], 'starttaskfailed', 1),
    ([NOT_STARTED], 'starttaskfailed', 0)])
def test_end_of_the_start_task_decides(store: Store, outcomes: list[Outcome], state: str, retries: int) -> None:
    node = add(store, 'creating')
    nodes.come_up(store, pool_document(startTask=START_TASK), node)
    again = [nodes.end_start_task(store, 'p', node['id'], outcome) for outcome in outcomes]
    assert again == [True] * retries + [False]
    node = read(store, node)
    assert (node['state'], node['startTaskInfo']['state'], node['startTaskInfo']['retryCount']) == (
        state, 'completed', retries)
    assert ('exitCode' in node['startTaskInfo']) == (outcomes[-1].exit_code is not None)
    assert nodes.end_start_task(store, 'p', node['id'], SUCCESS) is False
    assert read(store, node) == node


def test_failed_start_task_that_is_not_waited_for_leaves_the_node_idle(store: Store) -> None:
    node = add(store, 'creating')
    nodes.come_up(store, pool_document(startTask={**START_TASK, 'waitForSuccess': False}), node)
    nodes.end_start_task(store, 'p', node['id'], NOT_STARTED)
    assert read(store, node)['state'] == 'idle'
    assert read(store, node)['startTaskInfo']['result'] == 'failure'


def test_start_task_of_a_node_that_is_gone_or_ended_it_decides_nothing(store: Store) -> None:
    node = add(store, 'idle', startTask=START_TASK, startTaskInfo={'state': 'completed'})
    for node_id in (node['id'], 'gone'):
        assert nodes.end_start_task(store, 'p', node_id, FAILURE) is False
    assert read(store, node) == node


def test_node_that_was_disabled_while_it_booted_is_offline(store: Store) -> None:
    node = add(store, 'creating', schedulingState='disabled')
    nodes.come_up(store, pool_document(), node)
    assert read(store, node)['state'] == 'offline'


REFUSALS = {'creating': 'NodeBeingCreated', 'starting': 'NodeBeingStarted', 'rebooting': 'NodeBeingRebooted',
            'reimaging': 'NodeBeingReimaged', 'unusable': 'NodeStateUnusable',
            'starttaskfailed': 'OperationInvalidForCurrentState', 'leavingpool': 'OperationInvalidForCurrentState',
            'waitingforstarttask': 'OperationInvalidForCurrentState'}


@pytest.mark.parametrize(('state', 'code'), REFUSALS.items())
@pytest.mark.parametrize('what', ['disable', 'enable', 'rebooting', 'reimaging'])
def test_node_that_is_not_ready_refuses(store: Store, state: str, code: str, what: str) -> None:
    node = add(store, state, schedulingState='disabled' if what == 'enable' else 'enabled')
    before = read(store, node)
    with pytest.raises(BatchError, match=code):
        if what == 'disable':
            nodes.disable_scheduling(store, node, 'requeue')
        elif what == 'enable':
            nodes.enable_scheduling(store, node)
        else:
            nodes.restart(store, node, what, 'requeue')
    assert read(store, node) == before


def test_refusals_are_of_all_states_that_are_not_ready() -> None:
    assert {*REFUSALS, *nodes.READY} == set(moves._MOVES['node'])


@pytest.mark.parametrize('state', ['idle', 'running'])
def test_node_is_disabled_and_enabled(store: Store, state: str) -> None:
    running = int(state == 'running')
    node = add(store, state, runningTasksCount=running)
    nodes.disable_scheduling(store, node, 'terminate')
    node = read(store, node)
    assert node['schedulingState'] == 'disabled' and not nodes.takes_tasks(node)
    assert (node['state'], node.get('_end')) == (('running', 'terminate') if running else ('offline', None))
    with pytest.raises(BatchError, match='NodeAlreadyInTargetSchedulingState'):
        nodes.disable_scheduling(store, node, 'requeue')
    nodes.enable_scheduling(store, node)
    node = read(store, node)
    assert (node['state'], node['schedulingState'], node.get('_end')) == (state, 'enabled', None)
    with pytest.raises(BatchError, match='NodeAlreadyInTargetSchedulingState'):
        nodes.enable_scheduling(store, node)


def test_offline_node_refuses_to_restart(store: Store) -> None:
    with pytest.raises(BatchError, match='OperationInvalidForCurrentState'):
        nodes.restart(store, add(store, 'offline'), 'rebooting', 'requeue')


@pytest.mark.parametrize(('asked', 'wish'), [('requeue', 'requeue'), ('terminate', 'terminate'),
                                             ('taskcompletion', 'wait'), ('retaineddata', 'wait')])
@pytest.mark.parametrize('state', ['idle', 'running'])
def test_restart_is_looked_at_and_says_how_tasks_are_to_end(store: Store, state: str, asked: str, wish: str) -> None:
    node = add(store, state)
    nodes.restart(store, node, 'reimaging', asked)
    node = read(store, node)
    assert (node['state'], node['_end'], node['_due']) == ('reimaging', wish, 0.0)


def test_reboot_forgets_the_wish_and_boots_when_it_is_due(store: Store) -> None:
    node = add(store, 'rebooting', _end='requeue')
    nodes.reboot(store, node, 9.0)
    node = read(store, node)
    assert ('_end' in node, node['_booting'], node['_due']) == (False, True, 9.0)


@pytest.mark.parametrize('state', [state for state in moves._MOVES['node'] if state != 'leavingpool'])
def test_node_leaves_from_any_state_and_keeps_the_stronger_wish(store: Store, state: str) -> None:
    node = add(store, state)
    nodes.leave(store, node, 'terminate')
    nodes.leave(store, read(store, node), 'requeue')
    node = read(store, node)
    assert (node['state'], node['_end'], node['_due']) == ('leavingpool', 'terminate', 0.0)
    assert not nodes.takes_tasks(node)


def completed(id: str, result: str) -> Document:
    return {'id': id, 'state': 'completed', 'requiredSlots': 2, 'executionInfo': {'result': result}}


def test_node_counts_the_tasks_that_come_and_leave(store: Store) -> None:
    node = add(store)
    nodes.task_came(store, node, {'requiredSlots': 2})
    assert (node['state'], node['runningTasksCount'], node['runningTaskSlotsCount']) == ('running', 1, 2)
    nodes.task_left(store, 'p', node['id'], 'j', completed('t', 'failure'), 2)
    node = read(store, node)
    assert (node['state'], node['runningTasksCount'], node['runningTaskSlotsCount']) == ('idle', 0, 0)
    assert (node['totalTasksRun'], node['totalTasksSucceeded']) == (1, 0)
    nodes.task_came(store, node, {'requiredSlots': 1})
    nodes.task_left(store, 'p', node['id'], 'j', {'id': 'again', 'state': 'active'}, 1)
    assert read(store, node)['totalTasksRun'] == 1
    nodes.task_left(store, 'p', 'gone', 'j', {'id': 'again', 'state': 'active'}, 1)


def test_node_remembers_its_last_tasks(store: Store) -> None:
    node = add(store, runningTasksCount=20, state='running')
    for number in range(12):
        nodes.task_left(store, 'p', node['id'], 'j', completed(str(number), 'success'), 1)
    node = read(store, node)
    assert [task['taskId'] for task in node['recentTasks']] == [str(number) for number in range(11, 1, -1)]
    assert node['totalTasksSucceeded'] == 12


@pytest.mark.parametrize('state', ['rebooting', 'reimaging', 'leavingpool'])
def test_node_on_its_way_stays_so_when_its_last_task_leaves_and_is_looked_at(store: Store, state: str) -> None:
    node = add(store, 'running', runningTasksCount=1, runningTaskSlotsCount=1)
    if state == 'leavingpool':
        nodes.leave(store, node, 'requeue')
    else:
        nodes.restart(store, node, state, 'requeue')
    del node['_due']
    store.save('node', 'p', node)
    nodes.task_left(store, 'p', node['id'], 'j', {'id': 't', 'state': 'active'}, 1)
    node = read(store, node)
    assert (node['state'], node['_end'], node['_due'], node['runningTasksCount']) == (state, 'requeue', 0.0, 0)


def test_disabled_node_is_offline_when_its_last_task_leaves(store: Store) -> None:
    node = add(store, 'running', runningTasksCount=2, runningTaskSlotsCount=2)
    nodes.disable_scheduling(store, node, 'requeue')
    for state in ('running', 'offline'):
        nodes.task_left(store, 'p', node['id'], 'j', {'id': 't', 'state': 'active'}, 1)
        assert read(store, node)['state'] == state
    assert '_end' not in read(store, node)
