"""A service that answers what a test wants, and remembers what it was asked."""
from __future__ import annotations

import datetime
import ipaddress
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass
class Answer:
    status: int = 200
    body: str = '{"value": []}'
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class StandIn:
    """Answers every request with what answer() says; requests holds those that came, in order."""

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.url = ''


@contextmanager
def stand_in(answer: Answer | Callable[[Request], Answer] = Answer(),
             certificate: tuple[Path, Path] | None = None) -> Iterator[StandIn]:
    """Runs the service on 127.0.0.1; on https with the files of a certificate and its key."""
    service = StandIn(answer if callable(answer) else lambda _: answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
            request = Request(self.command, self.path, dict(self.headers), body)
            service.requests.append(request)
            answered = service.answer(request)
            content = b'' if self.command == 'HEAD' else answered.body.encode()
            self.send_response_only(answered.status)
            headers = {'Date': self.date_time_string(), 'Content-Type': 'application/json',
                       'Content-Length': str(len(content)), **answered.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            # A client may hang up. For a traceback, Python 3.11 parses source, and fails if another thread does so too,
            # as Hypothesis may while it imports more of itself: https://github.com/python/cpython/issues/106905
            if not isinstance(sys.exc_info()[1], ConnectionError):
                super().handle_error(request, client_address)

    with Server(('127.0.0.1', 0), Handler) as server:
        scheme = 'http'
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            scheme = 'https'
        service.url = f'{scheme}://127.0.0.1:{server.server_port}'
        thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.02})
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Makes a self-signed certificate for 127.0.0.1; returns its file and that of its key."""
    private_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, '127.0.0.1')])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.IPv4Address('127.0.0.1'))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(private_key, hashes.SHA256()))
    cert_file, key_file = directory / 'cert.pem', directory / 'key.pem'
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return cert_file, key_file
