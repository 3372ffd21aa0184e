"""``$filter``: which properties each list can be filtered by, and what a filter lets through.

https://learn.microsoft.com/rest/api/batchservice/odata-filters-in-batch
https://learn.microsoft.com/azure/batch/batch-efficient-list-queries
"""

from __future__ import annotations

import re
from typing import Any

from ..errors import BatchError
from .odata_reader import Filterable, Reader

EQUAL = frozenset({'eq'})
EQUALITY = EQUAL | {'ne'}
ORDER = EQUALITY | {'gt', 'ge', 'lt', 'le'}
ORDER_OR_PREFIX = ORDER | {'startswith'}

_TIMES = {'stateTransitionTime': ORDER, 'creationTime': ORDER, 'lastModified': ORDER}

IMAGES: Filterable = dict.fromkeys(('osType', 'verificationType', 'nodeAgentSKUId'), EQUALITY)
POOLS: Filterable = {
    'id': ORDER_OR_PREFIX, **_TIMES, 'allocationStateTransitionTime': ORDER,
    **dict.fromkeys(('state', 'allocationState', 'vmSize', 'enableAutoScale', 'enableInterNodeCommunication'),
                    EQUALITY)}
NODES: Filterable = {
    'state': EQUALITY, 'stateTransitionTime': ORDER, 'lastBootTime': ORDER, 'allocationTime': ORDER,
    'startTaskInfo/state': EQUAL, 'startTaskInfo/result': EQUALITY, 'startTaskInfo/exitCode': ORDER,
    'startTaskInfo/startTime': ORDER, 'startTaskInfo/endTime': ORDER}
JOBS: Filterable = {
    'id': ORDER_OR_PREFIX, 'state': EQUALITY, **_TIMES, 'executionInfo/startTime': ORDER,
    'executionInfo/endTime': ORDER, 'executionInfo/poolId': ORDER_OR_PREFIX}
TASKS: Filterable = {
    'id': ORDER_OR_PREFIX, 'state': EQUALITY, 'stateTransitionTime': ORDER, 'creationTime': ORDER,
    'lastModifiedTime': ORDER, 'executionInfo/startTime': ORDER, 'executionInfo/endTime': ORDER,
    'executionInfo/exitCode': ORDER, 'executionInfo/result': EQUALITY}

PREPARATIONS: Filterable = {
    'poolId': EQUALITY, 'nodeId': EQUALITY,
    **{f'{task}ExecutionInfo/{name}': comparisons
       for task in ('jobPreparationTask', 'jobReleaseTask')
       for name, comparisons in (('state', EQUAL), ('result', EQUALITY), ('startTime', ORDER), ('endTime', ORDER),
                                 ('exitCode', ORDER))}}


def condition(text: str, filterable: Filterable) -> tuple[str, list[Any]]:
    """The condition on a table of JSON documents that a filter stands for.

    Args:
        text: The value of ``$filter``.
        filterable: What the list allows.

    Returns:
        The SQL text, over the columns ``doc``, ``id`` and ``state``, and its parameters.

    Raises:
        BatchError: InvalidQueryParameterValue, with the reason, for what is no filter or not allowed.
    """
    try:
        reader = Reader(text, filterable)
        return reader.condition(), reader.parameters
    except ValueError as error:
        raise _refusal(text, str(error)) from error


def name_prefix(text: str | None) -> str:
    """What the names of files must start with: the one filter on files is ``startswith(name, '...')``.

    Raises:
        BatchError: InvalidQueryParameterValue for any other filter.
    """
    if not text:
        return ''
    match = re.fullmatch(r"\s*startswith\(\s*name\s*,\s*'((?:[^']|'')*)'\s*\)\s*", text)
    if not match:
        raise _refusal(text, "Files can be filtered by startswith(name, '...') only")
    return match[1].replace("''", "'")


def selects_pool(text: str | None, pool_id: str) -> bool:
    """Whether the one filter on node counts, ``poolId eq '...'``, lets a pool through.

    Raises:
        BatchError: InvalidQueryParameterValue for any other filter.
    """
    if not text:
        return True
    match = re.fullmatch(r"\s*poolId\s+eq\s+'([^']*)'\s*", text)
    if not match:
        raise _refusal(text, "Node counts can be filtered by poolId eq '...' only")
    return match[1].lower() == pool_id.lower()


def _refusal(text: str, reason: str) -> BatchError:
    return BatchError('InvalidQueryParameterValue', QueryParameterName='$filter', QueryParameterValue=text,
                      Reason=reason)
