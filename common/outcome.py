"""What has come of the tasks: which failed and why, and the words that they found."""
from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import azure.batch.models as batchmodels
from azure.batch import BatchServiceClient
from azure.storage.blob import BlobServiceClient

from common.failures import end_of_task_file, explain, printable

_MOST_LOGS = 10
_MOST_ROWS = 20
_MOST_WORDS = 5


def output_name(input_name: str) -> str:
    """Returns the name of the blob that a task makes of an input file: 'a.txt' becomes 'a_OUTPUT.txt'."""
    stem, extension = os.path.splitext(input_name)
    return f'{stem}_OUTPUT{extension}'


def print_failed_tasks(batch_service_client: BatchServiceClient, job_id: str,
                       blob_service_client: BlobServiceClient, output_container_name: str) -> int:
    """Tells the reader which of the completed tasks have failed, and why; returns how many.

    A task has failed when Batch says so, and also when its output is not in the container. Completed tells
    neither. Raises what the SDKs raise when tasks or blobs cannot be listed.
    """
    completed = list(batch_service_client.task.list(job_id, task_list_options=batchmodels.TaskListOptions(
        filter="state eq 'completed'", select='id,executionInfo,resourceFiles')))
    container_client = blob_service_client.get_container_client(output_container_name)
    outputs = {blob.name for blob in container_client.list_blobs()}

    failed = [task for task in completed if _has_failed(task)]
    without_output = [(task, missing) for task in completed if not _has_failed(task)
                      for missing in _missing_outputs(task, outputs)]
    if not failed and not without_output:
        return 0

    number = len(failed) + len(without_output)
    sys.stdout.flush()
    print(f'ERROR: {number} of {len(completed)} completed tasks failed:', file=sys.stderr)
    for index, task in enumerate(failed):
        print(f'  Task {task.id}: {explain(task.execution_info)}', file=sys.stderr)
        if index < _MOST_LOGS:
            for line in end_of_task_file(batch_service_client, job_id, task.id, 'stderr.txt'):
                print(f'    {line}', file=sys.stderr)
    for task, missing in without_output:
        print(printable(f'  Task {task.id} succeeded, but has left no blob [{missing}] in container '
                        f'[{output_container_name}].'), file=sys.stderr)
    return number


def _has_failed(task: batchmodels.CloudTask) -> bool:
    return (task.execution_info is not None
            and task.execution_info.result == batchmodels.TaskExecutionResult.failure)


def _missing_outputs(task: batchmodels.CloudTask, outputs: set[str]) -> list[str]:
    # The tutorial's tasks have one resource file each: their input.
    names = [output_name(file.file_path) for file in task.resource_files or () if file.file_path]
    return [name for name in names[:1] if name not in outputs]


def print_top_words(downloaded: Mapping[str, Path]) -> None:
    """Prints a table of the words that the tasks found, from their outputs: the paths by blob name.

    Files that are not a task's output are left out.
    """
    rows = [[printable(name), *words] for name, path in sorted(downloaded.items())
            if (words := list(itertools.islice(_words(path), _MOST_WORDS)))]
    if not rows:
        return
    shown = rows[:_MOST_ROWS]
    widths = [max(map(len, column)) for column in itertools.zip_longest(*shown, fillvalue='')]
    print()
    for row in shown:
        print('  ' + '  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    if len(rows) > len(shown):
        print(f'  ... and {len(rows) - len(shown)} more')
    print()


def _words(path: Path) -> Iterator[str]:
    """Yields 'word count' for each line of an output before its rule; nothing for a file without one."""
    table, rule, _ = path.read_text(encoding='utf-8', errors='replace').partition(f'{"-" * 30}\n')
    if rule:
        yield from (printable(f'{found[1]} {found[2]}') for found in re.finditer(r'(?m)^(\S+) +(\d+)$', table))
