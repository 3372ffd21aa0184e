"""azure-batch 14.2 as the life cycle's tests see it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from enum import Enum
from functools import partial
from typing import Any

from azure.batch import BatchServiceClient, models
from azure.batch.batch_auth import SharedKeyCredentials

from .client import OPERATIONS, Account, Client, Document, FileProperties, Refused


class V14(Client):

    def __init__(self, account: Account) -> None:
        self._client = BatchServiceClient(SharedKeyCredentials(account.name, account.key), batch_url=account.url)
        self._client.config.retry_policy.retries = 0

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        return _answer(lambda: _plain(self._prepared(name, arguments, options)()))

    def add_tasks(self, job_id: str, tasks: list[Document]) -> tuple[list[str], dict[str, str]]:
        try:
            result = self._client.task.add_collection(job_id, list(map(models.TaskAddParameter.from_dict, tasks)))
        except models.CreateTasksErrorException as error:
            assert not error.errors, error
            return [], {failure.task_id: failure.error.code for failure in error.failure_tasks}
        return [added.task_id for added in result.value], {}

    def answer_headers(self, name: str, *arguments: Any, headers: Mapping[str, str] | None = None) -> Mapping[str, str]:
        prepared = self._prepared(name, arguments, {})
        return _answer(lambda: prepared(raw=True, custom_headers=headers)).response.headers

    def get_task_file_properties(self, *ids_and_path: str) -> FileProperties:
        return _file_properties(self.answer_headers('get_task_file_properties', *ids_and_path))

    def get_node_file_properties(self, *ids_and_path: str) -> FileProperties:
        return _file_properties(self.answer_headers('get_node_file_properties', *ids_and_path))

    def _prepared(self, name: str, arguments: tuple[Any, ...], options: Document) -> Callable[..., Any]:
        operation = OPERATIONS[name]
        group, _, method_name = operation.v14.partition('.')
        method = getattr(getattr(self._client, group), method_name)
        if arguments and isinstance(arguments[-1], dict):
            *ids, document = arguments
            model = getattr(models, operation.v14_model.lstrip('*')).from_dict(document)
            method = partial(method, *ids, **_attributes(model)) if operation.v14_model.startswith('*') else (
                partial(method, *ids, model))
        else:
            method = partial(method, *arguments)
        return partial(method, **_options(method, options))


def _answer(send: Callable[[], Any]) -> Any:
    try:
        return send()
    except models.BatchErrorException as error:
        raise _refusal(error) from error


def _attributes(model: models.Model) -> Document:
    return {name: getattr(model, name) for name in model._attribute_map}


def _options(method: Callable[..., Any], options: Document) -> Document:
    """The options as arguments: a few by themselves, most in an object whose class is named like its parameter."""
    parameters = inspect.signature(method).parameters
    own = {name: value for name, value in options.items() if name in parameters}
    others = {name: ','.join(value) if isinstance(value, list) else value
              for name, value in options.items() if name not in own}
    if others:
        parameter = next(name for name in parameters if name.endswith('_options'))
        kind = getattr(models, ''.join(part.capitalize() for part in parameter.split('_')))
        own[parameter] = kind(**others)
    return own


def _plain(answer: Any) -> Any:
    if hasattr(answer, 'advance_page') or isinstance(answer, list):
        return [_plain(item) for item in answer]
    if hasattr(answer, '_attribute_map'):
        attributes = {entry['key']: getattr(answer, name) for name, entry in answer._attribute_map.items()}
        return {key: _plain(value) for key, value in attributes.items() if value is not None}
    if isinstance(answer, Enum):
        return answer.value
    return b''.join(answer) if inspect.isgenerator(answer) else answer


def _file_properties(headers: Mapping[str, str]) -> FileProperties:
    """The properties of a file, for which 14.2 has no model."""
    return FileProperties(
        headers['ocp-batch-file-url'], headers['ocp-batch-file-isdirectory'] == 'True',
        parsedate_to_datetime(headers['Last-Modified']), int(headers['Content-Length']),
        headers['ocp-batch-file-mode'])


def _refusal(error: models.BatchErrorException) -> Refused:
    document = error.error
    if document is None or document.code is None:  # a HEAD request or a 304, which have no body
        return Refused(error.response.status_code, None, '', {})
    return Refused(error.response.status_code, document.code, document.message.value,
                   {detail.key: detail.value for detail in document.values or ()})
