"""Admission: the controller's replicas, the webhooks that lead to them, their certificate, and one real question."""

from __future__ import annotations

import base64
import datetime

from controller import certificates
from controller.doctor.platform import divided
from controller.doctor.rights import SECRETS as CERTIFICATES
from controller.doctor.view import DEPLOYMENTS, SYSTEM, View, failed, is_ready, warned, well, why_not_ready
from controller.identity import PATHS
from controller.kube.errors import ApiError
from controller.kube.resources import MUTATING_WEBHOOKS, SECRETS, TASK_RUNS, Resource, Tree, annotations_of
from resultsfs.annotations import RESOLVED
from resultsfs.cli.checks import Check
from resultsfs.errors import InvalidSetting

SERVICE = "resultsfs-controller"
WEBHOOKS = tuple(PATHS)
LATE = datetime.timedelta(days=20)
"""Certificates of the controller's own hold 90 days and are renewed after 60: with less left, renewing fails."""
_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
_POLICIES = Resource("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy")
_BINDINGS = Resource(
    "admissionregistration.k8s.io", "v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding"
)
_POLICY = "resultsfs-volumes"


def controller(view: View) -> Check:
    """All replicas of the controller are ready."""
    deployment = view.find(DEPLOYMENTS, SERVICE, view.namespace)
    if deployment is None:
        return failed("controller", f"there is no Deployment {view.namespace}/{SERVICE}", view.upgrade)
    wanted = int(deployment["spec"].get("replicas", 1))
    ready = int((deployment.get("status") or {}).get("readyReplicas", 0))
    if wanted == 0:
        cure = f"kubectl --namespace {view.namespace} scale deployment {SERVICE} --replicas 2"
        return failed("controller", f"{SERVICE} is scaled to 0: TaskRuns that may hold references wait", cure)
    if ready < wanted:
        unready = [pod for pod in view.pods("controller") if not is_ready(pod)]
        why = why_not_ready(unready[0]) if unready else "its pods are not made"
        cure = (
            f"kubectl --namespace {view.namespace} describe deployment {SERVICE}; "
            f"kubectl --namespace {view.namespace} logs deployment/{SERVICE}"
        )
        said = f"{ready} of {wanted} replicas are ready: {why}"
        return warned("controller", said, cure) if ready else failed("controller", said, cure)
    return well("controller", f"{ready} of {wanted} replicas are ready")


def webhooks(view: View) -> Check:
    """All webhooks are there and lead to the installation's Service."""
    webhook_list = _webhooks(view)
    if webhook_list is None:
        said = f"there is no MutatingWebhookConfiguration {SYSTEM}: TaskRuns get no volume, references no content"
        return failed("webhooks", said, view.upgrade)
    found = {one["name"]: one for one in webhook_list}
    missing = [name for name in WEBHOOKS if name not in found]
    if missing:
        cure = f"kubectl delete mutatingwebhookconfiguration {SYSTEM}, then {view.upgrade}"
        return failed("webhooks", f"MutatingWebhookConfiguration {SYSTEM} lacks {', '.join(missing)}", cure)
    for name in WEBHOOKS:
        service = found[name]["clientConfig"].get("service") or {}
        if (service.get("namespace"), service.get("name")) != (view.namespace, SERVICE):
            said = f"{name} leads to Service {service.get('namespace')}/{service.get('name')}"
            return failed("webhooks", said, f"one installation a cluster: uninstall the other, then {view.upgrade}")
    policies = ", ".join(f"{name} {found[name].get('failurePolicy')}" for name in WEBHOOKS)
    return well("webhooks", f"all are there, with failure policies {policies}")


def _webhooks(view: View) -> list[Tree] | None:
    configuration = view.find(MUTATING_WEBHOOKS, SYSTEM)
    return None if configuration is None else configuration.get("webhooks") or []


def endpoints(view: View) -> Check:
    """Replicas behind the webhooks' Service."""
    slices = view.all_of(_SLICES, view.namespace, f"kubernetes.io/service-name={SERVICE}")
    ready = [
        address
        for one in slices
        for endpoint in one.get("endpoints") or []
        if (endpoint.get("conditions") or {}).get("ready")
        for address in endpoint["addresses"]
    ]
    if not ready:
        cure = (
            f"mend the controller; if its replicas are ready, kubectl --namespace {view.namespace} describe service {SERVICE} "
            "shows what it selects"
        )
        return failed("endpoints", f"nobody is behind Service {view.namespace}/{SERVICE}: no webhook answers", cure)
    return well("endpoints", f"{len(ready)} behind Service {view.namespace}/{SERVICE}")


