"""The versions of the REST API that clients in the field speak, and what differs between them here.

https://learn.microsoft.com/rest/api/batchservice/batch-service-rest-api-versioning
"""

from __future__ import annotations

from typing import Any

from ..errors import BatchError

Document = dict[str, Any]

SUPPORTED = ('2020-03-01.11.0', '2020-09-01.12.0', '2021-06-01.14.0', '2022-01-01.15.0', '2022-10-01.16.0',
             '2023-05-01.17.0', '2023-11-01.18.0', '2024-02-01.19.0', '2024-07-01.20.0', '2025-06-01')

WITH_LIFETIME_STATISTICS = '2022-10-01.16.0'
"""The last version that has them."""

_WITH_SLOTS = '2020-09-01.12.0'
_WITH_PATCHED_MACHINE = '2024-07-01.20.0'
_WITHOUT_CLASSIC_COMMUNICATION = '2025-06-01'


def check(version: str | None) -> str:
    """Returns the version that a request names.

    Raises:
        BatchError: MissingRequiredQueryParameter or UnsupportedRequestVersion.
    """
    if version is None:
        raise BatchError('MissingRequiredQueryParameter', QueryParameterName='api-version')
    if version not in SUPPORTED:
        raise BatchError('UnsupportedRequestVersion', QueryParameterName='api-version', QueryParameterValue=version,
                         Reason=f'Supported versions: {", ".join(SUPPORTED)}')
    return version


def pool_from_client(version: str, pool: Any) -> Any:
    """A pool as the newest version has it, before it is read."""
    if not isinstance(pool, dict):
        return pool
    if version >= _WITHOUT_CLASSIC_COMMUNICATION and 'targetNodeCommunicationMode' in pool:
        raise BatchError('UnsupportedProperty', PropertyName='targetNodeCommunicationMode')
    if version < _WITH_SLOTS and 'taskSlotsPerNode' in pool:
        raise BatchError('UnsupportedProperty', PropertyName='taskSlotsPerNode')
    if version < _WITH_SLOTS and 'maxTasksPerNode' in pool:
        pool = {**pool, 'taskSlotsPerNode': pool['maxTasksPerNode']}
        del pool['maxTasksPerNode']
    return pool


def pool_to_client(version: str, pool: Document) -> Document:
    """A pool's document in the client's version."""
    if version < _WITH_SLOTS:
        pool = {**pool, 'maxTasksPerNode': pool['taskSlotsPerNode']}
        del pool['taskSlotsPerNode']
    if version >= _WITHOUT_CLASSIC_COMMUNICATION:
        pool.pop('targetNodeCommunicationMode', None)
    return pool


def can_patch_machine(version: str) -> bool:
    """Whether a pool's machine, size and the like can be patched in this version."""
    return version >= _WITH_PATCHED_MACHINE


def task_counts_to_client(version: str, counts: Document) -> Document:
    """Task counts in the client's version: the oldest knows no slots."""
    return counts['taskCounts'] if version < _WITH_SLOTS else counts
