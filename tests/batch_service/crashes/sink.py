"""A place for outputs, which takes its time: like storage, it keeps nothing that does not come whole."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


_BLOCK = 1 << 14


class Sink:
    """The digests of what was uploaded, by its path."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.cut_off = 0
        self.url = ''


@contextmanager
def serving() -> Iterator[Sink]:
    sink = Sink()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            size, content = int(self.headers['Content-Length']), hashlib.sha256()
            try:
                while size and (block := self.rfile.read(min(size, _BLOCK))):
                    size -= len(block)
                    content.update(block)
                    time.sleep(0.002)
                if size == 0:
                    sink.kept[self.path] = content.hexdigest()
                    self.send_response(201)
                    self.send_header('Content-Length', '0')
                    self.end_headers()
                    return
            except ConnectionError:
                pass
            sink.cut_off += size > 0
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the tests' output is not the place."""

    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        # What the buffers between hold comes although its sender was killed: they are to be as small as over a network.
        server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1_400)
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BLOCK)
        sink.url = f'http://127.0.0.1:{server.server_port}'
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield sink
        finally:
            server.shutdown()
            thread.join()