def certificate(view: View) -> Check:
    """The replicas' certificate is there and does not expire."""
    name, data = _certificate(view)
    where = f"Secret {view.namespace}/{name}"
    if data is None:
        cure = f"{view.upgrade} makes it, and the controller fills it"
        return failed("certificate", f"{where} is gone: nothing can be renewed, and a new replica cannot start", cure)
    log = f"kubectl --namespace {view.namespace} logs deployment/{SERVICE} says why it is not renewed"
    if not data.get("tls.crt"):
        return failed("certificate", f"{where} has no certificate", log.replace("not renewed", "not made"))
    try:
        expiry = certificates.facts(data["tls.crt"]).expiry
    except InvalidSetting as error:
        return failed("certificate", f"{where}: tls.crt is no certificate: {error}", log)
    left = expiry - datetime.datetime.now(datetime.UTC)
    said = f"{where} holds until {expiry:%Y-%m-%d %H:%M} UTC"
    if left <= datetime.timedelta():
        return failed("certificate", f"{where} expired {expiry:%Y-%m-%d %H:%M} UTC", log)
    if left < LATE:
        return warned("certificate", f"{said}, {left.days} days, and should have been renewed", log)
    return well("certificate", said)


def _certificate(view: View) -> tuple[str, dict[str, bytes] | None]:
    """The Secret that has the replicas' certificate, whoever makes it: its name and its data, None without one."""
    name = CERTIFICATES[False]
    found = view.find(SECRETS, name, view.namespace)
    if found is None:
        return name, None
    return name, {key: base64.b64decode(text) for key, text in (found.get("data") or {}).items()}


def authority(view: View) -> Check:
    """What the API server trusts signed the certificate that the replicas show."""
    bundles = {one["name"]: one["clientConfig"].get("caBundle") or "" for one in _webhooks(view) or []}
    _, data = _certificate(view)
    if not bundles or data is None or not data.get("tls.crt"):
        return failed("authority", "no webhook or no certificate to compare", "first mend webhooks and certificate")
    cure = (
        f"the controller registers it every few seconds: kubectl --namespace {view.namespace} logs deployment/{SERVICE} says "
        "why not; tools that keep the cluster as a repository has it must ignore caBundle"
    )
    for name in WEBHOOKS:
        bundle = base64.b64decode(bundles.get(name, ""))
        if not bundle.strip():
            return failed("authority", f"{name} has no caBundle: the API server does not call it", cure)
        try:
            signed = certificates.facts(data["tls.crt"], bundle).signed
        except InvalidSetting as error:
            return failed("authority", f"{name}: caBundle: {error}", cure)
        if not signed:
            said = f"{name}: no authority of its caBundle signed the replicas' certificate: the API server does not trust it"
            return failed("authority", said, cure)
    return well("authority", "the webhooks' caBundle has the authority that signed the certificate")


def answers(view: View) -> Check:
    """A TaskRun that only the webhook would change, as a dry run: the whole way to a replica and back."""
    chosen, _ = divided(view)
    if not chosen:
        if _webhooks(view) is None:
            return failed("admission", "there is no webhook to ask", "first mend webhooks")
        cure = "admission.namespaceSelector of the chart selects none, or all are annotated resultsfs.dev/inject=false"
        return warned("admission", "no namespace is served: there is nowhere to ask", cure)
    namespace = "default" if "default" in chosen else sorted(chosen)[0]
    task = {"steps": [{"name": "doctor", "image": "doctor", "command": ["true"]}]}
    run = {
        "apiVersion": "tekton.dev/v1",
        "kind": TASK_RUNS.kind,
        # Its own mark, which the webhook takes off whoever claims it.
        "metadata": {"generateName": "resultsfs-doctor-", "annotations": {RESOLVED: "{}"}},
        "spec": {"taskSpec": task},
    }
    log = f"kubectl --namespace {view.namespace} logs deployment/{SERVICE}; then look at webhooks, authority and endpoints"
    try:
        made = view.kube.post(TASK_RUNS.path(namespace) + "?dryRun=All", run)
    except ApiError as error:
        if error.status == 403:
            raise
        return failed("admission", f"a TaskRun in {namespace} would be refused: {error}", log)
    if RESOLVED in annotations_of(made):
        return failed("admission", f"a TaskRun in {namespace} came back as it was: no webhook was asked", view.upgrade)
    return well("admission", f"a TaskRun in {namespace} was looked at (dry run)")


def policy(view: View) -> Check:
    """The policy that keeps hand-written pods from using the driver."""
    found = [view.find(resource, _POLICY) is not None for resource in (_POLICIES, _BINDINGS)]
    if all(found):
        return well("policy", f"ValidatingAdmissionPolicy {_POLICY} is bound")
    said = f"{' and '.join(kind for kind, there in zip(('policy', 'binding'), found, strict=True) if not there)} gone"
    cure = f"unless admission.policy.enabled is false on purpose: {view.upgrade}"
    return warned("policy", f"{_POLICY}: {said}: any pod may ask for a volume with another run's attributes", cure)
