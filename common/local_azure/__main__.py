"""The local Azure as a command: both services for any Batch client, until it is told to stop."""
from __future__ import annotations

import argparse
import os
import queue
import re
import select
import signal
import stat
import sys
import threading
import webbrowser
from contextlib import suppress
from pathlib import Path
from textwrap import indent

from common.batch_service.settings import add_settings, port, settings_from

from .errors import LocalAzureError
from .server import LocalServer
from .services import start
from .workspace import WORKSPACE_VARIABLE, default_workspace

# What is printed, for a shell; the names are those that the Azure CLI reads.
_SETTINGS = """\
export AZURE_BATCH_ACCOUNT='{0.batch_account_name}'
export AZURE_BATCH_ACCESS_KEY='{0.batch_account_key}'
export AZURE_BATCH_ENDPOINT='{0.batch_account_url}'
export AZURE_STORAGE_ACCOUNT='{0.storage_account_name}'
export AZURE_STORAGE_KEY='{0.storage_account_key}'
export AZURE_STORAGE_SERVICE_ENDPOINT='{0.storage_account_url}'
export AZURE_STORAGE_CONNECTION_STRING='DefaultEndpointsProtocol={protocol};AccountName={0.storage_account_name};\
AccountKey={0.storage_account_key};BlobEndpoint={0.storage_account_url};'
# ready
# To watch pools, nodes, jobs and tasks: {0.page_url}
"""

_HELP_EPILOG = f"""\
Once both services answer, the command prints this, for a shell:

{indent(re.sub("'.*'|{0.page_url}", "'...'", _SETTINGS), '  ')}
{WORKSPACE_VARIABLE} names another default workspace, for the tutorial too. Both services
listen on 127.0.0.1 alone; if your environment names a proxy, add that address to NO_PROXY. To trust the
certificate, set REQUESTS_CA_BUNDLE for Python and the Azure CLI, NODE_EXTRA_CA_CERTS for Node.js.

The exit code is 0 after Ctrl-C, SIGTERM or SIGHUP; 1 if the services could not start, if one of them ended,
or if nobody reads the output any more; 2 for wrong arguments. Linux and macOS only.
"""


def main() -> int:
    """Runs both services in the foreground; see --help."""
    options = _parser().parse_args()
    _stop_on_signals()
    output = sys.stdout.fileno() if sys.stdout else os.open(os.devnull, os.O_WRONLY)
    ended: queue.SimpleQueue[LocalServer | None] = queue.SimpleQueue()
    try:
        with start(options.workspace, batch_port=options.batch_port, blob_port=options.blob_port,
                   cert=options.cert, key=options.key, settings=settings_from(options),
                   verbose=options.verbose, ended=ended) as account:
            protocol = account.storage_account_url.partition(':')[0]
            with suppress(BrokenPipeError):
                # Not with print(): Python would try once more at its end, and complain.
                os.write(output, _SETTINGS.format(account, protocol=protocol).encode())
            if options.open:
                webbrowser.open(account.page_url)
            threading.Thread(target=_watch, args=(output, ended), daemon=True).start()
            if server := ended.get():
                raise LocalAzureError(f'{server.name} has ended: {server.last_words()}')
            raise LocalAzureError('Nobody reads the output any more, so the services are stopped.')
    except (LocalAzureError, OSError) as error:
        print(f'ERROR: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m common.local_azure', epilog=_HELP_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Runs Azure Batch and Azure Storage on this machine, for any Batch client, until Ctrl-C.')
    add = parser.add_argument
    add('--workspace', type=Path, default=default_workspace(), metavar='DIR',
        help='keep state and keys there, for one run at a time (default: %(default)s)')
    add('--batch-port', type=port, default=0, metavar='N', help='the port of the Batch service (default: a free one)')
    add('--blob-port', type=port, default=0, metavar='N', help='the port of the storage service (default: a free one)')
    add('--cert', type=Path, metavar='FILE', help='speak https with this certificate (PEM), which names IP:127.0.0.1')
    add('--key', type=Path, metavar='FILE', help="the certificate's private key (PEM)")
    add('--open', action='store_true', help='open the page to watch in the browser')
    add('--verbose', action='store_true', help='log every request to the Batch service, in batch.log in the workspace')
    add_settings(parser)
    return parser


def _stop_on_signals() -> None:
    # SIGINT even where it came in ignored, as it does for what a shell script runs in the background; but a
    # SIGHUP that nohup has us ignore is not meant for us, and Windows has none.
    hangup = getattr(signal, 'SIGHUP', signal.SIGTERM)
    numbers = {signal.SIGINT, signal.SIGTERM} | ({hangup} if signal.getsignal(hangup) != signal.SIG_IGN else set())

    def stop(*_: object) -> None:
        # A terminal that closes may tell twice, and the second must not cut the stopping short.
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, stop)


def _watch(output: int, ended: queue.SimpleQueue[LocalServer | None]) -> None:
    """Tells when the output is a pipe that nobody reads any more."""
    if stat.S_ISFIFO(os.fstat(output).st_mode):
        poll = select.poll()
        poll.register(output, 0)
        poll.poll()
        ended.put(None)


if __name__ == '__main__':
    sys.exit(main())
