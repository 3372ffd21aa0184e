from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import uvicorn
from uvicorn.server import ServerState

from common.batch_service.wire import connections
from common.batch_service.wire.connections import Connection
from tests.batch_service.workbench import PROJECT, ServiceProcess

SOON = 0.2
READ = b'GET / HTTP/1.1\r\nHost: here\r\n\r\n'
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(autouse=True)
def little_time(monkeypatch) -> None:
    for name in ('IDLE_SECONDS', '_HEAD_SECONDS', '_BODY_SECONDS', '_ANSWER_SECONDS'):
        monkeypatch.setattr(connections, name, SOON)


async def answer(scope, receive, send) -> None:
    """Reads the body of a POST, and answers with 50 MB for the path /large."""
    if scope['method'] == 'POST':
        while (message := await receive()).get('more_body'):
            pass
        if message['type'] == 'http.disconnect':
            return
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    for _ in range(500 if scope['path'] == '/large' else 0):
        await send({'type': 'http.response.body', 'body': b'x' * 100_000, 'more_body': True})
    await send({'type': 'http.response.body', 'body': b''})


def serve(client: Callable[[Callable[[], Awaitable[Streams]]], Awaitable[None]], most: int = 10,
          is_over: bool = False) -> None:
    """Runs a client, which is given a way to connect."""
    async def main() -> None:
        state, config = ServerState(), uvicorn.Config(answer, log_config=None, timeout_keep_alive=1000)
        make = partial(Connection, config=config, server_state=state, app_state={}, waiting={}, most=most,
                       is_over=lambda: is_over)
        server = await asyncio.get_running_loop().create_server(make, '127.0.0.1', 0)
        await asyncio.wait_for(client(partial(asyncio.open_connection, *server.sockets[0].getsockname())), 20)
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.sleep(0.05)
        assert not state.connections
    asyncio.run(main())


async def is_ended(reader: asyncio.StreamReader) -> bool:
    try:
        while await reader.read(1 << 20):
            pass
    except ConnectionResetError:
        pass
    return True


def test_connection_that_comes_while_the_service_ends_is_ended_without_an_answer() -> None:
    async def client(connect: Callable[[], Awaitable[Streams]]) -> None:
        reader, writer = await connect()
        writer.write(READ)
        with suppress(ConnectionResetError):
            assert await reader.read() == b''
        writer.close()
    serve(client, is_over=True)


@pytest.mark.parametrize('sent', [
    b'', b'GET /', READ[:-2], READ, READ + b'GET', b'POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\n1234',
    b'GET / HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\n1234'])
def test_connection_that_goes_on_with_nothing_is_ended(sent: bytes) -> None:
    async def client(connect) -> None:
        reader, writer = await connect()
        writer.write(sent)
        began = time.monotonic()
        assert await is_ended(reader)
        assert time.monotonic() - began >= SOON * 0.9
        writer.close()
    serve(client)


def test_head_that_comes_byte_by_byte_is_not_waited_for() -> None:
    async def client(connect) -> None:
        reader, writer = await connect()
        ended = asyncio.create_task(is_ended(reader))
        while not ended.done():
            writer.write(b'G')
            await asyncio.sleep(SOON / 10)
        writer.close()
    serve(client)


def test_body_that_goes_on_is_waited_for() -> None:
    async def client(connect) -> None:
        reader, writer = await connect()
        writer.write(b'POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 8\r\n\r\n')
        for _ in range(8):
            await asyncio.sleep(SOON / 2)
            writer.write(b'1')
        assert (await reader.readline()).startswith(b'HTTP/1.1 200')
        writer.close()
    serve(client)


def test_answer_that_nobody_takes_is_given_up() -> None:
    async def client(connect) -> None:
        reader, writer = await connect()
        writer.write(READ.replace(b'/ ', b'/large '))
        await asyncio.sleep(SOON * 5)
        assert await is_ended(reader)
        assert len(reader._buffer) < 50_000_000
        writer.close()
    serve(client)


def test_newest_connection_takes_the_place_of_the_one_that_has_waited_longest(monkeypatch) -> None:
    monkeypatch.setattr(connections, 'IDLE_SECONDS', 20)
    monkeypatch.setattr(connections, '_HEAD_SECONDS', 20)

    async def client(connect) -> None:
        first, second = await connect(), await connect()
        first[1].write(READ)
        await first[0].readuntil(b'0\r\n\r\n')
        third = await connect()
        assert await is_ended(second[0])
        third[1].write(READ)
        assert (await third[0].readline()).startswith(b'HTTP/1.1 200')
        first[1].write(READ)
        assert (await first[0].readline()).startswith(b'HTTP/1.1 200')
        for _, writer in (first, second, third):
            writer.close()
    serve(client, most=2)


@pytest.mark.parametrize('sent', [
    READ + b'\0\0\r\n\r\n', b'POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n',
    b'GET / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n', b'\x16\x03\x01' * 50])
def test_what_is_no_http_leaves_no_trace_in_the_log(sent: bytes, caplog) -> None:
    async def client(connect) -> None:
        for pause in (0, SOON / 4):
            reader, writer = await connect()
            for part in (sent[:-8], sent[-8:]):
                writer.write(part)
                await asyncio.sleep(pause)
            assert await is_ended(reader)
            writer.close()
    with caplog.at_level(logging.ERROR):
        serve(client)
    assert caplog.records == []


def test_log_has_a_line_a_minute_where_there_are_no_more_descriptors(caplog) -> None:
    handle = connections.tell_shortly()
    for moment in (1, 2, 60, 61, 62):
        handle(SimpleNamespace(time=lambda: moment), {
            'message': 'socket.accept() out of system resource', 'exception': OSError(24, 'Too many open files')})
    assert caplog.messages == ['No new connection can be taken: Too many open files'] * 2


def test_limit_of_descriptors_is_raised_and_leaves_some_for_the_rest() -> None:
    program = ('import resource; from common.batch_service.wire.connections import most_connections\n'
               'resource.setrlimit(resource.RLIMIT_NOFILE, (100, 1024)); print(most_connections(),'
               'resource.getrlimit(resource.RLIMIT_NOFILE))')
    done = subprocess.run([sys.executable, '-c', program], cwd=PROJECT, capture_output=True, text=True, timeout=20)
    assert done.stdout == '820 (1024, 1024)\n'


class ShortOfDescriptors(ServiceProcess):
    prefix = ['/bin/sh', '-c', 'ulimit -n 256 && exec "$@"', 'sh']


def test_more_idle_connections_than_descriptors_keep_nobody_from_being_served(tmp_path: Path) -> None:
    log = tmp_path / 'log'
    with open(log, 'w') as stderr:
        service = ShortOfDescriptors(tmp_path, stderr=stderr)

        async def idle() -> None:
            address = urlsplit(service.url)
            opened = [await asyncio.open_connection(address.hostname, address.port) for _ in range(600)]
            pools = await asyncio.to_thread(lambda: list(service.client().pool.list()))
            assert pools == []
            for _, writer in opened:
                writer.close()
        asyncio.run(asyncio.wait_for(idle(), 60))
        assert service.stop() == 0
    assert log.read_text() == ''
