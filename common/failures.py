"""Why a command on a node failed, as far as Batch knows it and the command has said it itself."""
from __future__ import annotations

from collections.abc import Callable, Iterator

import azure.batch.models as batchmodels
from azure.batch import BatchServiceClient
from msrest.exceptions import ClientException

from common.sdk_errors import one_line
from common.redaction import without_secrets

_MOST_BYTES = 4096
_MOST_LINES = 10
_MOST_COLUMNS = 300


def explain(execution_info: batchmodels.TaskExecutionInformation | batchmodels.StartTaskInformation) -> str:
    """Returns the exit code and the failure's category, code, message and details, in one line.

    https://learn.microsoft.com/azure/batch/batch-job-task-error-checking
    """
    failure = execution_info.failure_info
    parts = []
    if execution_info.exit_code is not None:
        parts.append(f'exit code {execution_info.exit_code}')
    if failure:
        category = getattr(failure.category, 'value', failure.category)
        parts.append(f'{category} {failure.code}{with_values(failure.message, failure.details)}')
    return printable(', '.join(parts) or 'Batch tells no reason')


def with_values(message: str | None, values: list[batchmodels.NameValuePair] | None) -> str:
    """Returns ': message (name=value; name=value)', with what there is of it."""
    text = f': {message}' if message else ''
    listed = '; '.join(f'{pair.name}={(pair.value or "")[:_MOST_COLUMNS]}' for pair in values or ())
    return f'{text} ({listed})' if listed else text


def end_of_task_file(client: BatchServiceClient, job_id: str, task_id: str, path: str) -> Iterator[str]:
    """Yields lines for the reader: the end of a file of a task, stderr.txt for instance.

    A file that is empty or cannot be read yields one line that says so: this raises nothing.
    """
    return _end_of_file(
        path,
        lambda: client.file.get_properties_from_task(job_id, task_id, path, raw=True).headers,
        lambda ocp_range: client.file.get_from_task(
            job_id, task_id, path, file_get_from_task_options=batchmodels.FileGetFromTaskOptions(ocp_range=ocp_range)))


def end_of_node_file(client: BatchServiceClient, pool_id: str, node_id: str, path: str) -> Iterator[str]:
    """Yields lines for the reader, like end_of_task_file; path begins at the node's root directory."""
    return _end_of_file(
        path,
        lambda: client.file.get_properties_from_compute_node(pool_id, node_id, path, raw=True).headers,
        lambda ocp_range: client.file.get_from_compute_node(
            pool_id, node_id, path,
            file_get_from_compute_node_options=batchmodels.FileGetFromComputeNodeOptions(ocp_range=ocp_range)))


def _end_of_file(path: str, properties: Callable[[], dict[str, str]],
                 read: Callable[[str | None], Iterator[bytes]]) -> Iterator[str]:
    try:
        # A log may be larger than this machine's memory.
        length = int(properties()['Content-Length'])
        part = length > _MOST_BYTES
        content = b''.join(read(f'bytes={length - _MOST_BYTES}-{length - 1}' if part else None))
    # What requests raises while it reads an answer is an OSError; the SDK wraps only what comes before.
    except (ClientException, OSError, ValueError) as error:
        yield f'{path} cannot be read: {printable(one_line(error))}'
        return
    lines = content.decode(errors='replace').rstrip().splitlines()
    if part:
        # It may begin within a signature, which nothing would tell as one.
        lines[:1] = ['...']
    if not lines:
        yield f'{path} is empty.'
        return
    yield f'The end of {path}:'
    for line in lines[-_MOST_LINES:]:
        yield f'  | {printable(line)}'


def printable(text: str) -> str:
    """Returns the text without signatures, and without what would move the cursor of a terminal or colour it."""
    text = ''.join(char if char.isprintable() else ' ' for char in without_secrets(text))
    return text if len(text) <= 2 * _MOST_COLUMNS else f'{text[:2 * _MOST_COLUMNS]}...'
