"""The settings that hold for one run: the administrator's, narrowed by annotations, the nearest last."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from controller.kube.client import Kube
from controller.kube.errors import NotFound
from controller.kube.resources import NAMESPACES, TASKS, Tree, annotations_of, task_name
from resultsfs.annotations import INJECT
from resultsfs.errors import InvalidSetting
from resultsfs.settings import Settings

NAMESPACE_LIFE = 5.0
"""Seconds for which a namespace's annotations are remembered: a burst of pods asks once."""
_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class _Remembered:
    annotations: Mapping[str, str]
    until: float


class Policies:
    """Knows the annotations of namespaces and Tasks. Methods raise ApiError, and InvalidSetting naming the object."""

    def __init__(self, kube: Kube, settings: Callable[[], Settings]) -> None:
        self._kube = kube
        self._settings = settings
        self._lock = threading.Lock()
        self._namespaces: dict[str, _Remembered] = {}

    def of_namespace(self, namespace: str) -> Mapping[str, str]:
        """A namespace's annotations, at most NAMESPACE_LIFE old."""
        now = time.monotonic()
        with self._lock:
            found = self._namespaces.get(namespace)
        if found is None or now > found.until:
            found = _Remembered(
                annotations_of(self._kube.get_metadata(NAMESPACES, None, namespace)), now + NAMESPACE_LIFE
            )
            with self._lock:
                if len(self._namespaces) >= _REMEMBERED:
                    self._namespaces.clear()
                self._namespaces[namespace] = found
        return found.annotations

    def of_task(self, namespace: str, run: Tree) -> Mapping[str, str]:
        """The annotations of the Task that a TaskRun names, which Tekton has not copied yet when it is created.

        Only for Tasks of the namespace: those from a resolver are not in the API.
        """
        name = task_name(run.get("spec", {}).get("taskRef") or {})
        if name is None:
            return {}
        try:
            return annotations_of(self._kube.get_metadata(TASKS, namespace, name))
        except NotFound:
            return {}  # Tekton says so when it looks for it

    def settings(self, namespace: str, *others: tuple[str, Mapping[str, str]]) -> Settings:
        """The settings with a namespace's annotations and those of others, (what it is, annotations), applied."""
        narrowed = self._settings()
        for what, found in ((f"namespace {namespace!r}", self.of_namespace(namespace)), *others):
            try:
                narrowed = narrowed.narrowed(found)
            except InvalidSetting as error:
                raise InvalidSetting(f"{what}: {error}") from None
        return narrowed

    def injects(self, namespace: str, run: Tree) -> bool:
        """Whether a run's pods get a volume: not where its annotation, or its namespace's, is `"false"`."""
        found = {**self.of_namespace(namespace), **annotations_of(run)}.get(INJECT, "true")
        if found not in ("true", "false"):
            raise InvalidSetting(f'annotation {INJECT} is {found!r}: expected "true" or "false"')
        return found == "true"
