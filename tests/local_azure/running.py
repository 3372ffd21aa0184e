"""The local Azure running, as a command or with stand-ins for its services, and what is in its accounts."""
from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from azure.batch import BatchServiceClient
from azure.batch.batch_auth import SharedKeyCredentials
from azure.storage.blob import BlobServiceClient

from common.local_azure import LocalAzure

PROJECT = Path(__file__).resolve().parents[2]
VARIABLES = ['AZURE_BATCH_ACCOUNT', 'AZURE_BATCH_ACCESS_KEY', 'AZURE_BATCH_ENDPOINT', 'AZURE_STORAGE_ACCOUNT',
             'AZURE_STORAGE_KEY', 'AZURE_STORAGE_SERVICE_ENDPOINT', 'AZURE_STORAGE_CONNECTION_STRING']

# In place of a service: it is up within a tenth of a second.
STAND_IN = '''
require("fs").writeFileSync("environment.json", JSON.stringify(process.env));
const server = require("http").createServer((request, response) => response.end());
const port = Number(process.argv[process.argv.indexOf("--blobPort") + 1]);
server.listen(port, "127.0.0.1", () => {
  console.log(`Stand-in listens on http://127.0.0.1:${server.address().port}`);
});
process.once("SIGTERM", () => server.close());
'''

_WITH_STAND_INS = '''
import sys
from pathlib import Path
from common.local_azure import __main__, azurite, services
storage, batch = map(Path, sys.argv[1:3])
del sys.argv[1:3]
azurite.install = lambda: storage
if batch.is_absolute():
    services._batch_command = lambda *_: azurite.command(batch, Path(), 0, None, None)
    services._PROJECT = batch.parent
sys.exit(__main__.main())
'''


@contextmanager
def command(workspace: Path, *options: str, storage: Path | None = None, batch: Path = Path('real'),
            before: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """The door as a command, in a process group of its own as a shell would have it; with scripts for services."""
    start = ['-c', _WITH_STAND_INS, str(storage), str(batch)] if storage else ['-m', 'common.local_azure']
    with subprocess.Popen([*before, sys.executable, *start, '--workspace', str(workspace), *options],
                          cwd=PROJECT, env={**os.environ, 'PYTHONPATH': str(PROJECT)}, start_new_session=True,
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until_ready(process: subprocess.Popen[str]) -> list[str]:
    lines = []
    for line in process.stdout:
        if line == '# ready\n':
            return lines
        lines.append(line.rstrip('\n'))
    pytest.fail(process.stderr.read())


def variables_in(lines: list[str]) -> dict[str, str]:
    """What a shell takes from export lines."""
    return dict(shlex.split(line)[1].split('=', 1) for line in lines)


def make_container(name: str, variables: dict[str, str]) -> None:
    with BlobServiceClient.from_connection_string(
            variables['AZURE_STORAGE_CONNECTION_STRING'], retry_total=0) as client:
        client.create_container(name).close()


def containers_of(account: LocalAzure) -> list[str]:
    with BlobServiceClient(account.storage_account_url, retry_total=0, credential={
            'account_name': account.storage_account_name, 'account_key': account.storage_account_key}) as client:
        return [container.name for container in client.list_containers()]


def pools_of(account: LocalAzure) -> list[str]:
    credentials = SharedKeyCredentials(account.batch_account_name, account.batch_account_key)
    with BatchServiceClient(credentials, batch_url=account.batch_account_url) as client:
        client.config.retry_policy.retries = 0
        return [pool.id for pool in client.pool.list()]
