"""add_collection ends, whatever the service answers."""
from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest
from azure.batch import BatchServiceClient, models
from azure.batch.batch_auth import SharedKeyCredentials
from azure.batch.custom.custom_errors import CreateTasksErrorException
from pytest_mock import MockerFixture

import python_tutorial_client as client
from common import adding_watch
from common.adding_watch import TasksNotAddedError, adding_gives_up
from tests.stand_in import Answer, Request, StandIn, stand_in

KEY = base64.b64encode(b'a key').decode()
TROUBLE = Answer(500, json.dumps({'code': 'InternalError', 'message': {'value': 'Oh.'}}))


@pytest.fixture
def service() -> Iterator[StandIn]:
    with stand_in(TROUBLE) as service:
        yield service


@pytest.fixture
def batch_client(service: StandIn) -> Iterator[BatchServiceClient]:
    with BatchServiceClient(SharedKeyCredentials('mybatch', KEY), batch_url=service.url) as client:
        client.config.retry_policy.retries = 0
        yield client


@pytest.fixture
def clock(mocker: MockerFixture) -> list[float]:
    """The seconds that were slept; the clock goes on by these alone."""
    slept: list[float] = []
    mocker.patch.object(adding_watch.time, 'monotonic', lambda: sum(slept))
    mocker.patch.object(adding_watch.time, 'sleep', slept.append)
    return slept


def results(request: Request, status: str) -> Answer:
    tasks = json.loads(request.body)['value']
    return Answer(200, json.dumps({'value': [{'status': status, 'taskId': task['id']} for task in tasks]}))


def add(batch_client: BatchServiceClient, number: int = 3) -> models.TaskAddCollectionResult:
    tasks = [models.TaskAddParameter(id=f'task{index}', command_line='true') for index in range(number)]
    with adding_gives_up(batch_client):
        return batch_client.task.add_collection('myjob', tasks)


def test_a_service_that_always_answers_500_is_given_up(service: StandIn, batch_client: BatchServiceClient,
                                                       mocker: MockerFixture) -> None:
    mocker.patch.object(adding_watch, '_PATIENCE_SECONDS', 1)
    files = [models.ResourceFile(http_url='https://mystorage/input/a.txt', file_path='a.txt')]

    with pytest.raises(CreateTasksErrorException) as raised:
        client.add_tasks(batch_client, 'myjob', files, 'output', 'sas', storage_account_name='mystorage')

    [error] = raised.value.errors
    assert isinstance(error, TasksNotAddedError)
    assert str(error) == ('The Batch service has taken no task for 1 seconds. It answers 500 Internal Server Error '
                          '(InternalError): try again later.')
    assert 2 <= len(service.requests) <= 6


@pytest.mark.usefixtures('service')
def test_the_pauses_grow_and_end_after_a_minute(batch_client: BatchServiceClient, clock: list[float]) -> None:
    with pytest.raises(CreateTasksErrorException):
        add(batch_client)

    assert clock == sorted(clock)
    assert clock[0] < 0.2 and clock[-1] == 5
    assert 55 <= sum(clock) <= 60


def test_tasks_that_fail_in_the_service_for_ever_are_given_up(
        service: StandIn, batch_client: BatchServiceClient, clock: list[float]) -> None:
    service.answer = lambda request: results(request, 'servererror')

    with pytest.raises(CreateTasksErrorException) as raised:
        add(batch_client)

    assert 'has taken no task for 60 seconds. It answers 200 OK' in str(raised.value.errors[0])
    assert sum(clock) <= 60


def test_trouble_that_passes_is_waited_for(service: StandIn, batch_client: BatchServiceClient,
                                           clock: list[float]) -> None:
    service.answer = lambda request: results(request, 'success') if len(service.requests) % 4 == 0 else TROUBLE

    added = add(batch_client, 250)

    assert len(added.value) == 250
    assert len(clock) == 9
    assert clock[:3] == clock[3:6] == clock[6:]


@pytest.mark.parametrize('answer', [
    Answer(502, '<html>Bad Gateway</html>', {'Content-Type': 'text/html'}), Answer(500, ''),
    Answer(403, '{"error": "no"}'), Answer(400, '{"code": "X", "message": "a string"}'), Answer(200, '<html>')])
def test_an_answer_that_is_not_from_batch_ends_it_at_once(service: StandIn, batch_client: BatchServiceClient,
                                                          answer: Answer) -> None:
    service.answer = lambda _: answer

    with pytest.raises(CreateTasksErrorException):
        add(batch_client)

    assert len(service.requests) == 1


def test_a_chunk_that_is_too_large_is_still_sent_in_halves(service: StandIn,
                                                           batch_client: BatchServiceClient) -> None:
    too_large = Answer(413, json.dumps({'code': 'RequestBodyTooLarge', 'message': {'value': 'Too large.'}}))
    service.answer = lambda request: results(request, 'success') if len(request.body) < 1000 else too_large

    assert len(add(batch_client, 100).value) == 100


def test_nothing_is_watched_afterwards(service: StandIn, batch_client: BatchServiceClient) -> None:
    service.answer = lambda request: results(request, 'success')
    before = list(batch_client.config.hooks)

    add(batch_client)

    assert batch_client.config.hooks == before
