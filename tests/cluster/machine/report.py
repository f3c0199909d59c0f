"""What a cluster is like now: for people, and as JSON for programs."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass

from tests.cluster.machine import golang, settings
from tests.cluster.machine.errors import ClusterError
from tests.cluster.machine.lifecycle import Cluster
from tests.cluster.machine.remains import find
from tests.cluster.machine.running import run


@dataclass(frozen=True)
class Line:
    """One component, or the node as Kubernetes sees it."""

    name: str
    works: bool
    version: str
    endpoint: str
    detail: str
    """What is wrong, or since when it runs."""


@dataclass(frozen=True)
class Report:
    """A cluster's state."""

    works: bool
    lines: list[Line]
    places: dict[str, str]
    problems: list[str]

    def text(self) -> str:
        """For people."""
        shown = [
            f"{'ok ' if line.works else 'BAD'}  {line.name:<19} {line.version:<22} {line.endpoint:<44} {line.detail}"
            for line in self.lines
        ]
        shown += [f"     {name:<19} {value}" for name, value in self.places.items()]
        return "\n".join([*shown, *self.problems])

    def json(self) -> str:
        """For programs: the fields of this class."""
        return json.dumps(asdict(self), indent=1)


def report(cluster: Cluster) -> Report:
    """Look at everything now."""
    pid = cluster.node.pid
    if pid is None:
        left = find(cluster.places)
        problems = ["There is no cluster: `make cluster-up` starts one."]
        if left:
            mended = "`make cluster-up` starts it anew, `make cluster-down` removes it."
            problems = [f"The cluster is not whole; left of it: {left}. {mended}"]
        return Report(False, [], {}, problems)
    try:
        lines = [*_components(cluster), _node(cluster)]
    except (ClusterError, OSError) as error:
        return Report(
            False, [], {}, [f"The node (process {pid}) runs, but is not whole: {error}. `make cluster-down`."]
        )
    problems = []
    if not all(line.works for line in lines):
        problems = [f"Not all works: see {cluster.places.logs}; `make cluster-up` starts what has ended."]
    return Report(not problems, lines, _places(cluster, pid), problems)


def _components(cluster: Cluster) -> list[Line]:
    services, found = cluster.node.services(), []
    for name, component in cluster.components().items():
        service = services.get(name)
        if service is None:
            wrong = "was never started"
        elif service["ended"] is not None:
            wrong = f"ended with code {service['code']} at {_clock(service['ended'])}, log: {service['log']}"
        else:
            wrong = component.ready()
        detail = wrong or (f"since {_clock(service['started'])}" if service else "")
        found.append(Line(name, not wrong, component.version, component.endpoint, detail))
    return found


def _node(cluster: Cluster) -> Line:
    path = '{range .status.conditions[?(@.type=="Ready")]}{.status} {.message}{end}|{.status.nodeInfo.kubeletVersion}'
    command = [*cluster.kubectl(), "--request-timeout=10s", "get", "node", settings.NODE, f"--output=jsonpath={path}"]
    try:
        ready, _, version = run(command).partition("|")
    except ClusterError as error:
        return Line("node Ready", False, "", "", str(error))
    status, _, message = ready.partition(" ")
    return Line("node Ready", status == "True", version, "", message)


def _places(cluster: Cluster, pid: int) -> dict[str, str]:
    network, places = cluster.network(), cluster.places
    return {
        "kubeconfig": str(places.kubeconfig),
        "kubectl": str(golang.kubernetes()[0].path),
        "logs": str(places.logs),
        "pod logs": str(places.pod_logs),
        "keys": str(places.keys),
        "node process": str(pid),
        "node root": str(cluster.node.root),
        "kubelet directory": f"{settings.KUBELET_HOME} (in the node)",
        "pods": str(network.pods),
        "services": str(network.services),
        "node address": network.node,
        "host address": f"{network.host} (as pods reach it)",
    }


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))
