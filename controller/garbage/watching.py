"""Deletions of runs, as they happen. Only a hint when to look: the sweep finds what a watch missed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from controller.kube.client import Kube
from controller.kube.errors import Gone
from controller.kube.resources import PIPELINE_RUNS, TASK_RUNS, Resource

LIFE = 60.0
"""Seconds of one watch; the next goes on where it ended. One that has stalled silently is given up soon after that."""
_PAUSE = 5.0
_log = logging.getLogger(__name__)


class Watch:
    """Tells of namespaces in which a run was deleted, from threads that end with the process.

    `missed` is called where deletions may have gone by unseen: for so long nothing could be watched.
    """

    def __init__(self, kube: Kube, deleted: Callable[[str], None], missed: Callable[[], None]) -> None:
        self._kube = kube
        self._deleted = deleted
        self._missed = missed
        self._stop = threading.Event()
        self._versions: dict[Resource, str] = {}

    def start(self) -> None:
        """Begin."""
        for resource in (TASK_RUNS, PIPELINE_RUNS):
            threading.Thread(target=self._run, args=(resource,), name=f"watch-{resource.plural}", daemon=True).start()

    def stop(self) -> None:
        """Tell no more; a watch that is open is left to the process's end."""
        self._stop.set()

    def _run(self, resource: Resource) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                if resource not in self._versions:
                    self._versions[resource] = self._kube.list(resource, metadata_only=True).version
                self._follow(resource)
                hurry = time.monotonic() - began > 1.0
            except Gone:
                self._versions.pop(resource, None)  # a list may be too old too
                self._missed()
                hurry = False
            except OSError as error:  # ApiError, or a token's file that cannot be read for a moment
                if not self._stop.is_set():
                    _log.warning("watch %s: %s; going on where it ended", resource.plural, error)
                hurry = False
            except Exception:  # noqa: BLE001  # a defect must not end the watch for ever
                _log.exception("watch %s", resource.plural)
                hurry = False
            if not hurry:
                self._stop.wait(_PAUSE)

    def _follow(self, resource: Resource) -> None:
        version = self._versions[resource]
        for event in self._kube.watch(resource, version, timeout=LIFE, metadata_only=True):
            if self._stop.is_set():
                break
            if event.type == "DELETED":
                self._deleted(event.object["metadata"]["namespace"])
            self._versions[resource] = event.object["metadata"]["resourceVersion"]
