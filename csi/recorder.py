"""Events for people who look at a pod or its TaskRun: `kubectl describe`. Rate-limited, and never waited for.

An Event's name is made of what it says, so that a restarted mounter counts it up instead of writing it once more.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prometheus_client import Counter

from csi.api import Api, ApiError
from csi.names import DRIVER
from resultsfs.events import Event

log = logging.getLogger(__name__)

_QUEUED = 1000
_BURST = 25
"""Events that one pod may have at once; as in client-go's recorder."""
_REFILL = 30.0
"""Seconds until one pod may have one more."""
_POD_BUDGETS = 2000
_MESSAGE = 1024
"""Bytes of an Event's message that Kubernetes takes."""
_CONFLICT = 409


@dataclass(frozen=True, slots=True)
class Regarding:
    """What an Event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


class Recorder:
    """Writes Events on a thread of its own. `outcomes` counts what became of them; `clock` says seconds."""

    def __init__(self, api: Api, node: str, outcomes: Counter, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._node = node
        self._outcomes = outcomes
        self._clock = clock
        self._queue: queue.Queue[tuple[Event, Callable[[], list[Regarding]]] | None] = queue.Queue(_QUEUED)
        self._budgets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # by uid: Events left, as of when
        self._thread = threading.Thread(target=self._work, name="events", daemon=True)
        self._thread.start()

    def record(self, event: Event, regarding: Callable[[], list[Regarding]]) -> None:
        """Write an Event about each object that `regarding()`, asked on the recorder's thread, names."""
        try:
            self._queue.put_nowait((event, regarding))
        except queue.Full:
            self._count("dropped")

    def close(self, seconds: float = 5.0) -> None:
        """Write what is queued, for so long at most."""
        try:
            self._queue.put(None, timeout=seconds)
        except queue.Full:
            log.warning("%d Events were not written", self._queue.qsize())
            return
        self._thread.join(seconds)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            event, regarding = job
            try:
                for about in regarding():
                    if not self._allowed(about.uid or about.name):
                        self._count("limited")
                        continue
                    self._write(event, about)
                    self._count("sent")
            except ApiError as error:
                self._count("failed")
                log.warning("an Event was not written: %s", error)
            except Exception:
                self._count("failed")
                log.exception("an Event was not written")

    def _count(self, outcome: str) -> None:
        self._outcomes.labels(outcome).inc()

    def _allowed(self, uid: str) -> bool:
        now = self._clock()
        left, since = self._budgets.pop(uid, (float(_BURST), now))
        left = min(_BURST, left + (now - since) / _REFILL)
        self._budgets[uid] = (left - 1 if left >= 1 else left, now)
        if len(self._budgets) > _POD_BUDGETS:
            self._budgets.popitem(last=False)
        return left >= 1

    def _write(self, event: Event, about: Regarding) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = _body(event, about, self._node, now)
        name = body["metadata"]["name"]
        try:
            self._api.create_event(about.namespace, body)
        except ApiError as error:
            if error.status != _CONFLICT:
                raise
            # two patches, not a get and a patch: the service account needs one right less
            known = self._api.patch_event(about.namespace, name, {"lastTimestamp": now})
            self._api.patch_event(about.namespace, name, {"count": int(known.get("count") or 1) + 1})


def _body(event: Event, about: Regarding, node: str, now: str) -> dict[str, Any]:
    message = event.message.encode()
    if len(message) > _MESSAGE:
        message = message[: _MESSAGE - 3].decode(errors="ignore").encode() + "…".encode()
    said = "\0".join((about.kind, about.uid, event.reason, event.result or "", event.message))
    digest = hashlib.sha256(said.encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{about.name[:200]}.{digest}", "namespace": about.namespace},
        "involvedObject": {
            "apiVersion": about.api_version,
            "kind": about.kind,
            "namespace": about.namespace,
            "name": about.name,
            **({"uid": about.uid} if about.uid else {}),
        },
        "reason": event.reason,
        "message": message.decode(),
        "type": "Warning" if event.warning else "Normal",
        "source": {"component": DRIVER, "host": node},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
