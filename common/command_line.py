"""The client's command line, and what can be checked before anything is created."""
from __future__ import annotations

import argparse
from pathlib import Path

_DESCRIPTION = 'Counts the words of text files in parallel with Azure Batch, or on this machine.'

_SETTINGS = '''\
settings, at the top of python_tutorial_client.py:
  Each of the first five may stay empty if the variable beside it is set. With all of them empty the tutorial
  runs on this machine, with no account (Linux and macOS).

  _BATCH_ACCOUNT_NAME    AZURE_BATCH_ACCOUNT     name of the Batch account
  _BATCH_ACCOUNT_KEY     AZURE_BATCH_ACCESS_KEY  one of its two keys
  _BATCH_ACCOUNT_URL     AZURE_BATCH_ENDPOINT    such as https://NAME.REGION.batch.azure.com
  _STORAGE_ACCOUNT_NAME  AZURE_STORAGE_ACCOUNT   name of the storage account
  _STORAGE_ACCOUNT_KEY   AZURE_STORAGE_KEY       one of its two keys

  AZURE_STORAGE_SERVICE_ENDPOINT is the storage account's blob URL, for a cloud where that does not end in
  .blob.core.windows.net.

  _POOL_ID               id of the pool
  _POOL_NODE_COUNT       how many nodes it has: they cost money, and count against the core quota
  _POOL_VM_SIZE          size of each node, at least two cores
  _NODE_OS_PUBLISHER, _NODE_OS_OFFER, _NODE_OS_SKU
                         image of the nodes, an Ubuntu or Debian that Batch supports
  _JOB_ID                id of the job
  _TUTORIAL_TASK_FILE    script that the tasks run, beside the client
'''


class UsageError(RuntimeError):
    """What the command line asks for cannot be done; the text names the argument."""


class Arguments(argparse.Namespace):
    """The command line: every path is absolute, every input file is there, the output directory too."""

    input_files: list[Path]
    numwords: int
    output_dir: Path
    yes: bool


def parse_arguments(default_input_files: list[Path]) -> Arguments:
    """Reads sys.argv. Ends the process, as argparse does, after --help or for what it cannot read.

    Raises UsageError for input files that cannot be used, OSError when the output directory cannot be made.
    """
    parser = argparse.ArgumentParser(description=_DESCRIPTION, epilog=_SETTINGS,
                                     usage='%(prog)s [options] [input_file ...]',
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('input_files', nargs='*', metavar='input_file', type=_absolute,
                        default=default_input_files,
                        help='text to count, one task each (default: the three in data/)')
    parser.add_argument('--numwords', metavar='N', type=_positive, default=3,
                        help='how many of the most frequent words to show for each file (default: 3)')
    parser.add_argument('--output-dir', metavar='DIR', type=_absolute, default=Path.home(),
                        help='where the results go (default: your home directory)')
    parser.add_argument('--yes', action='store_true', help='answer every question with its default')
    arguments = parser.parse_args(namespace=Arguments())

    _check_input_files(arguments.input_files)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    return arguments


def _absolute(path: str) -> Path:
    # Not resolve(): the name of a symbolic link is the name that the reader chose.
    return Path(path).absolute()


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number above 0')
    return number


def _check_input_files(input_files: list[Path]) -> None:
    by_name: dict[str, Path] = {}
    for path in input_files:
        if not path.is_file():
            reason = 'is not a file' if path.exists() else 'does not exist'
            raise UsageError(f'Input file {path} {reason}.')
        if path.name in by_name:
            raise UsageError(f'Input files {by_name[path.name]} and {path} have the same name, and would '
                             'overwrite each other in the container: rename one, or leave it out.')
        by_name[path.name] = path
