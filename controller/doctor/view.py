"""What the checks look through, and the lines they come to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controller.kube.client import Kube
from controller.kube.errors import NotFound
from controller.kube.resources import CONFIG_MAPS, NAMESPACES, Resource, Tree, annotations_of
from resultsfs import settings as settings_module
from resultsfs.cli.checks import Check, Level
from resultsfs.errors import InvalidSetting
from resultsfs.settings import Settings

PODS = Resource("", "v1", "pods", "Pod")
NODES = Resource("", "v1", "nodes", "Node")
DAEMON_SETS = Resource("apps", "v1", "daemonsets", "DaemonSet")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")

SYSTEM = "resultsfs"
"""Name of the chart's ConfigMap and webhook configuration, and the namespace where it is installed by default."""
INSTALL = "install the chart: helm install resultsfs deploy/chart --namespace {namespace} --create-namespace …"
UPGRADE = "helm upgrade resultsfs deploy/chart --namespace {namespace} --reset-then-reuse-values"
"""Puts objects of the chart back that somebody deleted or changed."""
APPLY = (
    "sed 's|image: resultsfs:|image: REGISTRY/resultsfs:|' deploy/manifests/resultsfs.yaml"
    " | kubectl apply --server-side --filename -"
)
"""The same where no Helm installed it."""
_RELEASE = "meta.helm.sh/release-name"
"""The annotation by which Helm knows its objects."""


class View:
    """The cluster, and the namespace of the installation; what several checks need is asked once."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self.kube = kube
        self.namespace = namespace
        self.reached = False
        self._lists: dict[tuple[Resource, str | None, str | None], list[Tree]] = {}
        self._settings: Settings | None = None

    @property
    def upgrade(self) -> str:
        """What puts the chart's objects back, by the way that it was installed."""
        settings = self.find(CONFIG_MAPS, SYSTEM, self.namespace)
        by_hand = settings is not None and _RELEASE not in annotations_of(settings)
        return APPLY if by_hand else UPGRADE.format(namespace=self.namespace)

    def find(self, resource: Resource, name: str, namespace: str | None = None) -> Tree | None:
        """An object; None where there is none. Raises ApiError."""
        try:
            return self.kube.get(resource, namespace, name)
        except NotFound:
            return None

    def all_of(self, resource: Resource, namespace: str | None = None, labels: str | None = None) -> list[Tree]:
        """All objects; of a kind that the API server does not know, none. Raises ApiError."""
        key = (resource, namespace, labels)
        if key not in self._lists:
            try:
                self._lists[key] = self.kube.list(resource, namespace, labels=labels).items
            except NotFound:
                self._lists[key] = []
        return self._lists[key]

    def pods(self, component: str) -> list[Tree]:
        """The pods of `holder`, `node` or `controller`. Raises ApiError."""
        labels = f"app.kubernetes.io/name=resultsfs,app.kubernetes.io/component={component}"
        return self.all_of(PODS, self.namespace, labels)

    def namespaces(self) -> list[Tree]:
        """All namespaces. Raises ApiError."""
        return self.all_of(NAMESPACES)

    def settings(self) -> Settings:
        """The installation's settings, or the defaults where there are none that are good. Raises ApiError."""
        if self._settings is None:
            found = self.find(CONFIG_MAPS, SYSTEM, self.namespace) or {}
            try:
                self._settings = settings_module.from_mapping(found.get("data") or {})
            except InvalidSetting:
                self._settings = Settings()
        return self._settings

    @property
    def tekton_namespace(self) -> str:
        """Where Tekton runs. Raises ApiError."""
        return self.settings().tekton_namespace


def well(name: str, found: str) -> Check:
    """A line for what is as it should be."""
    return Check(name, Level.OK, found)


def warned(name: str, found: str, advice: str) -> Check:
    """A line for what may be meant so."""
    return Check(name, Level.WARN, found, advice)


def failed(name: str, found: str, advice: str) -> Check:
    """A line for what stops TaskRuns, or leaves them without their volume."""
    return Check(name, Level.FAIL, found, advice)


def few(names: list[str], most: int = 5) -> str:
    """Some names, and how many more there are."""
    shown = ", ".join(sorted(names)[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def is_ready(tree: Tree) -> bool:
    """Whether an object's condition `Ready` holds."""
    conditions: list[Tree] = (tree.get("status") or {}).get("conditions") or []
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def why_not_ready(pod: Tree) -> str:
    """What Kubernetes says of a pod that is not ready."""
    status = pod.get("status") or {}
    for container in status.get("containerStatuses") or []:
        state = container.get("state") or {}
        for kind in ("waiting", "terminated"):
            if kind in state:
                message = state[kind].get("message") or ""
                return f"{container['name']}: {state[kind].get('reason', kind)} {message}".strip()
    for condition in status.get("conditions") or []:
        if condition.get("status") == "False" and condition.get("message"):
            return str(condition["message"])
    return str(status.get("phase", "no status"))


def labels_of(tree: Tree) -> dict[str, str]:
    """An object's labels."""
    return tree["metadata"].get("labels") or {}


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector (meta/v1 LabelSelector) chooses an object with these labels."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_meets(one, labels) for one in selector.get("matchExpressions") or [])


def _meets(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, operator, values = expression["key"], expression["operator"], expression.get("values") or []
    if operator == "Exists":
        return key in labels
    if operator == "DoesNotExist":
        return key not in labels
    if operator == "In":
        return labels.get(key) in values
    return labels.get(key) not in values  # NotIn, also where there is no such label
