"""The life of a node: allocated, made ready by the start task, taken off the schedule, rebooted, taken down.

https://learn.microsoft.com/azure/batch/nodes-and-pools
"""

from __future__ import annotations

import secrets
from typing import Any

from ..errors import BatchError
from ..store import Store
from ..values import now
from .moves import move, wish
from .outcome import Outcome, began, ended, is_tried_again

Document = dict[str, Any]

STATES = ('creating', 'idle', 'leavingpool', 'offline', 'preempted', 'rebooting', 'reimaging', 'running', 'starting',
          'startTaskFailed', 'unknown', 'unusable', 'waitingForStartTask')
"""As node counts name them."""

READY = ('idle', 'running', 'offline')
ENDING_WORK = ('rebooting', 'reimaging', 'leavingpool')
"""The states in which a node's tasks have to leave it; _booting says that they have."""

_NOT_UP = {'creating': 'NodeBeingCreated', 'starting': 'NodeBeingStarted', 'rebooting': 'NodeBeingRebooted',
           'reimaging': 'NodeBeingReimaged', 'unusable': 'NodeStateUnusable'}
_WISHES = {'requeue': 'requeue', 'terminate': 'terminate', 'taskcompletion': 'wait', 'retaineddata': 'wait'}
_MOST_RECENT_TASKS = 10
_NODE_AGENT_VERSION = '1.12.39'
_UNUSABLE = 'The service was asked to make this node unusable.'


def add(store: Store, pool: Document, dedicated: bool, due: float) -> None:
    """Makes a new node for a pool, which boots when it is due."""
    node_id = f'tvmps_{secrets.token_hex(32)}_{"d" if dedicated else "p"}'
    moment_added = now()
    store.add('node', pool['id'], node_id, {
        'id': node_id, 'state': 'creating', 'schedulingState': 'enabled', 'stateTransitionTime': moment_added,
        'allocationTime': moment_added, 'ipAddress': '127.0.0.1', 'affinityId': f'TVM:{node_id}',
        'vmSize': pool['vmSize'], 'totalTasksRun': 0, 'totalTasksSucceeded': 0, 'runningTasksCount': 0,
        'runningTaskSlotsCount': 0, 'isDedicated': dedicated,
        'virtualMachineInfo': {'imageReference': pool['virtualMachineConfiguration']['imageReference']},
        '_pool': pool['id'], '_booting': True, '_due': due})


def restart(store: Store, node: Document, state: str, running_tasks: str) -> None:
    """Has a node reboot or reimage, once its tasks have ended as asked.

    Args:
        state: ``rebooting`` or ``reimaging``; the latter loses its files.
        running_tasks: ``requeue``, ``terminate``, ``taskcompletion`` or ``retaineddata``.

    Raises:
        BatchError: The node is neither idle nor running.
    """
    if node['state'] in _NOT_UP:
        raise BatchError(_NOT_UP[node['state']])
    if node['state'] not in ('idle', 'running'):
        raise _invalid_for_state(node, 'The node must be idle or running')
    move('node', node, state)
    _look_at_runs(store, node, running_tasks)


def disable_scheduling(store: Store, node: Document, running_tasks: str) -> None:
    """Places no more tasks on a node; it is offline once it runs none."""
    if node['schedulingState'] == 'disabled':
        raise BatchError('NodeAlreadyInTargetSchedulingState')
    _refuse_unless_ready(node)
    node['schedulingState'] = 'disabled'
    _look_at_runs(store, node, running_tasks)
    settle(store, node)


def enable_scheduling(store: Store, node: Document) -> None:
    """Places tasks on a node again; those that are ending because it was disabled still do."""
    if node['schedulingState'] == 'enabled':
        raise BatchError('NodeAlreadyInTargetSchedulingState')
    _refuse_unless_ready(node)
    node['schedulingState'] = 'enabled'
    node.pop('_end', None)
    settle(store, node)


def leave(store: Store, node: Document, running_tasks: str) -> None:
    """Has a node leave its pool, once its tasks have ended as asked."""
    if node['state'] != 'leavingpool':
        move('node', node, 'leavingpool')
    _look_at_runs(store, node, running_tasks)


def _look_at_runs(store: Store, node: Document, running_tasks: str) -> None:
    wish(node, _WISHES[running_tasks])
    node['_due'] = 0.0
    store.save('node', node['_pool'], node)


