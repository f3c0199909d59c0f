"""Events (events.k8s.io/v1) on runs: what their owners should know."""

from __future__ import annotations

import datetime
import logging
import os
import socket
import uuid
from typing import Literal

from controller.kube.client import Kube
from controller.kube.errors import ApiError
from controller.kube.resources import EVENTS, Resource

CONTROLLER = "resultsfs.dev/controller"
_NOTE_LIMIT = 1024
_log = logging.getLogger(__name__)


def tell(
    kube: Kube, resource: Resource, run: dict[str, str], kind: Literal["Normal", "Warning"], reason: str, note: str
) -> None:
    """An Event on a run, of which `run` has namespace, name and uid. One that cannot be made is only logged."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    regarding = {"apiVersion": f"{resource.group}/{resource.version}", "kind": resource.kind, **run}
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{run['name'][:200]}.{uuid.uuid4().hex[:16]}", "namespace": run["namespace"]},
        "eventTime": now,
        "type": kind,
        "reason": reason,
        "action": "CollectGarbage",
        "note": note[:_NOTE_LIMIT],
        "regarding": regarding,
        "reportingController": CONTROLLER,
        "reportingInstance": (os.environ.get("POD_NAME") or socket.gethostname())[:128],
    }
    try:
        kube.create(EVENTS, run["namespace"], event)
    except ApiError as error:
        _log.warning("Event %s on %s %s/%s: %s", reason, resource.kind, run["namespace"], run["name"], error)
