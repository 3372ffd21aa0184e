"""Which states there are, and which moves between them: any other move is a mistake of this service.

https://learn.microsoft.com/rest/api/batchservice, at the enumerations JobState, TaskState and ComputeNodeState
"""

from __future__ import annotations

from typing import Any

from ..values import now

Document = dict[str, Any]

_UP = ('waitingforstarttask', 'idle', 'offline', 'unusable', 'leavingpool')
_MOVES: dict[str, dict[str, tuple[str, ...]]] = {
    'pool': {'active': ('deleting',), 'deleting': ()},
    'job': {
        'active': ('disabling', 'terminating', 'deleting'),
        'disabling': ('disabled', 'active', 'disabling', 'terminating', 'deleting'),
        'disabled': ('active', 'disabling', 'terminating', 'deleting'),
        'terminating': ('completed', 'deleting'),
        'completed': ('deleting',),
        'deleting': ()},
    'task': {
        'active': ('preparing', 'running', 'completed'),
        'preparing': ('running', 'active', 'completed'),
        'running': ('active', 'completed'),
        'completed': ('active',)},
    'node': {
        'creating': _UP, 'starting': _UP, 'rebooting': _UP, 'reimaging': _UP,
        'waitingforstarttask': ('starting', 'idle', 'offline', 'starttaskfailed', 'leavingpool'),
        'idle': ('starting', 'running', 'offline', 'rebooting', 'reimaging', 'leavingpool'),
        'running': ('starting', 'idle', 'offline', 'rebooting', 'reimaging', 'leavingpool'),
        'offline': ('starting', 'idle', 'running', 'leavingpool'),
        'starttaskfailed': ('leavingpool',),
        'unusable': ('leavingpool',),
        'leavingpool': ()}}

ENDING = ('terminating', 'completed', 'deleting')
"""The states in which a job takes no tasks and runs none."""


class WrongMove(RuntimeError):
    """A document was to make a move that its life cycle does not have."""


def move(kind: str, document: Document, state: str) -> None:
    """Brings a document into another state, and remembers the one before.

    Raises:
        WrongMove: There is no such move.
    """
    if state not in _MOVES[kind][document['state']]:
        raise WrongMove(f'{kind} {document["id"]} cannot become {state}: it is {document["state"]}')
    if kind in ('job', 'task'):
        document |= {'previousState': document['state'],
                     'previousStateTransitionTime': document['stateTransitionTime']}
    document |= {'state': state, 'stateTransitionTime': now()}


# How a task is to leave its node, the weakest first: a stronger wish replaces a weaker one, never the other way round.
_WISHES = ('wait', 'requeue', 'terminate', 'forget')


def wish(document: Document, how: str) -> bool:
    """Has the document say how its runs are to end; returns whether that is news.

    Args:
        how: ``wait`` for their own end, ``requeue``, ``terminate``, or ``forget`` them.
    """
    if '_end' in document and _WISHES.index(document['_end']) >= _WISHES.index(how):
        return False
    document['_end'] = how
    return True
