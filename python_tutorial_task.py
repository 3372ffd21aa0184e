"""Counts the words of one text file and uploads the most frequent ones to Azure Storage.

The tasks run this, each on a node of the pool. A node has nothing else of the project: this file needs the standard
library and azure-storage-blob alone. It never sees an account key, only a SAS that lets it write to one container.
"""
from __future__ import annotations

import argparse
import codecs
import concurrent.futures
import heapq
import logging
import multiprocessing
import os
import re
import sys
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise, repeat, takewhile
from pathlib import Path
from typing import NoReturn

_ADVICE = {403: ' (does the SAS allow writing to this container, and has it not expired?)',
           404: ' (has the container been deleted?)'}
_BLOCK_SIZE = 1 << 18  # bytes: large enough to be fast, small enough for several tasks on one node
_BIG_FILE = 1 << 23  # bytes: less is counted before other processes have begun


class TaskError(Exception):
    """Ends the task; its text is the one line that the reader finds in stderr.txt."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the task; returns the exit code by which Batch tells success from failure."""
    args = parse_arguments(arguments)
    try:
        counts = count_words(args.filepath)
        output_path = output_path_for(args.filepath)
        write_output(output_path, top_words(counts, args.numwords))
        account_url = args.storageurl or f'https://{args.storageaccount}.blob.core.windows.net'
        upload_file_to_container(output_path, account_url, args.storagecontainer, args.sastoken)
    except TaskError as error:
        print(f'{Path(__file__).name}: {without_secrets(str(error))}', file=sys.stderr)
        return 1
    print(f'Uploaded [{output_path}] to container [{args.storagecontainer}].')
    return 0


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse would print the usage as well, and would quote a mistyped --sastoken with its signature.
        self.exit(2, f'{self.prog}: {without_secrets(message)} (--help lists the arguments)\n')


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _OneLineParser(Path(__file__).name, description='Uploads the most frequent words to Azure Storage.')
    parser.add_argument('--filepath', required=True, type=Path, help='the text file (UTF-8)')
    parser.add_argument('--numwords', required=True, type=_positive, help='how many words to report')
    parser.add_argument('--storageaccount', required=True, help='the name of the Storage account')
    parser.add_argument('--storagecontainer', required=True, help='the container for the output')
    parser.add_argument('--sastoken', required=True, help='a SAS that may write to that container')
    parser.add_argument('--storageurl', help="the account's blob service, if not https://NAME.blob.core.windows.net")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f'must be a whole number above 0, not {text!r}')
    return int(text)


def count_words(path: Path) -> Counter[str]:
    """Counts the words of a UTF-8 file, in memory that grows with the vocabulary, not the text; or raises TaskError."""
    try:
        parts = cut_into_parts(path)
        if len(parts) == 1:
            return count_part(path, *parts[0])
        with concurrent.futures.ProcessPoolExecutor(len(parts), initializer=end_with_the_task) as processes:
            return sum(processes.map(count_part, repeat(path), *zip(*parts)), Counter())
    except OSError as error:
        raise TaskError(f'cannot read [{path}]: {error.strerror}') from error
    except (concurrent.futures.BrokenExecutor, MemoryError) as error:
        raise TaskError(f'cannot count [{path}]: a part of it took more memory than there is') from error


