"""Against failures without a reason: why a command on a node failed, as Batch knows it and the command has said it."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import azure.batch.models as batchmodels
from msrest.exceptions import ClientException

from common.guards.one_line import one_line
from common.redaction import without_secrets

_MOST_BYTES = 4096
_MOST_LINES = 10
_MOST_COLUMNS = 300


def explain(execution_info: batchmodels.TaskExecutionInformation | batchmodels.StartTaskInformation) -> str:
    """Returns the exit code and the failure's category, code, message and details, in one line.

    https://learn.microsoft.com/azure/batch/batch-job-task-error-checking
    """
    parts = [] if execution_info.exit_code is None else [f'exit code {execution_info.exit_code}']
    if failure := execution_info.failure_info:
        category = getattr(failure.category, 'value', failure.category)
        parts.append(f'{category} {failure.code}{with_values(failure.message, failure.details)}')
    return printable(', '.join(parts) or 'Batch tells no reason')


def with_values(message: str | None, values: list[batchmodels.NameValuePair] | None) -> str:
    """Returns ': message (name=value; name=value)', with what there is of it."""
    text = f': {message}' if message else ''
    listed = '; '.join(f'{pair.name}={(pair.value or "")[:_MOST_COLUMNS]}' for pair in values or ())
    return f'{text} ({listed})' if listed else text


def end_of_file(get_properties: Callable[..., Any], get: Callable[..., Any], *place: str) -> Iterator[str]:
    """Yields lines for the reader: the end of a file on a node.

    get_properties and get are two operations of client.file, and place is what they take: the ids of job and task, or
    of pool and node, and the path. A file that is empty or cannot be read yields one line that says so: this raises
    nothing.
    """
    path = place[-1]
    try:
        # A log may be larger than this machine's memory.
        length = int(get_properties(*place, raw=True).headers['Content-Length'])
        part = {'ocp-range': f'bytes={length - _MOST_BYTES}-{length - 1}'} if length > _MOST_BYTES else None
        content = b''.join(get(*place, custom_headers=part))
    # What requests raises while it reads an answer is an OSError; the SDK wraps only what comes before.
    except (ClientException, OSError, ValueError) as error:
        yield f'{path} cannot be read: {printable(one_line(error))}'
        return
    lines = content.decode(errors='replace').rstrip().splitlines()
    if part:
        # It may begin within a signature, which nothing would tell as one.
        lines[:1] = ['...']
    yield f'The end of {path}:' if lines else f'{path} is empty.'
    for line in lines[-_MOST_LINES:]:
        yield f'  | {printable(line)}'


def printable(text: str) -> str:
    """Returns the text without signatures, and without what would move the cursor of a terminal or colour it."""
    text = ''.join(char if char.isprintable() else ' ' for char in without_secrets(text))
    return text if len(text) <= 2 * _MOST_COLUMNS else f'{text[:2 * _MOST_COLUMNS]}...'
