"""A TCP relay that can fall silent: connections stay open, and nothing comes any more."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Connection:
    def __init__(self, near: socket.socket, far: socket.socket, passes: bool) -> None:
        self.passes = threading.Event()
        if passes:
            self.passes.set()
        self._sockets = near, far
        self.threads = [
            threading.Thread(target=self._pump, args=ends, name="relay") for ends in ((near, far), (far, near))
        ]

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                self.passes.wait()
                sink.sendall(data)
        except OSError:
            pass  # one of the two ends is gone
        self.end()

    def end(self) -> None:
        """Let both ends know, also of a connection that is silent."""
        self.passes.set()
        for end in self._sockets:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # it was first

    def close(self) -> None:
        """Nothing of it is left."""
        self.end()
        for thread in self.threads:
            thread.join()
        for end in self._sockets:
            end.close()


class Relay:
    """Listens on `port` of this machine and passes everything to another port of it."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []
        self._silent = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="relay")
        self._thread.start()

    def fall_silent(self, *, for_new_ones: bool) -> None:
        """Nothing passes any more on what is open; on new connections only where it is said."""
        with self._lock:
            self._silent = for_new_ones
            for connection in self._connections:
                connection.passes.clear()

    def speak(self) -> None:
        """Everything passes again, and first what has waited."""
        with self._lock:
            self._silent = False
            for connection in self._connections:
                connection.passes.set()

    def close(self) -> None:
        """End all connections and threads."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed
            try:
                far = socket.create_connection(("127.0.0.1", self._to), timeout=10)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            with self._lock:
                connection = _Connection(near, far, not self._silent)
                self._connections.append(connection)
            for thread in connection.threads:
                thread.start()


@contextmanager
def relaying(to: int) -> Iterator[Relay]:
    """A relay to a port of this machine, gone afterwards."""
    relay = Relay(to)
    try:
        yield relay
    finally:
        relay.close()
