"""The command line of the local Batch service: its address and its workspace; it starts and stops cleanly."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sqlite3
import sys
import threading
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn

from .page import Page
from .run.inheritance import keep_from_tasks
from .server import Server
from .service import BatchService
from .settings import PAGE_TOKEN_VARIABLE, add_settings, port, settings_from
from .store import StoreError
from .wire.auth import SharedKey
from .wire.connections import ACCEPTED_AT_ONCE, Connection, most_connections, tell_shortly

_HOST = '127.0.0.1'
_BACKLOG = 1024
_REFUSAL_SECONDS = 1.0  # that a client has for taking it


def main() -> int:
    """Serves until SIGINT or SIGTERM; the exit code says whether it could."""
    options = _parser().parse_args()
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING,
                        format='%(asctime)s %(levelname)s %(message)s')
    keep_from_tasks()
    page_token = os.environ.pop(PAGE_TOKEN_VARIABLE, '')  # before a process is started that would have it, too
    try:
        shared_key = SharedKey(options.account, options.key_file.read_text().strip())
        listener = _listen(options.port)
        asyncio.run(_serve(options, shared_key, page_token, listener))
    except (OSError, ValueError, StoreError) as error:
        print(f'The Batch service cannot start: {error}', file=sys.stderr)
        return 1
    except sqlite3.Error as error:
        print(f'The Batch service cannot use the database in {options.workspace}: {error}', file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='python -m common.batch_service', description=__doc__)
    parser.add_argument('--workspace', type=Path, required=True, help='the directory that keeps the state')
    parser.add_argument('--account', required=True, help='the name of the Batch account')
    parser.add_argument('--key-file', type=Path, required=True, help="a file with the account's key, base64")
    parser.add_argument('--port', type=port, default=0, help='0, the default, takes a free one')
    parser.add_argument('--cert', type=Path, help='a certificate (PEM), to speak https')
    parser.add_argument('--key', type=Path, help="the certificate's private key (PEM)")
    parser.add_argument('--exit-with-stdin', action='store_true', help='stop at the end of standard input')
    parser.add_argument('--verbose', action='store_true', help='log every request')
    add_settings(parser)
    return parser


def _listen(port: int) -> socket.socket:
    # With the protocol named, asyncio switches off Nagle's algorithm, which would delay answers by 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, port))
    except OSError as error:
        raise OSError(f'port {port} on {_HOST} cannot be used: {error.strerror}') from error
    listener.listen(_BACKLOG)
    return listener


async def _serve(options: argparse.Namespace, shared_key: SharedKey, page_token: str,
                 listener: socket.socket) -> None:
    scheme = 'https' if options.cert else 'http'
    url = f'{scheme}://{_HOST}:{listener.getsockname()[1]}'
    service = BatchService(options.workspace / 'batch', options.account, url, settings_from(options), options.cert)
    application = Page(service, Server(service, shared_key), page_token)
    config = uvicorn.Config(application, loop='asyncio', lifespan='off', log_config=None,
                            http=partial(Connection, waiting={}, most=most_connections(),
                                         is_over=lambda: server.should_exit),
                            # Anybody can send what is no HTTP: no line of the log for it.
                            log_level=logging.ERROR, backlog=ACCEPTED_AT_ONCE,
                            access_log=False, server_header=False, date_header=False, proxy_headers=False,
                            ssl_certfile=options.cert, ssl_keyfile=options.key)
    asyncio.get_running_loop().set_exception_handler(tell_shortly())
    server = _PromptServer(config)
    service.start()
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn puts its own handlers in these places, and raises the signal again when it has stopped.
        signal.signal(number, server.handle_exit)
    if options.exit_with_stdin:
        threading.Thread(target=_stop_at_end_of_input, args=[server], daemon=True).start()
    print(f'Batch service listens on {url}', flush=True)
    try:
        await server.serve([listener])
    finally:
        await service.stop()


class _PromptServer(uvicorn.Server):
    """Stops at once when it is told to; uvicorn's own looks ten times a second, and waits for idle connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._loop = asyncio.get_running_loop()
        self._told = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            # How many wait to be accepted; uvicorn's backlog stands for how many are accepted at once, too.
            listener.listen(_BACKLOG)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.should_exit = self.force_exit = True
        self._loop.call_soon_threadsafe(self._told.set)

    async def main_loop(self) -> None:
        await self._told.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Has the requests that are still being answered be refused; uvicorn's own waits for them, and for nothing."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        requests = list(self.server_state.tasks)
        for request in requests:
            request.cancel()
        if requests:
            await asyncio.wait(requests, timeout=_REFUSAL_SECONDS)


def _stop_at_end_of_input(server: _PromptServer) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    # Not by a signal: one that comes just before the event loop begins to wait would not wake it.
    server.handle_exit(signal.SIGTERM, None)


if __name__ == '__main__':
    sys.exit(main())