def cut_into_parts(path: Path) -> list[tuple[int, int]]:
    """Cuts a big file after spaces into a part for each core; returns where each begins and ends."""
    size = path.stat().st_size  # 0 for a pipe
    cores = (os.cpu_count() or 1) if size >= _BIG_FILE else 1
    cuts = {0}
    for number in range(1, cores):
        with path.open('rb') as file:
            file.seek(size * number // cores)
            if space := re.search(rb'\s', file.read(_BLOCK_SIZE)):  # in UTF-8, no byte of another character is a space
                cuts.add(size * number // cores + space.end())
    return list(pairwise([*sorted(cuts), sys.maxsize]))


def end_with_the_task() -> None:
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()


def count_part(path: Path, begin: int, end: int) -> Counter[str]:
    with path.open('rb') as file:
        if begin:
            file.seek(begin)
        # This lower() knows ASCII alone, which makes fewer tokens to remember; casefold() does the rest.
        blocks = (file.read(min(_BLOCK_SIZE, end - at)).lower() for at in range(begin, end, _BLOCK_SIZE))
        # A byte order mark is no part of the text.
        tokens = count_tokens(codecs.iterdecode(takewhile(bool, blocks), 'utf-8' if begin else 'utf-8-sig', 'replace'))
    # Unicode's punctuation (category P) is no part of a word. Its symbols (S) are: C++ is not C, and $5 is not 5.
    punctuation = ''.join(char for char in set().union(*tokens) if unicodedata.category(char).startswith('P'))
    words: Counter[str] = Counter()
    for token, count in tokens.items():
        words[token.strip(punctuation).casefold()] += count
    del words['']
    return words


def count_tokens(pieces: Iterable[str]) -> Counter[str]:
    """Counts what stands between spaces, in a text that comes in pieces, cut anywhere."""
    tokens: Counter[str] = Counter()
    unfinished: list[str] = []  # not joined before its end comes: a gigabyte would be copied with each piece
    for piece in filter(None, chain(pieces, [' '])):
        unfinished.append(piece)
        if piece.split(maxsplit=1) != [piece]:  # there is a space in it
            runs = ''.join(unfinished).split()
            unfinished = [] if piece[-1].isspace() else [runs.pop()]
            tokens.update(runs)
    return tokens


def top_words(counts: Counter[str], number: int) -> list[tuple[str, int]]:
    """The most frequent words, most frequent first; alphabetical where counts are equal."""
    return heapq.nsmallest(number, counts.items(), key=lambda item: (-item[1], item[0]))


def output_path_for(input_path: Path) -> Path:
    return Path('_OUTPUT'.join(os.path.splitext(input_path.name)))  # without a folder: the task's working directory


def write_output(path: Path, words: Sequence[tuple[str, int]]) -> None:
    width = max((len(word) for word, _ in words), default=0)
    lines = [f'{word:<{width}} {count}' for word, count in words]
    lines += ['-' * 30,
              f"Node: {os.environ.get('AZ_BATCH_NODE_ID', '-')}",
              f"Task: {os.environ.get('AZ_BATCH_TASK_ID', '-')}",
              f"Job:  {os.environ.get('AZ_BATCH_JOB_ID', '-')}",
              f"Pool: {os.environ.get('AZ_BATCH_POOL_ID', '-')}"]
    try:
        path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    except OSError as error:
        raise TaskError(f'cannot write [{path}]: {error.strerror}') from error


def upload_file_to_container(path: Path, account_url: str, container_name: str, sas_token: str) -> None:
    """Uploads a file as a blob of its name, over what an earlier try of this task left; or raises TaskError."""
    # Imported here because it takes longer than counting the words of a book.
    from azure.core.credentials import AzureSasCredential
    from azure.core.exceptions import AzureError, HttpResponseError
    from azure.storage.blob import BlobClient, ExponentialRetry
    # What azure-storage-blob finds odd in an answer, it would log to stderr: the reader gets one line, below.
    logging.getLogger('azure').addHandler(logging.NullHandler())
    failure = f'cannot upload [{path}] to container [{container_name}] of {account_url}'
    try:
        retries = ExponentialRetry(initial_backoff=1, increment_base=2)  # by default it tries for a minute and a half
        with BlobClient(account_url, container_name, path.name, credential=AzureSasCredential(sas_token),
                        retry_policy=retries) as blob_client, path.open('rb') as data:
            blob_client.upload_blob(data, overwrite=True)
    except HttpResponseError as error:
        code = getattr(error, 'error_code', None)
        reason = getattr(code, 'value', code) or error.reason
        raise TaskError(f'{failure}: {error.status_code} {reason}{_ADVICE.get(error.status_code, "")}') from error
    except (AzureError, OSError, ValueError) as error:
        raise TaskError(f'{failure}: {error}') from error


def without_secrets(text: str) -> str:
    """Makes one line of a text, without the signature of any SAS in it."""
    return re.sub(r'(?i)(\bsig(=|%3d))[^&\s\'")]+', r'\1...', ' '.join(text.split()))


if __name__ == '__main__':
    sys.exit(main())
