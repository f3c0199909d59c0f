"""An HTTP proxy between a client and the S3 server that breaks what a test tells it to break."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from resultsfs.settings import Settings
from tests.support.s3server import S3Server

_PIECE = 64 << 10
_WAIT_SECONDS = 60.0


class Kind(Enum):
    """What goes wrong."""

    RESET = auto()
    """The connection is reset as soon as the request's head has come."""
    HANG = auto()
    """Neither is the body read nor an answer given."""
    SLOW = auto()
    """Bytes pass at `rate` bytes a second, both ways."""
    CUT = auto()
    """The connection is reset after `after` bytes of the request's body."""
    ANSWER = auto()
    """The server is not asked; the answer is `status` with an S3 error `code`."""
    CORRUPT = auto()
    """The last byte of the answer's body is another one."""
    SHORT = auto()
    """The connection is reset before the last `after` bytes of the answer's body."""
    LOSE_ANSWER = auto()
    """The server carries the request out; its answer is lost with the connection."""


@dataclass(frozen=True)
class Fault:
    """What happens to requests of `method` whose path and query contain `match`, for the first `times` of them.

    With `in_range` only to those whose header Range is that.
    """

    kind: Kind
    method: str = ""
    match: str = ""
    in_range: str = ""
    times: int = 1 << 30
    status: int = 503
    code: str = "ServiceUnavailable"
    after: int = 0
    rate: int = 1 << 20


@dataclass(frozen=True)
class Request:
    """What a client asked for: `path` with its query, `headers` by lower-case names."""

    method: str
    path: str
    headers: dict[str, str]


class FaultProxy:
    """A running proxy. Set `fault` to break requests, None to let them pass."""

    def __init__(self, server: S3Server) -> None:
        self._server = server
        self.upstream = server.endpoint.removeprefix("http://")
        self._changed = threading.Condition()
        self._fault: Fault | None = None
        self._hits = 0
        self.answered = 0
        """How many requests were answered."""
        self._closing = False
        self._seen: list[Request] = []
        self._sockets: set[socket.socket] = set()
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.proxy = self
        self.endpoint = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), name="fault-proxy")
        self._thread.start()

    def settings(self, **more: Any) -> Settings:
        """Settings of a store in a new bucket behind the proxy: quick to give up unless `more` says otherwise."""
        return self._server.settings(
            **{"s3_endpoint": self.endpoint, "store_timeout": 30.0, "store_retries": 2, **more}
        )

    @property
    def fault(self) -> Fault | None:
        """What happens now."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        with self._changed:
            self._fault = fault
            self._hits = 0
            self._changed.notify_all()

    @property
    def seen(self) -> list[Request]:
        """All requests so far."""
        with self._changed:
            return list(self._seen)

    @property
    def hits(self) -> int:
        """How many requests the present fault has met."""
        return self._hits

    def wait_for_hits(self, count: int) -> None:
        """Wait until the present fault has met that many requests."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._hits >= count, _WAIT_SECONDS), f"{self._hits} of {count}"

    def take(self, request: Request) -> Fault | None:
        """The fault that this request meets."""
        method, path = request.method, request.path
        with self._changed:
            self._seen.append(request)
            fault = self._fault
            if fault is None or self._hits >= fault.times:
                return None
            if fault.method not in ("", method) or fault.match not in path:
                return None
            if fault.in_range not in ("", request.headers.get("range")):
                return None
            self._hits += 1
            self._changed.notify_all()
            return fault

    def count_answer(self) -> None:
        """The server has answered a request; the client will hear of it."""
        with self._changed:
            self.answered += 1

    def hold(self, fault: Fault, seconds: float | None = None) -> None:
        """Wait while that fault is set."""
        with self._changed:
            self._changed.wait_for(lambda: self._fault is not fault or self._closing, seconds)

    def connected(self, connection: socket.socket, present: bool) -> None:
        """Keep account of connections, so that none outlives the proxy."""
        with self._changed:
            (self._sockets.add if present else self._sockets.discard)(connection)

    def close(self) -> None:
        """End all connections and threads."""
        with self._changed:
            self._closing = True
            self._fault = None
            self._changed.notify_all()
        self._http.shutdown()
        with self._changed:
            for connection in self._sockets:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the client was first
        self._http.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # joined by server_close
    request_queue_size = 64
    proxy: FaultProxy

    def server_bind(self) -> None:
        # Small, and inherited by connections: how much a slow server takes in advance.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE)
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client or a fault ended the connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.proxy.connected(self.connection, True)

    def finish(self) -> None:
        self.server.proxy.connected(self.connection, False)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def handle_expect_100(self) -> bool:
        """Answered when the body is wanted."""
        return True

    def _relay(self) -> None:
        proxy = self.server.proxy
        fault = proxy.take(Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        kind = fault.kind if fault else None
        if fault and kind is Kind.HANG:
            proxy.hold(fault)  # until the test takes the fault away: then the connection is lost
            self._reset()
            return
        if kind is Kind.RESET:
            self._reset()
            return
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(http.client.CONTINUE)
            self.end_headers()
        length = int(self.headers.get("Content-Length", 0))
        if fault and kind is Kind.CUT:
            self.rfile.read(min(fault.after, length))
            self._reset()
            return
        if fault and kind is Kind.ANSWER:
            self.rfile.read(length)
            self._refuse(fault)
            return
        upstream = http.client.HTTPConnection(proxy.upstream, timeout=_WAIT_SECONDS)
        try:
            self._forward(upstream, length, fault)
            response = upstream.getresponse()
            proxy.count_answer()
            self._answer(response, fault)
        finally:
            upstream.close()

    def _forward(self, upstream: http.client.HTTPConnection, length: int, fault: Fault | None) -> None:
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("expect", "connection"):
                upstream.putheader(name, value)
        upstream.endheaders()
        while length:
            piece = self.rfile.read(min(self._size(fault), length))
            if not piece:
                raise ConnectionError("the client went in mid-body")
            self._delay(fault, len(piece))
            upstream.send(piece)
            length -= len(piece)

    def _answer(self, response: http.client.HTTPResponse, fault: Fault | None) -> None:
        kind = fault.kind if fault else None
        if kind is Kind.LOSE_ANSWER:
            response.read()
            self._reset()
            return
        body = b"" if self.command == "HEAD" else response.read()
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = response.getheader("Content-Length") if self.command == "HEAD" else str(len(body))
        if length is not None:
            self.send_header("Content-Length", length)
        self.end_headers()
        if kind is Kind.CORRUPT and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        if fault and kind is Kind.SHORT:
            body = body[: max(0, len(body) - fault.after)]
        for start in range(0, len(body), self._size(fault)):
            piece = body[start : start + self._size(fault)]
            self._delay(fault, len(piece))
            self.wfile.write(piece)
        if kind is Kind.SHORT:
            self.wfile.flush()
            self.close_connection = True

    def _size(self, fault: Fault | None) -> int:
        return max(1, fault.rate // 50) if fault and fault.kind is Kind.SLOW else _PIECE

    def _delay(self, fault: Fault | None, count: int) -> None:
        if fault and fault.kind is Kind.SLOW:
            self.server.proxy.hold(fault, count / fault.rate)

    def _refuse(self, fault: Fault) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>told to</Message></Error>".encode()
        body = b"" if self.command == "HEAD" else body
        self.send_response_only(fault.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _relay


@pytest.fixture
def fault_proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    """A proxy in front of the S3 server, gone with its threads after the test."""
    proxy = FaultProxy(s3_server)
    try:
        yield proxy
    finally:
        proxy.close()
