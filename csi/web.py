"""`/metrics` and `/healthz` over HTTP, for Prometheus and probes."""

from __future__ import annotations

import json
import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from resultsfs.errors import InvalidSetting

log = logging.getLogger(__name__)

Health = Callable[[], tuple[bool, dict[str, str]]]
"""Whether a process is in order, and what it says of each of its parts."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """As the class above, without asking the DNS for our own name."""
        if self.address_family == socket.AF_INET6 and not self.server_address[0]:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "resultsfs", int(self.server_address[1])
        self.setup_environ()


class _BothServer(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 10  # seconds for a slow client

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


class Web:
    """Serves on `address` (`:9810`, `127.0.0.1:0`, …) from threads of its own. Raises InvalidSetting, OSError."""

    def __init__(self, address: str, registry: CollectorRegistry, health: Health) -> None:
        host, _, port = address.rpartition(":")
        if not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise InvalidSetting(f"address {address!r}: expected [host]:port, for example :9810")
        metrics = make_wsgi_app(registry)

        def answer(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
            path = environ["PATH_INFO"]
            if path == "/metrics":
                found: Iterable[bytes] = metrics(environ, start)
                return found
            if path != "/healthz":
                start("404 Not Found", [("Content-Type", "text/plain")])
                return [b"/metrics and /healthz are here\n"]
            good, parts = health()
            start("200 OK" if good else "503 Service Unavailable", [("Content-Type", "application/json")])
            return [json.dumps({"ok": good, **parts}).encode() + b"\n"]

        host = host.strip("[]")
        both = ":" in host or (not host and socket.has_dualstack_ipv6())
        kind = _BothServer if both else _Server
        self._server = make_server(host, int(port), answer, kind, _Handler)
        self.port: int = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
