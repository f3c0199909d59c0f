"""Looks after what no request brings in order: volumes of pods that are gone, mounts that nobody answers any more or
for now, what was left half removed."""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress

from csi import targets, trees
from csi.holding import Holding
from csi.locks import Busy, Locks
from csi.metrics import DriverMetrics
from csi.node import Node
from csi.status import Refused
from csi.targets import Targets
from csi.unserved import Unserved
from csi.volumes import Published, Volumes

log = logging.getLogger(__name__)

_PAUSE = 10.0
"""Seconds between rounds."""
_STACKING = 3.0
"""Seconds for a mount over a dead one to answer: requests for that volume are turned away meanwhile."""
_TORN = 86_400.0
"""Seconds after which what lies here without a record is removed: whoever needed it would have asked by then."""


class Caretaker:
    """Goes round on a thread of its own.

    An orphan is a volume whose pod the kubelet has no directory of any more: it will never ask to unpublish it. A
    mount is dead when nobody holds its descriptor: then a new one is put over it, so that at least new
    opens work in containers that mount the volume with HostToContainer propagation; the old one stays beneath, for
    files that are open there.
    """

    def __init__(
        self,
        node: Node,
        volumes: Volumes,
        holding: Holding,
        paths: Targets,
        locks: Locks,
        metrics: DriverMetrics,
        unserved: Unserved,
    ) -> None:
        self._node = node
        self._volumes = volumes
        self._holding = holding
        self._paths = paths
        self._locks = locks
        self._metrics = metrics
        self._unserved = unserved
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, pause: float = _PAUSE) -> None:
        """Begin the first round at once."""
        self._thread = threading.Thread(target=self._run, args=(pause,), name="caretaker", daemon=True)
        self._thread.start()

    def close(self, seconds: float = 5.0) -> None:
        """Begin no further round, and wait for the one that is under way."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self, pause: float) -> None:
        while True:
            for duty in (self.round, self.sweep):
                try:
                    duty()
                except (ConnectionError, TimeoutError) as error:
                    log.warning("%s", error)
                except Exception:
                    log.exception("a round of the caretaker failed")
            if self._stop.wait(pause):
                return

    def round(self) -> None:
        """Go round once. Raises ConnectionError, TimeoutError when the holder does not answer."""
        found = list(self._volumes.all())
        self._metrics.volumes.set(len(found))
        self._unserved.seen([volume.record for volume in found], self._holding.served())
        held = self._holding.held()
        pods_there = self._pods_there()
        dead = 0
        for volume in found:
            if self._stop.is_set():
                return
            if pods_there and self._is_orphan(volume):
                self._remove(volume)
            elif volume.record.volume_id not in held and self._is_dead(volume):
                dead += 1
                self._stack(volume)
        self._metrics.dead_mounts.set(dead)
        for volume_id in self._volumes.unreadable():
            self._remove_torn(volume_id)
        for volume_id in held - {volume.record.volume_id for volume in found}:
            self._let_go(volume_id)

    def sweep(self) -> None:
        """Remove what was left half made or half removed; what cannot be is told, and tried again the next time."""
        for path in self._volumes.leftovers():
            if self._stop.is_set():
                return
            try:
                trees.remove(path)
            except OSError as error:
                log.warning("%s cannot be removed yet: %s", path, error)

    def _pods_there(self) -> bool:
        """Whether the kubelet's directory of pods can be believed: this process's own pod, at least, is in it."""
        try:
            if os.listdir(self._paths.pods):
                return True
            why = "it is empty"
        except OSError as error:
            why = str(error.strerror)
        log.warning("volumes of pods that are gone are not looked for in %s: %s", self._paths.pods, why)
        return False

    def _is_orphan(self, volume: Published) -> bool:
        return not os.path.lexists(self._paths.pod_directory(volume.record.pod_uid))

    def _remove(self, volume: Published) -> None:
        record = volume.record
        with suppress(Busy), self._locks.held(volume.target, record.volume_id):
            if not self._is_orphan(volume):
                return
            log.info(
                "volume %s of pod %s/%s, which is gone, is removed", record.volume_id, record.namespace, record.pod_name
            )
            try:
                self._node.unpublish(record.volume_id, volume.target)
            except OSError as error:
                log.warning("volume %s cannot be removed yet: %s", record.volume_id, error)
            else:
                self._metrics.orphans.inc()

    def _is_dead(self, volume: Published) -> bool:
        mounts = targets.mounted(volume.target)
        return bool(mounts) and mounts[-1].ours and self._node.stats.is_dead(volume.target)

    def _stack(self, volume: Published) -> None:
        volume_id = volume.record.volume_id
        with suppress(Busy), self._locks.held(volume.target, volume_id):
            if self._volumes.find(volume_id) is None or volume_id in self._holding.held():
                return
            log.warning("nobody holds the mount at %s: a new one is put over it", volume.target)
            try:
                self._holding.mount(volume, _STACKING, over=True)
            except (OSError, Refused) as error:
                log.warning("%s: %s", volume.target, error)
            else:
                self._metrics.stacked.inc()

    def _let_go(self, volume_id: str) -> None:
        """Have a volume unmounted that is held and has no record: publishing it failed while the holder was away."""
        with suppress(Busy), self._locks.held(volume_id):
            if self._volumes.find(volume_id) is None:
                log.warning("volume %s is held, but was never published: it is unmounted", volume_id)
                self._holding.unmount(volume_id, "")

    def _remove_torn(self, volume_id: str) -> None:
        path = self._volumes.directory_of(volume_id)
        with suppress(Busy, FileNotFoundError), self._locks.held(volume_id):
            if time.time() - os.stat(path).st_mtime < _TORN or self._volumes.find(volume_id) is not None:
                return
            log.warning("%s has no record that can be used, and is removed", path)
            self._volumes.remove(volume_id)
