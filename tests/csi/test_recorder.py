"""Events are limited by the pod, so that none of them keeps the API server busy."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from csi.api import Access, Api
from csi.metrics import DriverMetrics
from csi.recorder import Recorder, Regarding
from resultsfs.events import Event
from tests.support.waiting import eventually


class Taking(BaseHTTPRequestHandler):
    """Says that every Event was created; keeps the UIDs that they are about."""

    uids: Counter[str]

    def do_POST(self) -> None:
        """Create an Event."""
        tree = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.uids[tree["involvedObject"]["uid"]] += 1
        self.send_response(201)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class Told:
    """A recorder with a clock that is set, what it counted and what reached the API."""

    def __init__(self, server: str, uids: Counter[str]) -> None:
        self.now = 1000.0
        self.uids = uids
        self._api = Api(Access(server))
        self._metrics = DriverMetrics()
        self._recorded = 0
        self._recorder = Recorder(self._api, "node-1", self._metrics.events, lambda: self.now)

    def record(self, uid: str, count: int) -> None:
        """Record so many different Events about a pod, and wait until it is known what became of them."""
        about = [Regarding("v1", "Pod", "team-a", f"pod-{uid}", uid)]
        for _ in range(count):
            self._recorded += 1
            self._recorder.record(Event("ResultTooLarge", f"number {self._recorded}"), lambda: about)
        eventually(lambda: sum(map(self.count, ("sent", "limited", "failed", "dropped"))) == self._recorded)

    def count(self, outcome: str) -> int:
        """How many Events came to this."""
        value = self._metrics.registry.get_sample_value("resultsfs_events_total", {"outcome": outcome})
        assert value is not None
        return int(value)

    def close(self) -> None:
        """End it."""
        self._recorder.close()
        self._api.close()


@pytest.fixture
def told() -> Iterator[Told]:
    """A recorder and the API that it writes to."""
    uids: Counter[str] = Counter()
    handler = type("Handler", (Taking,), {"uids": uids})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        found = Told(f"http://127.0.0.1:{server.server_port}", uids)
        try:
            yield found
        finally:
            found.close()
            server.shutdown()
            thread.join()


def test_events_are_limited_by_the_pod(told: Told) -> None:
    """A pod has 25 Events at once and then one in 30 seconds; what is more is counted as limited and never sent. Another pod
    has its own, and a long silence brings 25 again, not more."""
    told.record("one", 30)
    assert (told.count("sent"), told.count("limited"), told.uids["one"]) == (25, 5, 25)
    told.record("two", 2)
    assert (told.count("sent"), told.count("limited"), told.uids["two"]) == (27, 5, 2)
    told.now += 29
    told.record("one", 1)
    assert (told.uids["one"], told.count("limited")) == (25, 6)
    told.now += 2
    told.record("one", 2)
    assert (told.uids["one"], told.count("limited")) == (26, 7)
    told.now += 100_000
    told.record("one", 26)
    assert (told.uids["one"], told.count("limited")) == (51, 8)
    assert told.count("failed") == told.count("dropped") == 0
