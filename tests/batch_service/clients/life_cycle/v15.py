"""azure-batch 15.1 as the life cycle's tests see it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any

from azure.batch import BatchClient, models
from azure.core import MatchConditions
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.core.paging import ItemPaged
from azure.core.polling import LROPoller

from .client import OPERATIONS, Account, Client, Document, FileProperties, Refused

_SECONDS_BETWEEN_POLLS = 0.05
_CONDITIONS = {'if_match': MatchConditions.IfNotModified, 'if_none_match': MatchConditions.IfModified}


class V15(Client):

    def __init__(self, account: Account) -> None:
        self._client = BatchClient(account.url, AzureNamedKeyCredential(account.name, account.key), retry_total=0)

    def begin(self, name: str, *arguments: Any) -> None:
        getattr(self._client, OPERATIONS[name].v15)(*_with_model(name, arguments))

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        operation = OPERATIONS[name]
        for option, condition in _CONDITIONS.items():
            if option in options:
                options |= {'etag': options.pop(option), 'match_condition': condition}
        if operation.v15.startswith('begin_'):
            options['polling_interval'] = _SECONDS_BETWEEN_POLLS
        try:
            return _plain(getattr(self._client, operation.v15)(*_with_model(name, arguments), **options))
        except HttpResponseError as error:
            raise _refusal(error) from error

    def pool_exists(self, pool_id: str) -> bool:
        return _exists(self._client.pool_exists, pool_id)

    def job_schedule_exists(self, schedule_id: str) -> bool:
        return _exists(self._client.job_schedule_exists, schedule_id)

    def add_tasks(self, job_id: str, tasks: list[Document]) -> tuple[list[str], dict[str, str]]:
        try:
            result = self._client.create_tasks(job_id, list(map(models.BatchTaskCreateOptions, tasks)))
        except models.CreateTasksError as error:
            assert not error.errors, error
            return [], {failure.task_id: failure.error.code for failure in error.failure_tasks}
        return [added.task_id for added in result.result_values], {}

    def answer_headers(self, name: str, *arguments: Any, headers: Mapping[str, str] | None = None) -> Mapping[str, str]:
        answers: list[Any] = []
        self._call(name, *arguments, headers=dict(headers or {}), raw_response_hook=answers.append)
        return answers[0].http_response.headers


def _exists(ask: Callable[[str], bool], id: str) -> bool:
    try:
        return ask(id)
    except ResourceNotFoundError:  # a defect of 15.1.0: it does not get to its own answer
        return False


def _with_model(name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments with the document as the SDK's model, or as it is where the SDK does not offer its model."""
    model = OPERATIONS[name].v15_model
    if not model or not arguments or not isinstance(arguments[-1], dict):
        return arguments
    return (*arguments[:-1], getattr(models, model)(arguments[-1]))


def _plain(answer: Any) -> Any:
    if isinstance(answer, LROPoller):
        answer.wait()
        assert answer.status() == 'Succeeded'  # it keeps to itself what went wrong
        return None
    if isinstance(answer, models.BatchFileProperties):
        return FileProperties(answer.url, answer.is_directory, answer.last_modified, answer.content_length,
                              answer.file_mode)
    if isinstance(answer, (ItemPaged, list)):
        return [_plain(item) for item in answer]
    if hasattr(answer, '_attr_to_rest_field'):
        attributes = {field._rest_name: getattr(answer, name) for name, field in answer._attr_to_rest_field.items()}
        return {key: _plain(value) for key, value in attributes.items() if value is not None}
    if isinstance(answer, Enum):
        return answer.value
    return b''.join(answer) if isinstance(answer, Iterator) else answer


def _refusal(error: HttpResponseError) -> Refused:
    document = error.model
    if document is None:  # a defect of 15.1.0: it does not read why a download was refused
        document = models.BatchError(json.loads(error.response.read() or b'{}'))
    if not document.code:  # a HEAD request or a 304, which have no body
        return Refused(error.status_code, None, '', {})
    return Refused(error.status_code, document.code, document.message.value,
                   {detail.key: detail.value for detail in document.error_values or ()})
