"""Deletions of runs, as they happen. Only a hint when to look: the sweep finds what a watch missed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from controller.kube.client import Kube
from controller.kube.errors import ApiError, Gone
from controller.kube.resources import PIPELINE_RUNS, TASK_RUNS, Resource

LIFE = 240.0
"""Seconds of one watch. One that has stalled silently ends soon after, and the next begins with a list."""
_PAUSE = 5.0
_log = logging.getLogger(__name__)


class Watch:
    """Tells of namespaces in which a run was deleted, from threads that end with the process."""

    def __init__(self, kube: Kube, deleted: Callable[[str], None]) -> None:
        self._kube = kube
        self._deleted = deleted
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin."""
        for resource in (TASK_RUNS, PIPELINE_RUNS):
            threading.Thread(target=self._run, args=(resource,), name=f"watch-{resource.plural}", daemon=True).start()

    def stop(self) -> None:
        """Tell no more; a watch that is open is left to the process's end."""
        self._stop.set()

    def _run(self, resource: Resource) -> None:
        version = ""
        while not self._stop.is_set():
            try:
                if not version:
                    version = self._kube.list(resource, metadata_only=True).version
                version = self._follow(resource, version)
            except Gone:
                version = ""
            except ApiError as error:
                if not self._stop.is_set():
                    _log.warning("watch %s: %s; beginning again", resource.plural, error)
                version = ""
                self._stop.wait(_PAUSE)

    def _follow(self, resource: Resource, version: str) -> str:
        for event in self._kube.watch(resource, version, timeout=LIFE, metadata_only=True):
            if self._stop.is_set():
                break
            version = event.object["metadata"]["resourceVersion"]
            if event.type == "DELETED":
                self._deleted(event.object["metadata"]["namespace"])
        return version
