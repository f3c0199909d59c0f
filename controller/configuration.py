"""Settings taken up while running, and the store that they name."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable

from controller.kube.client import Kube
from controller.kube.resources import CONFIG_MAPS
from resultsfs import settings as settings_module
from resultsfs import store_backend
from resultsfs.errors import InvalidSetting
from resultsfs.settings import Settings
from resultsfs.store import Store

SYSTEM = "resultsfs"
"""Namespace and name of the ConfigMap with the cluster's settings, as the chart installs it by default."""
RELOAD = 10.0
"""Seconds between looks at the settings. The kubelet takes about a minute to bring a changed ConfigMap."""
_log = logging.getLogger(__name__)


class Configuration:
    """The settings of a file or directory; later ones that are bad are told once and the last good ones hold."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._current = Settings() if path is None else store_backend.load(path)
        self._told = ""

    def __call__(self) -> Settings:
        """The latest good settings."""
        return self._current

    def reload(self) -> bool:
        """Look again; whether anything has changed."""
        if self._path is None:
            return False
        try:
            found = store_backend.load(self._path)
        except InvalidSetting as error:
            if str(error) != self._told:
                _log.error("settings were changed and are not taken up: %s", error)
            self._told = str(error)
            return False
        self._told = ""
        changed = found != self._current
        self._current = found
        return changed


def installed(kube: Kube) -> Settings:
    """The cluster's settings, as its ConfigMap has them. Raises ApiError, InvalidSetting."""
    data = kube.get(CONFIG_MAPS, SYSTEM, SYSTEM).get("data") or {}
    return settings_module.from_mapping(data, f"ConfigMap {SYSTEM}/{SYSTEM}")


class Stores:
    """The store of the current settings, narrowed to what one kind of use needs. Thread-safe."""

    def __init__(self, settings: Callable[[], Settings], adapt: Callable[[Settings], Settings]) -> None:
        self._settings = settings
        self._adapt = adapt
        self._lock = threading.Lock()
        self._opened: tuple[Settings, Store] | None = None
        self._left: list[Store] = []

    def __call__(self) -> Store:
        """The store. Raises InvalidSetting."""
        wanted = self._adapt(self._settings())
        with self._lock:
            if self._opened is None or self._opened[0] != wanted:
                if self._opened is not None:
                    self._left.append(self._opened[1])  # somebody may still read from it
                self._opened = (wanted, Store.open(wanted))
            return self._opened[1]

    def close(self) -> None:
        """Close the connections of all that were opened."""
        with self._lock:
            for store in (*self._left, *([] if self._opened is None else [self._opened[1]])):
                store.close()
            self._opened, self._left = None, []


def hasty(settings: Settings) -> Settings:
    """For answers that somebody waits for: little memory a transfer, and failures told soon."""
    return dataclasses.replace(
        settings,
        store_timeout=min(settings.store_timeout, 5.0),
        store_retries=min(settings.store_retries, 3),
        store_concurrency=1,
    )


def impatient(settings: Settings) -> Settings:
    """For a look at whether it answers at all."""
    return dataclasses.replace(hasty(settings), store_retries=min(settings.store_retries, 1))
