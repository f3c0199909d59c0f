"""What the API server says of a volume's pod and TaskRun, asked for lazily and kept for the volume's life."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from csi.api import Api, ApiError
from csi.recorder import Recorder, Regarding
from resultsfs.events import Event
from resultsfs.observer import Observer
from resultsfs.record import ResultType, VolumeRecord

log = logging.getLogger(__name__)


class PodHost:
    """The host (`resultsfs.host.Host`) of one pod's volume. Whoever asks may have to wait for the API server."""

    def __init__(self, record: VolumeRecord, api: Api | None, recorder: Recorder | None, observer: Observer) -> None:
        self._record = record
        self._api = api
        self._recorder = recorder
        self._observer = observer
        self._lock = threading.Lock()
        self._task_run: dict[str, Any] | None = None

    def result_types(self) -> Mapping[str, ResultType] | None:
        """Declared types, from the TaskRun's `status.taskSpec`, or its `spec.taskSpec` where that is embedded.

        None when the API server does not say.
        """
        task_run = self._asked_task_run(with_spec=True)
        if task_run is None:
            return None
        spec = _task_spec(task_run)
        if spec is not None:
            return _types(spec)
        log.warning("TaskRun %s/%s has no taskSpec yet", self._record.namespace, self._record.taskrun)
        return None

    def container_count(self) -> int | None:
        """Containers and init containers of the live pod; None when the API server does not say."""
        if self._api is None:
            return None
        record = self._record
        try:
            pod = self._api.pod(record.namespace, record.pod_name)
        except ApiError as error:
            self._failed(error)
            return None
        if pod.get("metadata", {}).get("uid") != str(record.pod_uid):
            log.warning("pod %s/%s is another one by now", record.namespace, record.pod_name)
            return None
        spec = pod.get("spec", {})
        return len(spec.get("containers") or ()) + len(spec.get("initContainers") or ())

    def event(self, event: Event) -> None:
        """Have it written to the pod and its TaskRun, soon."""
        level = logging.WARNING if event.warning else logging.INFO
        record = self._record
        log.log(level, "%s/%s: %s: %s", record.namespace, record.pod_name, event.reason, event.message)
        if event.warning:
            self._observer.failed(event.reason)
        if self._recorder is not None:
            self._recorder.record(event, self._regarding)

    def _regarding(self) -> list[Regarding]:
        """What an Event of this volume is about; on the recorder's thread."""
        record = self._record
        about = [Regarding("v1", "Pod", record.namespace, record.pod_name, str(record.pod_uid))]
        task_run = self._asked_task_run()
        uid = "" if task_run is None else str(task_run.get("metadata", {}).get("uid", ""))
        return [*about, Regarding("tekton.dev/v1", "TaskRun", record.namespace, record.taskrun, uid)]

    def _asked_task_run(self, *, with_spec: bool = False) -> dict[str, Any] | None:
        """The TaskRun as it is known; `with_spec`: asked for again while it has no taskSpec, which Tekton adds."""
        with self._lock:
            known = self._task_run is not None and (not with_spec or _task_spec(self._task_run) is not None)
            if not known and self._api is not None:
                try:
                    self._task_run = self._api.task_run(self._record.namespace, self._record.taskrun)
                except ApiError as error:
                    self._failed(error)
            return self._task_run

    def _failed(self, error: ApiError) -> None:
        log.warning("%s", error)
        self._observer.failed("ApiError")


def _task_spec(task_run: Mapping[str, Any]) -> dict[str, Any] | None:
    for part in ("status", "spec"):
        spec: dict[str, Any] | None = (task_run.get(part) or {}).get("taskSpec")
        if spec is not None:
            return spec
    return None


def _types(task_spec: Mapping[str, Any]) -> dict[str, ResultType]:
    """By name; what has no type is a string, as in Tekton. Types that we do not know are left out: strings too."""
    found = {}
    for result in task_spec.get("results") or ():
        try:
            found[str(result["name"])] = ResultType(result.get("type") or "string")
        except ValueError:
            log.warning("result %r has the type %r", result.get("name"), result.get("type"))
    return found