def _refuse_unless_ready(node: Document) -> None:
    if node['state'] not in READY:
        raise BatchError(_NOT_UP[node['state']]) if node['state'] in _NOT_UP else _invalid_for_state(
            node, 'The node must be idle, running or offline')


def _invalid_for_state(node: Document, reason: str) -> BatchError:
    return BatchError('OperationInvalidForCurrentState', PropertyName='state', PropertyValue=node['state'],
                      Reason=reason)


def reboot(store: Store, node: Document, due: float) -> None:
    """A node whose tasks have ended boots anew when it is due."""
    node.pop('_end', None)
    node |= {'_booting': True, '_due': due}
    store.save('node', node['_pool'], node)


def come_up(store: Store, pool: Document, node: Document, unusable: str = '') -> bool:
    """A node has booted; returns whether its start task is to run now.

    Args:
        unusable: Why it is of no use, if it is not.
    """
    for name in ('_booting', 'startTask', 'startTaskInfo', 'errors'):
        node.pop(name, None)
    node |= {'lastBootTime': now(), 'nodeAgentInfo': {'version': _NODE_AGENT_VERSION, 'lastUpdateTime': now()}}
    start_task = pool.get('startTask')
    if unusable:
        node['errors'] = [{'code': 'NodeUnusable', 'message': unusable, 'errorDetails': []}]
        move('node', node, 'unusable')
        store.save('node', node['_pool'], node)
        return False
    if start_task:
        node |= {'startTask': start_task, 'startTaskInfo': began()}
    if start_task and start_task['waitForSuccess']:
        move('node', node, 'waitingforstarttask')
        store.save('node', node['_pool'], node)
    else:
        settle(store, node)
    return start_task is not None


def is_to_be_unusable(store: Store, node: Document, unusable_nodes: int) -> str:
    """Returns why a node is of no use, if it is one of so many of its pool that are not to be."""
    first = [one['id'] for one in store.page('node', node['_pool'], '', unusable_nodes)] if unusable_nodes else []
    return _UNUSABLE if node['id'] in first else ''


def end_start_task(store: Store, pool_id: str, node_id: str, outcome: Outcome) -> bool:
    """The start task has ended by itself; returns whether it is to be tried again at once."""
    node = store.find('node', pool_id, node_id)
    if node is None or node.get('startTaskInfo', {}).get('state') != 'running':
        return False
    information, start_task = node['startTaskInfo'], node['startTask']
    again = is_tried_again(information, outcome, start_task['maxTaskRetryCount'])
    node['startTaskInfo'] = began(information) if again else ended(information, outcome)
    if node['state'] == 'waitingforstarttask' and not again:
        if outcome.succeeded:
            settle(store, node)
            return False
        move('node', node, 'starttaskfailed')
    store.save('node', pool_id, node)
    return again


def settle(store: Store, node: Document) -> None:
    """Brings a node that is ready, or is just becoming so, to the state that its tasks and its scheduling make."""
    state = 'running' if node['runningTasksCount'] else 'idle'
    if node['schedulingState'] == 'disabled' and not node['runningTasksCount']:
        state = 'offline'
        node.pop('_end', None)
    if node['state'] != state:
        move('node', node, state)
    store.save('node', node['_pool'], node)


def takes_tasks(node: Document) -> bool:
    """Says whether tasks may be placed on a node, if it has a free slot."""
    return node['state'] in ('idle', 'running') and node['schedulingState'] == 'enabled'


def task_came(store: Store, node: Document, task: Document) -> None:
    """A task was placed on a node."""
    node['runningTasksCount'] += 1
    node['runningTaskSlotsCount'] += task['requiredSlots']
    settle(store, node)


def task_left(store: Store, pool_id: str, node_id: str, job_id: str, task: Document, slots: int) -> None:
    """A task has left a node."""
    node = store.find('node', pool_id, node_id)
    if node is None:
        return
    node['runningTasksCount'] -= 1
    node['runningTaskSlotsCount'] -= slots
    if task['state'] == 'completed':
        node['totalTasksRun'] += 1
        node['totalTasksSucceeded'] += task['executionInfo']['result'] == 'success'
        information = {'jobId': job_id, 'taskId': task['id'], 'taskState': task['state'],
                       'executionInfo': task['executionInfo']}
        node['recentTasks'] = [information, *node.get('recentTasks', ())][:_MOST_RECENT_TASKS]
    if '_end' in node:
        # It waits for the end of its tasks.
        node['_due'] = 0.0
    if node['state'] in READY:
        settle(store, node)
    else:
        store.save('node', pool_id, node)
