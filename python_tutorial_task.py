"""Counts the words of one text file and uploads the most frequent ones to Azure Storage.

This is the program that the tasks run, each on a node of the pool and with one input file. A node has
nothing else of the project: this file needs the standard library and the azure-storage-blob package alone. It
never sees an account key, only a SAS that lets it write to one container.
"""

from __future__ import annotations

import argparse
import codecs
import heapq
import logging
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn

_BLOCK_SIZE = 1 << 20  # bytes: large enough to be fast, small enough for several tasks on one node

_ADVICE = {403: ' (does the SAS allow writing to this container, and has it not expired?)',
           404: ' (has the container been deleted?)'}


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
    parser = _OneLineParser(prog=Path(__file__).name,
                            description='Uploads the most frequent words of a text file to Azure Storage.')
    parser.add_argument('--filepath', required=True, type=Path, help='the text file (UTF-8)')
    parser.add_argument('--numwords', required=True, type=_positive, help='how many words to report')
    parser.add_argument('--storageaccount', required=True, help='the name of the Storage account')
    parser.add_argument('--storagecontainer', required=True, help='the container for the output')
    parser.add_argument('--sastoken', required=True, help='a SAS that may write to that container')
    parser.add_argument('--storageurl', help="the account's blob service, where that is not "
                                             'https://NAME.blob.core.windows.net')
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number == 0:
        raise argparse.ArgumentTypeError(f'must be a whole number above 0, not {text!r}')
    return number


def count_words(path: Path) -> Counter[str]:
    """Counts the words of a UTF-8 file; the memory that it takes grows with the vocabulary, not the text.

    A word is a run of non-space characters without the punctuation at its ends, in any script, case-folded.
    Raises TaskError when the file cannot be read.
    """
    try:
        with path.open('rb') as file:
            tokens = count_tokens(decode(read_blocks(file)))
    except OSError as error:
        raise TaskError(f'cannot read [{path}]: {error.strerror}') from error

    # Each distinct token is cleaned once, however often the text has it: that makes the difference in speed.
    words: Counter[str] = Counter()
    for token, count in tokens.items():
        word = strip_punctuation(token).casefold()
        if word:
            words[word] += count
    return words


def read_blocks(file: BinaryIO) -> Iterator[bytes]:
    yield file.read(_BLOCK_SIZE).removeprefix(codecs.BOM_UTF8)
    while block := file.read(_BLOCK_SIZE):
        yield block


def decode(blocks: Iterable[bytes]) -> Iterator[str]:
    """Decodes UTF-8 whose characters may lie across blocks; U+FFFD stands for what is not UTF-8."""
    decoder = codecs.getincrementaldecoder('utf-8')(errors='replace')
    for block in blocks:
        yield decoder.decode(block)
    yield decoder.decode(b'', final=True)


def count_tokens(texts: Iterable[str]) -> Counter[str]:
    """Counts the runs of non-space characters in a text that comes in pieces, cut anywhere."""
    tokens: Counter[str] = Counter()
    # A list: joining a word of a gigabyte anew with every piece would take the square of the time.
    unfinished: list[str] = []
    for text in filter(None, texts):
        runs = text.split()
        if not text[0].isspace():
            unfinished.append(runs.pop(0))
        if runs or text[-1].isspace():
            tokens[''.join(unfinished)] += 1
            unfinished = []
        if runs and not text[-1].isspace():
            unfinished.append(runs.pop())
        tokens.update(runs)
    tokens[''.join(unfinished)] += 1
    del tokens['']
    return tokens


def strip_punctuation(token: str) -> str:
    # Unicode's symbols (category S) stay: C++ is not C, and $5 is not 5. Its punctuation (category P) goes.
    start, end = 0, len(token)
    while start < end and unicodedata.category(token[start]).startswith('P'):
        start += 1
    while start < end and unicodedata.category(token[end - 1]).startswith('P'):
        end -= 1
    return token[start:end]


def top_words(counts: Counter[str], number: int) -> list[tuple[str, int]]:
    """The most frequent words, most frequent first; alphabetical where counts are equal."""
    return heapq.nsmallest(number, counts.items(), key=lambda item: (-item[1], item[0]))


def output_path_for(input_path: Path) -> Path:
    stem, extension = os.path.splitext(input_path.name)
    # Without a folder: in the task's working directory, which Batch makes the current one.
    return Path(f'{stem}_OUTPUT{extension}')


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
    """Uploads a file as a blob of its own name; overwrites what an earlier try of this task left.

    Raises TaskError when Storage refuses the blob or cannot be reached.
    """
    # Imported here because it takes longer than counting the words of a book.
    from azure.core.credentials import AzureSasCredential
    from azure.core.exceptions import AzureError, HttpResponseError
    from azure.storage.blob import BlobClient, ExponentialRetry

    # What azure-storage-blob finds odd in an answer, it would log to stderr: the reader gets one line, below.
    logging.getLogger('azure').addHandler(logging.NullHandler())
    failure = f'cannot upload [{path}] to container [{container_name}] of {account_url}'
    try:
        # By default azure-storage-blob takes a minute and a half to say that nobody answers.
        retries = ExponentialRetry(initial_backoff=1, increment_base=2, retry_total=3)
        with BlobClient(account_url, container_name, path.name, credential=AzureSasCredential(sas_token),
                        retry_policy=retries) as blob_client, path.open('rb') as data:
            blob_client.upload_blob(data, overwrite=True)
    except HttpResponseError as error:
        code = getattr(error, 'error_code', None)
        reason = getattr(code, 'value', code) or error.reason
        advice = _ADVICE.get(error.status_code or 0, '')
        raise TaskError(f'{failure}: {error.status_code} {reason}{advice}') from error
    except (AzureError, OSError, ValueError) as error:
        raise TaskError(f'{failure}: {error}') from error


def without_secrets(text: str) -> str:
    """Makes one line of a text, without the signature of any SAS in it."""
    return re.sub(r'(?i)(\bsig(=|%3d))[^&\s\'")]+', r'\1...', ' '.join(text.split()))


if __name__ == '__main__':
    sys.exit(main())
