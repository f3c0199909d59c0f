"""Two listeners in one event loop: HTTPS for webhooks and the HTTP API, HTTP for probes and metrics."""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import logging
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from controller.kube.resources import Tree
from controller.metrics import Metrics

DRAIN = 5.0
"""Seconds for which a replica that is to stop still answers: the Service takes a while to forget it."""
GRACE = 30
"""Seconds for which answers that are under way may go on after that."""
_log = logging.getLogger(__name__)

# Each TLS connection has a buffer of this size from its beginning, and an API server opens one for each request of a
# burst: with the default of 256 KiB two hundred of them take 50 MB.
asyncio.sslproto.SSLProtocol.max_size = 32 << 10


class _Server(uvicorn.Server):
    """A server whose end is decided by its owner, not by signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the process's signals alone."""
        yield


class Servers:
    """Serves until `stop` was called or SIGTERM came. `store` says whether the store answers, and may take seconds."""

    def __init__(
        self, metrics: Metrics, ready: Callable[[], str], store: Callable[[], Tree], drain: float = DRAIN
    ) -> None:
        self._metrics = metrics
        self._ready = ready
        self._store = store
        self._drain = drain
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Begin to end: not ready any more, closed after a while."""
        self._stopping.set()

    async def run(
        self,
        app: Starlette,
        context: ssl.SSLContext,
        https: socket.socket,
        http: socket.socket,
        *others: Callable[[asyncio.Event], Awaitable[None]],
    ) -> None:
        """Serve; `others` run alongside and end when the event is set. A failure of any ends all."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        servers = [(_server(app, context), https), (_server(self._probes(), None), http)]
        tasks = [asyncio.create_task(server.serve(sockets=[listener])) for server, listener in servers]
        tasks += [asyncio.ensure_future(other(self._stopping)) for other in others]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
            if stopping in done:
                _log.info("stopping: answering for %s s more", self._drain)
                await asyncio.sleep(self._drain)
            self._stopping.set()
        finally:
            for server, _ in servers:
                server.should_exit = True
            stopping.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _probes(self) -> Starlette:
        async def healthy(request: Request) -> Response:
            return PlainTextResponse("ok\n")

        async def ready(request: Request) -> Response:
            problem = "stopping" if self._stopping.is_set() else self._ready()
            return PlainTextResponse(f"{problem or 'ok'}\n", 503 if problem else 200)

        async def metrics(request: Request) -> Response:
            return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

        async def store(request: Request) -> Response:
            return JSONResponse(await asyncio.to_thread(self._store))

        return Starlette(
            routes=[
                Route("/healthz", healthy),
                Route("/readyz", ready),
                Route("/metrics", metrics),
                Route("/store", store),
            ],
        )


def _server(app: Starlette, context: ssl.SSLContext | None) -> _Server:
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        timeout_keep_alive=75,
        backlog=512,
    )
    config.load()
    config.ssl = context
    return _Server(config)


def listen(address: str) -> socket.socket:
    """A listening socket for `host:port` or `:port` (all addresses). Raises OSError."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if host:
        listener = socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    elif socket.has_dualstack_ipv6():
        listener = socket.create_server(("", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
    else:
        listener = socket.create_server(("", int(port)))
    # Connections inherit it. asyncio would set it only on sockets made with the protocol's number, and without it an
    # answer in two pieces waits 40 ms for the caller's acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
