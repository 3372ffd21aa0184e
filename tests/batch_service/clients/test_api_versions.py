"""The versions of the API in which no client of these tests speaks, in raw requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from azure.batch.batch_auth import SharedKeyAuth

from common.batch_service.wire.versions import SUPPORTED
from tests.leftovers import eventually

from .life_cycle.client import Account
from .life_cycle.workbench import pool_document

Send = Callable[..., requests.Response]

_OLDEST, _NEWEST = SUPPORTED[0], SUPPORTED[-1]


@pytest.fixture
def send(account: Account) -> Iterator[Send]:
    """Sends a signed request in a version of the API, None for no version."""
    with requests.Session() as session:
        session.trust_env = False
        session.auth = SharedKeyAuth('Authorization', account.name, account.key)

        def send(version: str | None, method: str, path: str, body: Any = None) -> requests.Response:
            parameters = {} if version is None else {'api-version': version}
            return session.request(method, account.url + path, params=parameters, json=body, timeout=10)
        yield send


@pytest.fixture
def pool_id(new_id: Callable[[str], str], send: Send) -> Iterator[str]:
    """The id for a pool that is deleted afterwards."""
    id = new_id('pool')
    yield id
    assert send(_NEWEST, 'DELETE', f'/pools/{id}').status_code == 202


def _document(version: str, pool_id: str, slots: int) -> dict[str, Any]:
    """A pool as a client of the version sends it."""
    document = pool_document(pool_id, slots=slots)
    if version == _OLDEST:
        document['maxTasksPerNode'] = document.pop('taskSlotsPerNode')
    return document


@pytest.mark.parametrize('version', SUPPORTED)
def test_task_runs_in_every_version(send, pool_id, new_id, version) -> None:
    job = f'/jobs/{new_id("job")}'
    assert send(version, 'POST', '/pools', _document(version, pool_id, 3)).status_code == 201
    assert send(version, 'POST', '/jobs', {'id': job.rpartition('/')[2], 'poolInfo': {'poolId': pool_id}}
                ).status_code == 201
    assert send(version, 'POST', f'{job}/tasks', {'id': 'task', 'commandLine': 'echo done'}).status_code == 201
    assert eventually(lambda: send(version, 'GET', f'{job}/tasks/task').json()['state'] == 'completed')
    assert send(version, 'GET', f'{job}/tasks/task/files/stdout.txt').content == b'done\n'

    counts = send(version, 'GET', f'{job}/taskcounts').json()
    assert ('taskSlotCounts' in counts) == (version != _OLDEST)
    assert counts.get('taskCounts', counts)['succeeded'] == 1
    assert send(version, 'DELETE', job).status_code == 202


@pytest.mark.parametrize('version', SUPPORTED)
def test_pool_has_the_task_slots_of_its_version(send, pool_id, version) -> None:
    send(version, 'POST', '/pools', _document(version, pool_id, 3))
    pool = send(version, 'GET', f'/pools/{pool_id}').json()
    mine, other = ('maxTasksPerNode', 'taskSlotsPerNode') if version == _OLDEST else (
        'taskSlotsPerNode', 'maxTasksPerNode')
    assert (pool[mine], other in pool) == (3, False)
    listed, = [one for one in send(version, 'GET', '/pools').json()['value'] if one['id'] == pool_id]
    assert (listed[mine], other in listed) == (3, False)
    assert send(_NEWEST, 'GET', f'/pools/{pool_id}').json()['taskSlotsPerNode'] == 3


@pytest.mark.parametrize('version', SUPPORTED)
def test_task_slots_of_another_version_are_refused(send, new_id, version) -> None:
    name = 'taskSlotsPerNode' if version == _OLDEST else 'maxTasksPerNode'
    document = pool_document(new_id('pool'))
    document[name] = document.pop('taskSlotsPerNode')
    answer = send(version, 'POST', '/pools', document)
    assert (answer.status_code, answer.json()['code']) == (400, 'UnsupportedProperty')
    assert {'key': 'PropertyName', 'value': name} in answer.json()['values']


def test_newest_version_has_no_communication_mode(send, pool_id) -> None:
    document = {**pool_document(pool_id, nodes=0), 'targetNodeCommunicationMode': 'simplified'}
    answer = send(_NEWEST, 'POST', '/pools', document)
    assert (answer.status_code, answer.json()['code']) == (400, 'UnsupportedProperty')
    assert send('2024-02-01.19.0', 'POST', '/pools', document).status_code == 201
    pool = send('2024-02-01.19.0', 'GET', f'/pools/{pool_id}').json()
    assert pool['targetNodeCommunicationMode'] == 'simplified'
    assert 'targetNodeCommunicationMode' not in send(_NEWEST, 'GET', f'/pools/{pool_id}').json()


@pytest.mark.parametrize(('version', 'code'), [
    (None, 'MissingRequiredQueryParameter'), ('', 'MissingRequiredQueryParameter'),
    ('2019-08-01.10.0', 'UnsupportedRequestVersion'), ('2025-06-01.1', 'UnsupportedRequestVersion'),
    ('latest', 'UnsupportedRequestVersion')])
@pytest.mark.parametrize('path', ['/pools', '/jobs/none', '/supportedimages'])
def test_version_that_is_unknown_or_missing_is_refused(send, version, code, path) -> None:
    answer = send(version, 'GET', path)
    assert (answer.status_code, answer.json()['code']) == (400, code)
    assert {'key': 'QueryParameterName', 'value': 'api-version'} in answer.json()['values']
