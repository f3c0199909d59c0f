"""The driver's configuration: settings from a mounted ConfigMap, taken up while running when it changes.

What is published already keeps the settings that it was published with, as long as the same mounter serves it; what
is published from then on gets the new ones. Bad settings are refused at the start; later they are told, and the last
good ones stay.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from resultsfs import store_backend
from resultsfs.errors import InvalidSetting
from resultsfs.settings import Settings

log = logging.getLogger(__name__)

_LOOK = 5.0  # seconds between looks; the kubelet itself takes up to a minute to bring a change to a pod


class Configuration:
    """The settings at a path (a file, or a directory with one file a key). Raises InvalidSetting at the start."""

    def __init__(self, path: str, look: float = _LOOK) -> None:
        self._path = path
        self._look = look
        self._seen = self._state()
        self._current = store_backend.load(path)
        self._refused: str | None = None
        self._stop = threading.Event()

    @property
    def current(self) -> Settings:
        """The latest good settings."""
        return self._current

    def watch(self, applied: Callable[[Settings], None], refused: Callable[[InvalidSetting], None]) -> None:
        """From now on, on a thread of its own: tell once of each change, whether good or refused."""
        threading.Thread(target=self._watch, args=(applied, refused), name="settings", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()

    def _watch(self, applied: Callable[[Settings], None], refused: Callable[[InvalidSetting], None]) -> None:
        while not self._stop.wait(self._look):
            state = self._state()
            if state == self._seen:
                continue
            self._seen = state
            try:
                found = store_backend.load(self._path)
            except InvalidSetting as error:
                log.error("the settings changed and are refused, those before stay: %s", error)  # noqa: TRY400
                refused(error)
                continue
            if found != self._current:
                self._current = found
                log.info("the settings changed: new volumes get the new ones")
                applied(found)

    def _state(self) -> object:
        """What differs whenever something has changed: a ConfigMap's directory is swapped by one link."""
        names = [self._path]
        try:
            if os.path.isdir(self._path):
                names += sorted(entry.path for entry in os.scandir(self._path))
            found = [os.stat(name) for name in names]
        except OSError as error:
            return error.errno
        return [(entry.st_ino, entry.st_mtime_ns, entry.st_size) for entry in found]
