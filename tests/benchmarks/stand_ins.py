"""What the client itself costs with very many files: ``python -m tests.benchmarks.stand_ins [files ...]``.

Three of its steps run with stand-ins for both services, which answer at once and in the same process. Run by hand;
prints a table.
"""
from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from azure.batch import BatchServiceClient
from azure.batch.batch_auth import SharedKeyCredentials

import python_tutorial_client as client
from common import guards

from .tasks import memory_of

_KEY = 'a' * 88


class Blobs:
    """Stands in for the clients of Azure Storage: takes any blob, and has one for each file."""

    account_name = 'storage'
    credential = SimpleNamespace(account_key=_KEY)

    def __init__(self, number: int) -> None:
        self._number = number

    def get_blob_client(self, container: str, blob: str) -> Any:
        return SimpleNamespace(url=f'https://storage.blob.core.windows.net/{container}/{blob}',
                               upload_blob=lambda data, overwrite: data.read())

    def get_container_client(self, container: str) -> Blobs:
        return self

    def list_blobs(self) -> Any:
        return (SimpleNamespace(name=f'{index}_OUTPUT.txt') for index in range(self._number))

    def download_blob(self, name: str) -> Any:
        return SimpleNamespace(readinto=lambda file: file.write(b'a line\n'))


def main(numbers: list[int]) -> None:
    print(f'{"files":>8}  {"upload":>8}  {"add":>8}  {"download":>8}  memory', flush=True)
    for number in numbers:
        # Each in a process of its own, for the sake of the memory.
        subprocess.run([sys.executable, '-c', f'from {__spec__.name} import run; run({number})'], check=True)


def run(number: int) -> None:
    """Runs the steps with so many files, and prints a line of the table."""
    blobs, batch = Blobs(number), BatchServiceClient(SharedKeyCredentials('batch', _KEY), 'https://batch')
    batch.task.add_collection = lambda job_id, tasks: None
    with tempfile.TemporaryDirectory() as name, open(os.devnull, 'w') as nowhere:
        inputs = [Path(name) / f'{index}.txt' for index in range(number)]
        for path in inputs:
            path.write_text('some words\n')
        moments = [time.perf_counter()]
        with redirect_stdout(nowhere):
            files = guards.side_by_side(functools.partial(client.upload_file_to_container, blobs, 'input'), inputs)
            moments.append(time.perf_counter())
            client.add_tasks(batch, 'job', files, 'output', 'sig=')
            moments.append(time.perf_counter())
            client.download_blobs_from_container(blobs, 'output', name)
            moments.append(time.perf_counter())
    print(f'{number:>8,}  ' + '  '.join(f'{end - begin:>6.2f} s' for begin, end in pairwise(moments))
          + f'  {memory_of(os.getpid()):.0f} MB', flush=True)


if __name__ == '__main__':
    main([int(argument) for argument in sys.argv[1:]] or [100, 1_000, 10_000, 100_000])
