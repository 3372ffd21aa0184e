"""How long both clients try again, with a service on this machine that answers as Azure does in trouble."""
from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from azure.batch import BatchServiceClient, models
from azure.batch.batch_auth import SharedKeyCredentials
from azure.batch.custom.custom_errors import CreateTasksErrorException
from azure.core.exceptions import AzureError, HttpResponseError, ResourceExistsError
from azure.core.pipeline.transport import HttpTransport
from azure.storage.blob import BlobServiceClient
from pytest_mock import MockerFixture

from common import helpers
from common.guards import patience
from common.guards.one_line import one_line
from common.guards.patience import StorageRetries, patient, soon_given_up
from common.helpers import TasksNotAddedError, no_endless_retries
from tests.leftovers import eventually
from tests.stand_in import Answer, Request, StandIn, stand_in

KEY = base64.b64encode(b'a key').decode()
FOUND = Answer(200, '{"id": "mypool"}')
TROUBLE = Answer(500, json.dumps({'code': 'InternalError', 'message': {'value': 'Oh.'}}))
PAGE = Answer(200, '<html>Welcome</html>', {'Content-Type': 'text/html; charset=utf-8'})
FROM_STORAGE = {'x-ms-request-id': '1'}
CREATED = Answer(201, '', FROM_STORAGE)

POOL = models.PoolInformation(pool_id='p')
Call = Callable[[BatchServiceClient], object]
CALLS: dict[str, Call] = {
    'GET': lambda client: client.pool.get('mypool'),
    'POST': lambda client: client.job.add(models.JobAddParameter(id='j', pool_info=POOL)),
    'PUT': lambda client: client.job.update('j', models.JobUpdateParameter(pool_info=POOL)),
    'DELETE': lambda client: client.job.delete('j'),
    'HEAD': lambda client: client.pool.exists('mypool')}
DONE = {'GET': 200, 'POST': 201, 'PUT': 200, 'DELETE': 202, 'HEAD': 200}


def busy(status: int = 503, retry_after: str | None = '7', **headers: str) -> Answer:
    body = json.dumps({'code': 'ServerBusy', 'message': {'value': 'Busy.'}})
    return Answer(status, body, headers | ({'Retry-After': retry_after} if retry_after is not None else {}))


