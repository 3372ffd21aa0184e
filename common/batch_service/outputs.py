"""Which files of a task go where when it has ended: patterns, conditions and the two logs.

https://learn.microsoft.com/azure/batch/batch-task-output-files
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Iterator, Mapping

from .transfers import TransferError, Transfers

_WILDCARDS = re.compile(r'[*?\[]')


async def upload_outputs(output_files: list[dict[str, Any]], directory: Path, environment: Mapping[str, str],
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
    with open(directory / 'fileuploadout.txt', 'w') as out, open(directory / 'fileuploaderr.txt', 'w') as err:
        for output in output_files:
            if output['uploadOptions']['uploadCondition'] not in (outcome, 'TaskCompletion'):
                continue
            container = output['destination']['container']
            headers = {header['name']: header['value'] for header in container.get('uploadHeaders', ())}
            for file, blob_name in _matches(output['filePattern'], container.get('path'), directory, environment):
                try:
                    await transfers.upload(file, container['containerUrl'], blob_name, headers)
                    print(f'Uploaded {file} as {blob_name}', file=out)
                except TransferError as error:
                    print(f'{file}: {error}', file=err)
                    failure = failure or error.failure_info
    return failure


def _matches(pattern: str, path: str | None, directory: Path,
             environment: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """The files that a pattern names, each with the name of its blob."""
    pattern = re.sub(r'\$(?:\{(\w+)\}|(\w+))', lambda name: environment.get(name[1] or name[2], ''), pattern)
    whole = os.path.normpath(os.path.join(directory / 'wd', pattern))
    if not _WILDCARDS.search(pattern):
        file = Path(whole)
        if file.is_file():
            yield file, path or file.name
        return
    fixed = re.split(r'[^/]*[*?\[]', whole, maxsplit=1)[0]
    expression = re.compile(_expression(whole))
    for folder, _, names in sorted(os.walk(fixed)):
        for name in sorted(names):
            file = os.path.join(folder, name)
            if expression.fullmatch(file):
                relative = os.path.relpath(file, fixed)
                yield Path(file), f'{path.rstrip("/")}/{relative}' if path else relative


def _expression(pattern: str) -> str:
    """The regular expression of a pattern: ``*``, ``?`` and sets within one name, ``**`` across directories; a
    leading dot is matched by a dot only."""
    parts, position = [], 0
    while position < len(pattern):
        rest = pattern[position:]
        hidden = '' if position and pattern[position - 1] != '/' else r'(?!\.)'
        if rest.startswith('**/'):
            parts.append(r'(?:(?!\.)[^/]+/)*')
            position += 3
        elif rest.startswith('**'):
            parts.append(hidden + r'(?:[^/]|/(?!\.))*')
            position += 2
        elif match := re.match(r'\[(!?)([^\]]+)\]', rest):
            parts.append(hidden + f'[{"^/" if match[1] else ""}{re.escape(match[2]).replace(chr(92) + "-", "-")}]')
            position += match.end()
        else:
            parts.append({'*': hidden + '[^/]*', '?': hidden + '[^/]'}.get(rest[0], re.escape(rest[0])))
            position += 1
    return ''.join(parts)
