"""Resources of the API and the paths of their objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

Tree = dict[str, Any]
"""An object of the API as JSON gives it."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object: its API group ("" for the core), version, plural name and kind."""

    group: str
    version: str
    plural: str
    kind: str

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The path of all objects, of a namespace's, or of one."""
        parts = ["api"] if not self.group else ["apis", self.group]
        parts.append(self.version)
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part is not None]
        return "/" + "/".join(quote(part, safe="") for part in parts)


TEKTON = "tekton.dev"

TASK_RUNS = Resource(TEKTON, "v1", "taskruns", "TaskRun")
PIPELINE_RUNS = Resource(TEKTON, "v1", "pipelineruns", "PipelineRun")
CUSTOM_RUNS = Resource(TEKTON, "v1beta1", "customruns", "CustomRun")
RUNS = (TASK_RUNS, PIPELINE_RUNS, CUSTOM_RUNS)
TASKS = Resource(TEKTON, "v1", "tasks", "Task")
PIPELINES = Resource(TEKTON, "v1", "pipelines", "Pipeline")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
SECRETS = Resource("", "v1", "secrets", "Secret")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
TOKEN_REVIEWS = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview")
ACCESS_REVIEWS = Resource("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview")
MUTATING_WEBHOOKS = Resource(
    "admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration"
)


def controller_of(tree: Tree) -> Tree | None:
    """The owner reference that says it is the object's controller."""
    owners: list[Tree] = tree.get("metadata", {}).get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), None)


def run_resource(owner: Tree) -> Resource | None:
    """The resource of a run of Tekton that an owner reference names; None for any other kind."""
    group, _, _ = str(owner.get("apiVersion", "")).rpartition("/")
    if group != TEKTON:
        return None
    return next((resource for resource in RUNS if resource.kind == owner.get("kind")), None)


def task_name(reference: Mapping[str, Any]) -> str | None:
    """The Task of the run's own namespace that a `taskRef` names; None for one from a resolver and for a custom task."""
    if not reference.get("name") or reference.get("resolver") or reference.get("kind", "Task") not in ("", "Task"):
        return None
    if reference.get("apiVersion", "").partition("/")[0] not in ("", TEKTON):
        return None
    return str(reference["name"])


def annotations_of(tree: Tree) -> dict[str, str]:
    """An object's annotations."""
    return tree.get("metadata", {}).get("annotations") or {}
