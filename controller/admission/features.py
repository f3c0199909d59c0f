"""Tekton's own flags that bear on results, from its ConfigMap `feature-flags`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from controller.kube.client import Kube
from controller.kube.errors import NotFound
from controller.kube.resources import CONFIG_MAPS

CONFIG_MAP = "feature-flags"
LIFE = 10.0
"""Seconds for which the flags are remembered."""
LARGEST = 1_572_864
"""Bytes: what Tekton allows `max-result-size` to be."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Features:
    """`max_result_size` in bytes: Tekton's bound on one result's line in sidecar-logs mode."""

    max_result_size: int = 4096


class FeatureFlags:
    """The flags as they are now, at most LIFE old; those of before where the API server does not answer."""

    def __init__(self, kube: Kube, namespace: Callable[[], str]) -> None:
        self._kube = kube
        self._namespace = namespace
        self._lock = threading.Lock()
        self._found = Features()
        self._until = -1.0

    def __call__(self) -> Features:
        """The flags. Raises ApiError where they were never read."""
        now = time.monotonic()
        with self._lock:
            if now <= self._until:
                return self._found
        found = self._read()
        with self._lock:
            self._found, self._until = found, now + LIFE
        return found

    def _read(self) -> Features:
        namespace = self._namespace()
        try:
            data = self._kube.get(CONFIG_MAPS, namespace, CONFIG_MAP).get("data") or {}
        except NotFound:
            _log.warning("ConfigMap %s/%s is not there: Tekton's defaults are assumed", namespace, CONFIG_MAP)
            return Features()
        text = data.get("max-result-size", "4096")
        try:
            size = int(text)
        except ValueError:
            size = 0
        if not 0 < size <= LARGEST:
            _log.warning("ConfigMap %s/%s: max-result-size is %r: 4096 is assumed", namespace, CONFIG_MAP, text)
            size = 4096
        return Features(max_result_size=size)
