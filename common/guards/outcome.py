"""Against taking completed for succeeded: which tasks failed and why, and the words that the others found."""
from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path

import azure.batch.models as batchmodels

from common.guards.downloads import is_result
from common.guards.end_of_run import print_error_line
from common.guards.failures import end_of_file, explain, printable
from common.guards.run import Run

_MOST_LOGS = 10
_MOST_ROWS = 20
_MOST_WORDS = 5


def output_name(input_name: str) -> str:
    """Returns the name of the blob that a task makes of an input file: 'a.txt' becomes 'a_OUTPUT.txt'."""
    stem, extension = os.path.splitext(input_name)
    return f'{stem}_OUTPUT{extension}'


def print_failed_tasks(run: Run) -> int:
    """Tells the reader which of the completed tasks have failed, and why; returns how many.

    A task has failed when Batch says so, and also when its output is not in the container. Completed tells neither.
    Raises what the SDKs raise when tasks or blobs cannot be listed.
    """
    completed, failed, expected = 0, [], {}
    if run.find('job') is None:  # somebody else has deleted it, and its tasks with it
        return 0
    for task in run.batch.task.list(run.ids['job'], task_list_options=batchmodels.TaskListOptions(
            filter="state eq 'completed'", select='id,executionInfo,resourceFiles')):
        completed += 1
        if task.execution_info and task.execution_info.result == batchmodels.TaskExecutionResult.failure:
            failed.append(task)
        elif task.resource_files and task.resource_files[0].file_path:
            # The tutorial's tasks have one resource file each: their input.
            expected[task.id] = output_name(task.resource_files[0].file_path)
    outputs = set(run.blob_names(run.container_names[-1]))
    without_output = {task_id: name for task_id, name in expected.items() if name not in outputs}
    number = len(failed) + len(without_output)
    if number:
        print_error_line(f'ERROR: {number} of {completed} completed tasks failed:')
    for index, task in enumerate(failed):
        print_error_line(f'  Task {task.id}: {explain(task.execution_info)}')
        if index < _MOST_LOGS:
            for line in end_of_file(run.batch.file.get_properties_from_task, run.batch.file.get_from_task,
                                    run.ids['job'], task.id, 'stderr.txt'):
                print_error_line(f'    {line}')
    for task_id, missing in without_output.items():
        print_error_line(printable(f'  Task {task_id} succeeded, but has left no blob [{missing}] in container '
                                   f'[{run.container_names[-1]}].'))
    return number


def print_top_words(downloaded: Mapping[str, Path]) -> None:
    """Prints a table of the words that the tasks found, from their outputs: the paths by blob name.

    Files that are not a task's output are left out.
    """
    rows = [[printable(name), *_top_words(path)] for name, path in sorted(downloaded.items()) if is_result(path)]
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


def _top_words(path: Path) -> list[str]:
    """Returns 'word count' for each of the first lines of an output, or 'no words'."""
    with path.open(encoding='utf-8', errors='replace') as lines:
        words = [re.fullmatch(r'(\S+) +(\d+)\n', line) for line in itertools.islice(lines, _MOST_WORDS)]
    # The first that is None is the rule below the words.
    return [printable(f'{word[1]} {word[2]}') for word in itertools.takewhile(bool, words)] or ['no words']
