"""`resultsfs doctor --cluster`: what an administrator would have to look for by hand, check by check.

Nothing is changed: what has to be tried is tried as a dry run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from controller.doctor import admission, nodes, platform, rights, storage
from controller.doctor.view import View, failed
from controller.kube.client import Kube
from controller.kube.endpoint import for_person
from controller.kube.errors import ApiError
from resultsfs.cli.checks import Check, Level

_TIMEOUT = 30.0
"""Seconds for one request: a replica that asks a store which is away takes some of them."""

CHECKS: tuple[tuple[str, Callable[[View], Check]], ...] = (
    ("tekton", platform.tekton),
    ("flags", platform.flags),
    ("settings", platform.settings),
    ("security", platform.pod_security),
    ("csi-driver", nodes.csi_driver),
    ("holder", nodes.holder),
    ("node-driver", nodes.node_driver),
    ("registered", nodes.registered),
    ("controller", admission.controller),
    ("webhooks", admission.webhooks),
    ("endpoints", admission.endpoints),
    ("certificate", admission.certificate),
    ("authority", admission.authority),
    ("admission", admission.answers),
    ("policy", admission.policy),
    ("rights", rights.rights),
    ("store", storage.controllers),
    ("uploads", storage.mounters),
    ("versions", nodes.versions),
    ("namespaces", platform.namespaces),
)
"""In the order in which things are needed, by the name of their line."""


def checks(kubeconfig: str | None, context: str | None, namespace: str) -> Iterator[Check]:
    """All checks of the installation in a namespace. Raises InvalidSetting for a bad kubeconfig."""
    kube = Kube(for_person(kubeconfig, context), timeout=_TIMEOUT)
    try:
        view = View(kube, namespace)
        first = guarded("api", platform.api, view)
        yield first
        if first.level is Level.FAIL and not view.reached:
            return
        for name, look in CHECKS:
            yield guarded(name, look, view)
    finally:
        kube.close()


def guarded(name: str, look: Callable[[View], Check], view: View) -> Check:
    """A check; what could not be looked at is a failure of its own."""
    try:
        return look(view)
    except ApiError as error:
        said = "name a user who may read the whole cluster, an administrator: --kubeconfig, --context"
        unreached = "check the address and the network: kubectl --request-timeout 10s get --raw /readyz"
        return failed(name, f"could not be looked at: {error}", said if error.status in (401, 403) else unreached)
