"""Against finding out too late: the client's command line, and what can be checked before anything is created."""
from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from common.guards.accounts import SettingsError
from common.guards.outcome import output_name
from common.redaction import log_sdk_calls

_DESCRIPTION = 'Counts the words of text files in parallel with Azure Batch, or on this machine.'

_SETTINGS = '''\
settings, at the top of python_tutorial_client.py:
  Each of the first five may stay empty if the variable beside it is set. With all of them empty the tutorial
  runs on this machine, with no account (Linux and macOS), in the directory that AZURE_BATCH_TUTORIAL_WORKSPACE
  names. With the two keys alone empty it signs in with Entra ID, as whoever has signed in with "az login".

  _BATCH_ACCOUNT_NAME    AZURE_BATCH_ACCOUNT     name of the Batch account
  _BATCH_ACCOUNT_KEY     AZURE_BATCH_ACCESS_KEY  one of its two keys
  _BATCH_ACCOUNT_URL     AZURE_BATCH_ENDPOINT    such as https://NAME.REGION.batch.azure.com
  _STORAGE_ACCOUNT_NAME  AZURE_STORAGE_ACCOUNT   name of the storage account
  _STORAGE_ACCOUNT_KEY   AZURE_STORAGE_KEY       one of its two keys
                         AZURE_STORAGE_SERVICE_ENDPOINT
                                                 its blob URL, in other clouds than Azure's public one
  _POOL_ID, _JOB_ID      ids of the pool and of the job
  _POOL_NODE_COUNT       how many nodes: they cost money, and count against the core quota
  _POOL_VM_SIZE          size of each node, at least two cores
  _TASK_SLOTS_PER_NODE   how many tasks a node runs at a time
  _NODE_OS_PUBLISHER, _NODE_OS_OFFER, _NODE_OS_SKU
                         image of the nodes, an Ubuntu or Debian that Batch supports
  _TUTORIAL_TASK_FILE    script that the tasks run, beside the client
'''

_MOST_NAME_BYTES = 255  # of a file, on the usual file systems


def parse_arguments(default_input_files: list[Path]) -> argparse.Namespace:
    """Reads sys.argv. Ends the process, as argparse does, after --help or for what it cannot read.

    Returns input_files and output_dir, as absolute paths that can be read and written to; numwords; ask, whether to
    put questions to the reader; replace_pool. Raises SettingsError for files and a directory that cannot be used.
    """
    parser = argparse.ArgumentParser(description=_DESCRIPTION, epilog=_SETTINGS,
                                     usage='%(prog)s [options] [input_file ...]',
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('input_files', nargs='*', metavar='input_file', type=_absolute, default=default_input_files,
                        help='text to count, one task each (default: the three in data/)')
    parser.add_argument('--numwords', metavar='N', type=_positive, default=3,
                        help='how many of the most frequent words to show for each file (default: 3)')
    parser.add_argument('--output-dir', metavar='DIR', type=_absolute, default=Path.home(),
                        help='where the results go (default: your home directory)')
    parser.add_argument('--yes', dest='ask', action='store_false', help='answer every question with its default')
    parser.add_argument('--replace-pool', action='store_true',
                        help='delete a pool that an earlier run has kept, and create it anew')
    parser.add_argument('--verbose', action='store_true',
                        help='show the calls to Azure on standard error, without keys and signatures')
    arguments = parser.parse_args()

    log_sdk_calls(arguments.verbose)
    _check_input_files(arguments.input_files)
    _check_output_dir(arguments.output_dir)
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
        if reason := _why_unreadable(path) or _why_no_blob_name(path.name):
            raise SettingsError(f'Input file {path} {reason}.')
        # Where the results go, upper and lower case may be the same.
        name = os.path.normcase(path.name)
        if name in by_name and path.samefile(by_name[name]):
            raise SettingsError(f'Input file {path} is given twice.')
        if name in by_name:
            raise SettingsError(f'Input files {by_name[name]} and {path} have the same name, and would overwrite '
                                'each other in the container: rename one, or leave it out.')
        by_name[name] = path


def _why_unreadable(path: Path) -> str | None:
    try:
        if not path.is_file():
            return 'is not a file' if path.exists() else 'does not exist'
        path.open('rb').close()
    except OSError as error:
        return f'cannot be read: {error.strerror}'
    return None


def _why_no_blob_name(name: str) -> str | None:
    # https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata
    try:
        longest = len(output_name(name).encode())
    except UnicodeEncodeError:
        return 'has a name that is not UTF-8: rename it'
    if longest > _MOST_NAME_BYTES:
        return 'has too long a name for its output, which has "_OUTPUT" in it: rename it'
    if '\\' in name or name.endswith('.') or min(name) < ' ':
        return ('has a name that Storage would change: rename it, without backslashes, control characters, and a '
                'dot at the end')
    return None


def _check_output_dir(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Permissions do not tell everything, a full disk for instance.
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(b'word')
    except OSError as error:
        raise SettingsError(f'Output directory {directory} cannot be written to: {error.strerror}.') from None
