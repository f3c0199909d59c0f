"""Rights of the service accounts, as the API server would decide, and not as roles read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controller.doctor.view import SYSTEM, View, failed, few, well
from controller.kube.resources import ACCESS_REVIEWS, Tree
from resultsfs.cli.checks import Check


@dataclass(frozen=True, slots=True)
class Right:
    """One thing that an account must be able to do; in `own` or `tekton` namespace, or in all ("")."""

    group: str
    resource: str
    verb: str
    name: str = ""
    where: str = ""


def _rights(group: str, resources: str, verbs: str, name: str = "", where: str = "") -> Iterator[Right]:
    for resource in resources.split():
        for verb in verbs.split():
            yield Right(group, resource, verb, name, where)


NODE: tuple[Right, ...] = (
    *_rights("", "pods", "get"),
    *_rights("tekton.dev", "taskruns", "get"),
    *_rights("", "events", "create patch"),
)
CONTROLLER: tuple[Right, ...] = (
    *_rights("tekton.dev", "taskruns pipelineruns", "get list watch"),
    *_rights("tekton.dev", "customruns", "get list"),
    *_rights("tekton.dev", "tasks pipelines", "get"),
    *_rights("", "namespaces", "get"),
    *_rights("authentication.k8s.io", "tokenreviews", "create"),
    *_rights("authorization.k8s.io", "subjectaccessreviews", "create"),
    *_rights("events.k8s.io", "events", "create"),
    *_rights("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "get patch", SYSTEM),
    *_rights("coordination.k8s.io", "leases", "create", where="own"),
    *_rights("coordination.k8s.io", "leases", "get update", "resultsfs-controller", "own"),
    *_rights("", "configmaps", "get", "feature-flags", "tekton"),
)
"""Those of the chart, but for the Secret, whose name depends on who makes certificates."""
SECRETS = {False: "resultsfs-controller-certificate", True: "resultsfs-controller-token"}
"""The controller's Secret, by whether cert-manager makes its certificate."""


def rights(view: View) -> Check:
    """Whether node driver and controller may do what they must."""
    by_others = any(
        argument.startswith("--certificate-directory")
        for pod in view.pods("controller")
        for container in pod["spec"]["containers"]
        for argument in container.get("args") or []
    )
    secret = _rights("", "secrets", "get update", SECRETS[by_others], "own")
    accounts = {"resultsfs-controller": (*CONTROLLER, *secret), "resultsfs-node": NODE}
    lacking = [
        f"{account} may not {right.verb} {right.resource}{f' {right.name}' if right.name else ''}"
        for account, wanted in accounts.items()
        for right in wanted
        if not _allowed(view, account, right)
    ]
    if lacking:
        cure = f"roles or bindings of the chart are gone or changed: {view.upgrade}"
        return failed("rights", few(lacking, 3), cure)
    return well("rights", f"{' and '.join(accounts)} may do what they must")


def _allowed(view: View, account: str, right: Right) -> bool:
    attributes: Tree = {"group": right.group, "resource": right.resource, "verb": right.verb, "name": right.name}
    if right.where:
        attributes["namespace"] = view.namespace if right.where == "own" else view.tekton_namespace
    user = f"system:serviceaccount:{view.namespace}:{account}"
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{view.namespace}", "system:authenticated"]
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": ACCESS_REVIEWS.kind,
        "spec": {"user": user, "groups": groups, "resourceAttributes": attributes},
    }
    return bool(view.kube.post(ACCESS_REVIEWS.path(), review)["status"].get("allowed"))
