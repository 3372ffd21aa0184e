"""Watches over add_collection, which by itself sends tasks for ever while the Batch service is in trouble."""
from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
from azure.batch import BatchServiceClient

_PATIENCE_SECONDS = 60
_LONGEST_PAUSE_SECONDS = 5


class TasksNotAddedError(RuntimeError):
    """The Batch service took no task; the text says what it answered."""


@contextmanager
def adding_gives_up(batch_service_client: BatchServiceClient) -> Iterator[None]:
    """Within it, add_collection ends once the service has taken no task for a minute, whatever it answers.

    After an answer of 500 or more, the SDK sends the same tasks again, without pause and without end; so it
    does with a task that failed for a "servererror". Here it pauses, and then ends with a
    CreateTasksErrorException whose errors name the answer.
    """
    watch = _Watch()
    batch_service_client.config.hooks.append(watch)
    try:
        yield
    finally:
        batch_service_client.config.hooks.remove(watch)


class _Watch:
    """Sees each answer before the SDK does. Any error that is not the SDK's own ends add_collection."""

    def __init__(self) -> None:
        self._last_success = time.monotonic()
        self._pause = 0.1

    def __call__(self, answer: requests.Response, *args: Any, **kwargs: Any) -> None:
        code = _code(answer)
        if answer.status_code >= 400 and code is None:
            # The SDK would trip over an error without a code.
            raise TasksNotAddedError(f'The Batch service took no task. The answer, {_status(answer)}, did not '
                                     'come from it: is there a proxy in between?')
        if not _is_trouble(answer):
            self._last_success, self._pause = time.monotonic(), 0.1
            return

        if time.monotonic() + self._pause - self._last_success > _PATIENCE_SECONDS:
            raise TasksNotAddedError(f'The Batch service has taken no task for {_PATIENCE_SECONDS} seconds. It '
                                     f'answers {_status(answer)}{f" ({code})" if code else ""}: try again later.')
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)


def _code(answer: requests.Response) -> str | None:
    try:
        body = answer.json()
    except requests.JSONDecodeError:
        return None
    if not isinstance(body, dict) or not isinstance(body.get('message', {}), dict):
        return None
    code = body.get('code')
    return code if isinstance(code, str) else None


def _is_trouble(answer: requests.Response) -> bool:
    if answer.status_code >= 400:
        return answer.status_code >= 500
    results = json.loads(answer.content).get('value', []) if answer.content else []
    statuses = {str(result.get('status')).lower() for result in results}
    return statuses == {'servererror'}


def _status(answer: requests.Response) -> str:
    return f'{answer.status_code} {answer.reason}'
