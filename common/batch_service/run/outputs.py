"""Which files of a task go where when it has ended: patterns, conditions and the two logs.

https://learn.microsoft.com/azure/batch/batch-task-output-files
"""

from __future__ import annotations

import fnmatch
import os
import re
import time
from pathlib import Path
from typing import IO, Any, Iterator, Mapping

from .transfers import TransferError, Transfers

_WILDCARDS = re.compile(r'[*?\[]')
_LONGEST_PATTERN = 4_096
_MOST_ENTRIES = 250_000
_MOST_SECONDS = 20.0


def upload_outputs(output_files: list[dict[str, Any]], directory: Path, environment: Mapping[str, str],
                   failure: dict[str, Any] | None, transfers: Transfers) -> dict[str, Any] | None:
    """Uploads what a task's output files ask for, and logs it beside the task's streams.

    Args:
        output_files: As on the wire.
        directory: The task's directory.
        environment: The task's variables, which patterns may name.
        failure: How the task failed, None if it succeeded.
        transfers: Does the uploading.

    Returns:
        The task's failure: the one given, or that of an upload, which makes a successful task fail.
    """
    outcome = 'TaskFailure' if failure else 'TaskSuccess'
    try:
        with _log(directory / 'fileuploadout.txt') as out, _log(directory / 'fileuploaderr.txt') as err:
            for output in output_files:
                if output['uploadOptions']['uploadCondition'] in (outcome, 'TaskCompletion'):
                    failed = _upload(output, directory, environment, transfers, out, err)
                    failure = failure or failed
    except OSError as error:
        failure = failure or _trouble(f'The uploads cannot be logged: {error.strerror}').failure_info
    return failure


def _log(path: Path) -> IO[str]:
    # The task may have put a pipe there, or a link to somewhere else.
    path.unlink(missing_ok=True)
    return open(path, 'x', encoding='utf-8', errors='backslashreplace')


def _upload(output: dict[str, Any], directory: Path, environment: Mapping[str, str], transfers: Transfers,
            out: IO[str], err: IO[str]) -> dict[str, Any] | None:
    """Uploads what one output file asks for; returns the first failure."""
    container = output['destination']['container']
    headers = {header['name']: header['value'] for header in container.get('uploadHeaders', ())}
    failure = None
    try:
        files = list(_matches(output['filePattern'], container.get('path'), directory, environment))
    except (OSError, ValueError) as error:
        trouble = _trouble(f'The pattern cannot be followed: {getattr(error, "strerror", None) or error}')
        files, failure = [], trouble.failure_info
        print(f'{output["filePattern"]}: {trouble}', file=err)
    for file, blob_name in files:
        try:
            transfers.upload(file, container['containerUrl'], blob_name, headers)
            print(f'Uploaded {file} as {blob_name}', file=out)
        except TransferError as error:
            print(f'{file}: {error}', file=err)
            failure = failure or error.failure_info
    return failure


def _trouble(message: str) -> TransferError:
    return TransferError('usererror', 'FileUploadMiscError', message)


def _matches(pattern: str, path: str | None, directory: Path,
             environment: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """What a pattern names that is no directory, each with the name of its blob.

    Raises:
        ValueError: It is no pattern, or there is too much to look at.
        OSError: A directory cannot be read.
    """
    pattern = re.sub(r'\$(?:\{(\w+)\}|(\w+))', lambda name: environment.get(name[1] or name[2], ''), pattern)
    whole = os.path.normpath(os.path.join(directory / 'wd', pattern))
    if len(whole) > _LONGEST_PATTERN:
        raise ValueError(f'it is longer than {_LONGEST_PATTERN} characters')
    if not _WILDCARDS.search(pattern):
        if os.path.lexists(whole) and not os.path.isdir(whole):
            yield Path(whole), path or os.path.basename(whole)
        return
    fixed = re.split(r'[^/]*[*?\[]', whole, maxsplit=1)[0]
    for file in sorted(_walk(fixed, _segments(whole[len(fixed):]))):
        relative = os.path.relpath(file, fixed)
        yield Path(file), f'{path.rstrip("/")}/{relative}' if path else relative


def _segments(pattern: str) -> list[re.Pattern[str] | None]:
    """What matches the name at each level of a pattern; None for any directories, ``**``."""
    segments: list[re.Pattern[str] | None] = []
    for segment in pattern.split('/'):
        for characters in re.findall(r'\[!?(\]?[^]]*)\]', segment):
            for low, high in re.findall('(.)-(.)', characters):
                if low > high:
                    raise ValueError(f'the range from {low!r} to {high!r} runs backwards')
        if segment.startswith('**') and segments[-1:] != [None]:
            segments.append(None)
        if segment != '**':
            hidden = '' if segment.startswith('.') else r'(?!\.)'
            # It is atomic where it could go back, so that no pattern takes for ever.
            segments.append(re.compile(hidden + fnmatch.translate(segment)))
    return segments if segments[-1] else [*segments, re.compile(r'(?!\.).*')]


def _walk(folder: str, segments: list[re.Pattern[str] | None]) -> Iterator[str]:
    """Goes down to what matches, into each directory once, however many ways the pattern leads there."""
    seen, deadline = 0, time.monotonic() + _MOST_SECONDS
    last = len(segments) - 1
    waiting = [(folder, _with_none_skipped({0}, segments))]
    while waiting:
        folder, positions = waiting.pop()
        try:
            entries = os.scandir(folder)
        except (FileNotFoundError, NotADirectoryError):
            continue
        with entries:
            for entry in entries:
                seen += 1
                if seen > _MOST_ENTRIES or time.monotonic() > deadline:
                    raise ValueError(f'it leads to too much: {seen:,} files and directories were looked at')
                matched = {position for position in positions if _is_match(segments[position], entry.name)}
                if not entry.is_dir():
                    if last in matched:
                        yield entry.path
                elif not entry.is_symlink():
                    below = {position if segments[position] is None else position + 1
                             for position in matched if position < last}
                    if below:
                        waiting.append((entry.path, _with_none_skipped(below, segments)))


def _is_match(segment: re.Pattern[str] | None, name: str) -> bool:
    return not name.startswith('.') if segment is None else segment.match(name) is not None


def _with_none_skipped(positions: set[int], segments: list[re.Pattern[str] | None]) -> set[int]:
    """The positions, and those behind a ``**``, which may stand for no directory at all."""
    return positions | {position + 1 for position in positions if segments[position] is None}