def in_turn(*answers: Answer) -> Callable[[Request], Answer]:
    """Answers with one after the other, and with the last one from then on."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


@pytest.fixture
def clock(mocker: MockerFixture) -> list[float]:
    """The seconds that were slept; the clock goes on by these alone."""
    slept: list[float] = []
    for module in (patience, helpers):
        mocker.patch.object(module, 'time', SimpleNamespace(sleep=slept.append, monotonic=lambda: sum(slept)))
    mocker.patch.object(HttpTransport, 'sleep', lambda self, seconds: slept.append(seconds))
    return slept


@pytest.fixture
def service() -> Iterator[StandIn]:
    with stand_in(TROUBLE) as service:
        yield service


@pytest.fixture
def batch_client(service: StandIn) -> Iterator[BatchServiceClient]:
    with BatchServiceClient(SharedKeyCredentials('mybatch', KEY), batch_url=service.url) as client:
        client.config.retry_policy.backoff_factor = 0
        yield patient(client)


def storage_client(url: str, **options: object) -> BlobServiceClient:
    return BlobServiceClient(f'{url}/mystorage', credential={'account_name': 'mystorage', 'account_key': KEY},
                             retry_policy=StorageRetries(), **options)


@pytest.fixture
def blob_client(service: StandIn) -> Iterator[BlobServiceClient]:
    with storage_client(service.url) as client:
        yield client


@pytest.mark.parametrize('method', CALLS)
@pytest.mark.parametrize('status', [429, 503])
def test_a_busy_batch_service_is_asked_again_when_it_says(
        service: StandIn, batch_client: BatchServiceClient, clock: list[float], method: str, status: int) -> None:
    service.answer = in_turn(*[busy(status)] * 3, busy(status, '2'), Answer(DONE[method], FOUND.body))

    CALLS[method](batch_client)

    # Not sooner: what urllib3 would do by itself must not come in between.
    assert clock == [7, 7, 7, 2] and len(service.requests) == 5
    assert len({(sent.method, sent.path, sent.body, sent.headers['Authorization']) for sent in service.requests}) == 1
    assert bool(service.requests[-1].body) == (method in ('POST', 'PUT'))


@pytest.mark.parametrize('status', [429, 503])
@pytest.mark.parametrize('retry_after', [None, '', 'soon', '-3', '1.5', '²', 'Wed, 21 Oct 2099 07:28:00 GMT'])
def test_a_busy_batch_service_that_does_not_say_is_asked_three_times_more(
        service: StandIn, batch_client: BatchServiceClient, clock: list[float], status: int,
        retry_after: str | None) -> None:
    service.answer = lambda _: busy(status, retry_after)

    with pytest.raises(models.BatchErrorException) as raised:
        CALLS['POST'](batch_client)

    assert clock == [1, 2, 4]
    assert one_line(raised.value) == 'Busy. (ServerBusy)'


def test_a_busy_batch_service_is_not_asked_without_a_pause(service: StandIn, batch_client: BatchServiceClient,
                                                           clock: list[float]) -> None:
    service.answer = in_turn(busy(retry_after='0'), FOUND)

    CALLS['GET'](batch_client)

    assert clock == [1]


@pytest.mark.parametrize('method', ['GET', 'POST'])
@pytest.mark.parametrize('retry_after, tries', [('100', 6), ('599', 2), ('600', 1), ('9' * 400, 1)])
def test_a_batch_service_that_stays_busy_is_given_up_before_the_signature_is_too_old(
        service: StandIn, batch_client: BatchServiceClient, clock: list[float], method: str, retry_after: str,
        tries: int) -> None:
    service.answer = lambda _: busy(retry_after=retry_after)

    with pytest.raises(models.BatchErrorException, match='Busy'):
        CALLS[method](batch_client)

    assert len(service.requests) == tries and sum(clock) < 600


def test_a_busy_batch_service_costs_no_connections(service: StandIn, batch_client: BatchServiceClient,
                                                   clock: list[float]) -> None:
    before = threading.active_count()
    service.answer = in_turn(*[busy()] * 50, FOUND)

    CALLS['GET'](batch_client)

    # The service has a thread per connection.
    assert len(service.requests) == 51 and eventually(lambda: threading.active_count() <= before + 1)


def test_a_download_is_still_a_stream_after_a_busy_answer(service: StandIn, batch_client: BatchServiceClient,
                                                          clock: list[float]) -> None:
    service.answer = in_turn(busy(), Answer(200, 'word\n' * 100_000, {'Content-Type': 'application/octet-stream'}))

    stream = batch_client.file.get_from_task('j', 't', 'stderr.txt')

    assert next(stream) and len(b''.join(stream)) > 400_000
    assert clock == [7]


def test_trouble_on_the_way_is_tried_again_and_told_as_batch_tells_it(
        service: StandIn, batch_client: BatchServiceClient, clock: list[float]) -> None:
    service.answer = in_turn(TROUBLE, busy(), FOUND)
    assert CALLS['GET'](batch_client).id == 'mypool' and clock == [7]

    service.answer = lambda _: TROUBLE
    with pytest.raises(models.BatchErrorException) as raised:
        CALLS['GET'](batch_client)

    assert one_line(raised.value) == 'Oh. (InternalError)'
    # A service on this machine gets one more try, and only if trying twice does no harm.
    assert len(service.requests) == 5
    with pytest.raises(models.BatchErrorException):
        CALLS['POST'](batch_client)
    assert len(service.requests) == 6


def test_a_service_elsewhere_gets_more_tries() -> None:
    client = BatchServiceClient(SharedKeyCredentials('mybatch', KEY), batch_url='https://mybatch.example.com')

    with patient(client):
        assert client.config.retry_policy.retries == 3


def test_no_log_is_made_up_that_nobody_reads(batch_client: BatchServiceClient) -> None:
    assert batch_client.config.enable_http_logger is False


@pytest.mark.parametrize('method', ['GET', 'POST', 'DELETE'])
def test_a_web_page_is_no_answer_of_batch(service: StandIn, batch_client: BatchServiceClient, clock: list[float],
                                          method: str) -> None:
    service.answer = in_turn(busy(), PAGE)

    with pytest.raises(models.BatchErrorException) as raised:
        CALLS[method](batch_client)

    assert one_line(raised.value).startswith('What answers at 127.0.0.1, 200 OK, is not a Batch account: look at ')


def test_a_web_page_in_answer_to_tasks_is_no_answer_of_batch(service: StandIn,
                                                             batch_client: BatchServiceClient) -> None:
    service.answer = lambda _: PAGE

    with pytest.raises(CreateTasksErrorException) as raised:
        add(batch_client)

    assert 'is not a Batch account' in one_line(raised.value)


def test_within_a_first_contact_there_are_few_tries_and_little_time(
        service: StandIn, batch_client: BatchServiceClient, mocker: MockerFixture) -> None:
    batch_client.config.retry_policy.retries = 3
    sent = mocker.spy(requests.Session, 'request')
    with pytest.raises(models.BatchErrorException), soon_given_up(batch_client):
        CALLS['GET'](batch_client)
    at_first = len(service.requests)
    with pytest.raises(models.BatchErrorException):
        CALLS['GET'](batch_client)

    assert (at_first, len(service.requests) - at_first) == (2, 4)
    assert [call.kwargs['timeout'] for call in sent.call_args_list] == [(5, 20), 100]


def test_storage_gets_one_more_try_at_first_and_more_later(
        service: StandIn, blob_client: BlobServiceClient, clock: list[float], mocker: MockerFixture) -> None:
    mocker.patch.object(patience, 'is_loopback', lambda _: False)

    def tries() -> tuple[int, float]:
        service.requests.clear(), clock.clear()
        with pytest.raises(HttpResponseError):
            blob_client.create_container('input')
        return len(service.requests), sum(clock)

    service.answer = lambda _: busy(500, None, **FROM_STORAGE)
    with storage_client(service.url) as untouched, pytest.raises(HttpResponseError):
        untouched.create_container('input')
    assert len(service.requests) == 2 and sum(clock) <= 3

    service.answer = lambda _: CREATED
    blob_client.create_container('input')
    service.answer = lambda _: busy(500, None, **FROM_STORAGE)
    number, seconds = tries()
    assert number == 6 and 30 < seconds < 90

    mocker.stopall()
    mocker.patch.object(HttpTransport, 'sleep', lambda self, seconds: clock.append(seconds))
    number, seconds = tries()
    assert number == 3 and seconds < 10


def test_storage_gets_ten_seconds_to_connect_unless_the_caller_says_otherwise(
        service: StandIn, blob_client: BlobServiceClient, mocker: MockerFixture) -> None:
    service.answer = lambda _: CREATED
    sent = mocker.spy(requests.Session, 'request')

    blob_client.create_container('input')
    blob_client.create_container('input', connection_timeout=3)

    assert [call.kwargs['timeout'][0] for call in sent.call_args_list] == [10, 3]


@pytest.mark.parametrize('answered_before', [True, False])
def test_a_busy_storage_is_asked_again_when_it_says(
        service: StandIn, blob_client: BlobServiceClient, clock: list[float], answered_before: bool) -> None:
    if answered_before:
        service.answer = lambda _: CREATED
        blob_client.create_container('application')
    service.answer = in_turn(*[busy(**FROM_STORAGE)] * 9, busy(retry_after='0', **FROM_STORAGE), CREATED)

    blob_client.create_container('input')

    assert clock == [7] * 9 + [1]


def test_busy_answers_do_not_use_up_the_tries_for_other_trouble(
        service: StandIn, blob_client: BlobServiceClient, clock: list[float]) -> None:
    service.answer = in_turn(*[busy(**FROM_STORAGE)] * 3, busy(500, None), *[busy(**FROM_STORAGE)] * 3, CREATED)

    blob_client.create_container('input')

    assert [pause for pause in clock if pause != 7] == [pytest.approx(2, abs=1)] and len(clock) == 7


@pytest.mark.parametrize('retry_after, tries', [('100', 6), ('600', 1), ('3600', 1), ('9' * 400, 1)])
def test_a_storage_that_stays_busy_is_given_up(service: StandIn, blob_client: BlobServiceClient, clock: list[float],
                                               retry_after: str, tries: int) -> None:
    service.answer = lambda _: busy(retry_after=retry_after, **FROM_STORAGE)

    with pytest.raises(HttpResponseError):
        blob_client.create_container('input')

    assert len(service.requests) == tries and sum(clock) < 600


def test_a_file_is_sent_whole_when_storage_was_busy(service: StandIn, clock: list[float], tmp_path: Path) -> None:
    content = bytes(range(256)) * 40
    (tmp_path / 'a.txt').write_bytes(content)
    turns = iter(range(10_000))
    service.answer = lambda _: busy(**FROM_STORAGE) if next(turns) % 2 == 0 else CREATED
    # So that each body is a stream on a part of the file, as it is with large files.
    with (storage_client(service.url, max_single_put_size=1000, max_block_size=4096,
                         min_large_block_upload_threshold=1) as client, (tmp_path / 'a.txt').open('rb') as data):
        client.get_blob_client('input', 'a.txt').upload_blob(data, overwrite=True)

    blocks = [sent.body for sent in service.requests if 'comp=block&' in sent.path]
    assert len(blocks) == 6 and blocks[::2] == blocks[1::2] and b''.join(blocks[::2]) == content


BEING_DELETED = Answer(409, '', {**FROM_STORAGE, 'x-ms-error-code': 'ContainerBeingDeleted'})


def test_a_container_that_is_being_deleted_is_waited_for_with_one_line(
        service: StandIn, blob_client: BlobServiceClient, clock: list[float],
        capsys: pytest.CaptureFixture[str]) -> None:
    service.answer = in_turn(*[BEING_DELETED] * 5, CREATED)

    blob_client.create_container('input')

    assert len(clock) == 5
    assert capsys.readouterr().out == '  Waiting for the container [input] of an earlier run to be deleted...\n'


def test_a_container_is_not_waited_for_for_ever(service: StandIn, blob_client: BlobServiceClient,
                                                clock: list[float]) -> None:
    service.answer = lambda _: BEING_DELETED

    with pytest.raises(ResourceExistsError) as raised:
        blob_client.create_container('input')

    assert raised.value.error_code == 'ContainerBeingDeleted' and 15 * 60 <= sum(clock) < 15 * 60 + 5


def test_a_blob_in_a_container_that_is_being_deleted_is_not_waited_for(
        service: StandIn, blob_client: BlobServiceClient, clock: list[float]) -> None:
    service.answer = lambda _: BEING_DELETED

    with pytest.raises(AzureError):
        blob_client.get_blob_client('input', 'a.txt').upload_blob(b'words')

    assert clock == []


@pytest.mark.parametrize('answer', [PAGE, Answer(404, '<html>', PAGE.headers), Answer(201, ''), Answer(302, '')])
@pytest.mark.parametrize('answered_before', [True, False])
def test_an_answer_that_is_not_from_storage_is_told(service: StandIn, blob_client: BlobServiceClient, answer: Answer,
                                                    answered_before: bool) -> None:
    if answered_before:
        service.answer = lambda _: CREATED
        blob_client.create_container('application')
    service.answer = lambda _: answer

    with pytest.raises(AzureError) as raised:
        blob_client.create_container('input')

    line = one_line(raised.value)
    assert line.startswith(f'What answers at 127.0.0.1, {answer.status} ')
    assert line.endswith(' is not a storage account: look at _STORAGE_ACCOUNT_NAME (or AZURE_STORAGE_ACCOUNT), '
                         'AZURE_STORAGE_SERVICE_ENDPOINT.')


def results(request: Request, status: str) -> Answer:
    tasks = json.loads(request.body)['value']
    return Answer(200, json.dumps({'value': [{'status': status, 'taskId': task['id']} for task in tasks]}))


def add(batch_client: BatchServiceClient, number: int = 3) -> models.TaskAddCollectionResult:
    tasks = [models.TaskAddParameter(id=f'task{index}', command_line='true') for index in range(number)]
    with no_endless_retries(batch_client):
        return batch_client.task.add_collection('myjob', tasks)


@pytest.mark.usefixtures('service')
def test_adding_tasks_to_a_service_in_trouble_pauses_and_ends_after_a_minute(
        batch_client: BatchServiceClient, clock: list[float]) -> None:
    with pytest.raises(CreateTasksErrorException) as raised:
        add(batch_client)

    [error] = raised.value.errors
    assert isinstance(error, TasksNotAddedError)
    assert str(error) == ('The Batch service has taken no task for 60 seconds. It answers '
                          '500 Internal Server Error (InternalError): try again later.')
    assert clock == sorted(clock) and clock[0] < 0.2 and clock[-1] == 5
    assert 55 <= sum(clock) <= 60


def test_tasks_that_fail_in_the_service_for_ever_are_given_up(
        service: StandIn, batch_client: BatchServiceClient, clock: list[float]) -> None:
    service.answer = lambda request: results(request, 'servererror')

    with pytest.raises(CreateTasksErrorException) as raised:
        add(batch_client)

    assert 'has taken no task for 60 seconds. It answers 200 OK: try' in str(raised.value.errors[0])
    assert sum(clock) <= 60


def test_trouble_that_passes_is_waited_for(service: StandIn, batch_client: BatchServiceClient,
                                           clock: list[float]) -> None:
    service.answer = lambda request: results(request, 'success') if len(service.requests) % 4 == 0 else TROUBLE

    added = add(batch_client, 250)

    assert len(added.value) == 250
    assert len(clock) == 9
    assert clock[:3] == clock[3:6] == clock[6:]


def test_a_busy_service_gets_the_tasks_when_it_says(service: StandIn, batch_client: BatchServiceClient,
                                                    clock: list[float]) -> None:
    service.answer = lambda request: busy(429, '99') if len(service.requests) < 4 else results(request, 'success')

    assert len(add(batch_client).value) == 3
    assert clock == [99] * 3


@pytest.mark.parametrize('answer', [
    Answer(502, '<html>Bad Gateway</html>', {'Content-Type': 'text/html'}), Answer(500, ''),
    Answer(403, '{"error": "no"}'), Answer(400, '{"code": "X", "message": "a string"}'), Answer(400, '{"code": 5}'),
    Answer(200, '<html>'), Answer(200, '[]'), Answer(200, '{"value": null}'), Answer(200, '{"value": 5}'),
    Answer(200, '{"value": ["x"]}'), Answer(200, '{}')])
def test_an_answer_that_is_not_from_batch_ends_adding_at_once(
        service: StandIn, batch_client: BatchServiceClient, answer: Answer) -> None:
    service.answer = lambda _: answer

    with pytest.raises(CreateTasksErrorException) as raised:
        add(batch_client)

    assert len(service.requests) == 1
    assert 'did not come from it' in one_line(raised.value)


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
