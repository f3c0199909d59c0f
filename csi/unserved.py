"""Volumes that are published and that nobody serves: steps that touch their results wait, and have to be told why."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from csi.metrics import DriverMetrics
from resultsfs.events import Event
from resultsfs.record import VolumeRecord

log = logging.getLogger(__name__)

PATIENCE = 20.0
"""Seconds for which a volume may be without a server before its pod is told: a restart takes less."""

Tell = Callable[[VolumeRecord, Event], None]


class Unserved:
    """Told of the state of things every few seconds; says it by a metric at once, by one Event an outage after a while."""

    def __init__(self, node: str, metrics: DriverMetrics, tell: Tell, patience: float = PATIENCE) -> None:
        self._node = node
        self._metrics = metrics
        self._tell = tell
        self._patience = patience
        self._since: dict[str, float] = {}
        self._told: set[str] = set()

    def seen(self, published: Iterable[VolumeRecord], served: frozenset[str]) -> None:
        """Which volumes there are, and the ids of those that somebody serves."""
        now, without = time.monotonic(), set()
        for record in published:
            volume_id = record.volume_id
            if volume_id not in served:
                without.add(volume_id)
                if now - self._since.setdefault(volume_id, now) >= self._patience and volume_id not in self._told:
                    self._told.add(volume_id)
                    self._tell(record, self._away())
            elif volume_id in self._told:
                self._tell(record, self._back(now - self._since[volume_id]))
        self._since = {volume_id: since for volume_id, since in self._since.items() if volume_id in without}
        self._told &= without
        self._metrics.not_served.set(len(without))

    def _away(self) -> Event:
        # the same words each time: an Event that says the same is counted up
        return Event(
            "ResultsNotServed",
            f"nobody has served this pod's /tekton/results for {self._patience:g} s: the mounter of node {self._node} is "
            "away, or hangs. What touches the results waits, and goes on when it is back; why it is away, the log of "
            "the container `mounter` of that node's pod `resultsfs-node` says",
        )

    def _back(self, seconds: float) -> Event:
        return Event(
            "ResultsServed", f"this pod's /tekton/results is served again, after {seconds:.0f} s", warning=False
        )
