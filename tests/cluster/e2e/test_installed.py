"""The chart by README.md's two commands; `resultsfs doctor --cluster` on it, well and broken; nothing left of it."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from controller import certificates
from resultsfs.reference import Reference
from tests.cluster.e2e import leftovers
from tests.cluster.e2e.readme import ByReadme, Finding, installed
from tests.cluster.installation import SYSTEM
from tests.cluster.kube import NAMESPACE, Kind, Kube
from tests.cluster.machine.places import Places
from tests.cluster.room import Room, outcome, results, succeeded, taskrun
from tests.cluster.test_pipelines import makes, pipelinerun, reading, uses
from tests.cluster.test_results import DEADLINE, LARGE, fill, sha256
from tests.support.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

WEBHOOKS = Kind("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration")
BINDING = Kind("rbac.authorization.k8s.io/v1", "ClusterRoleBinding")
POLICY_BINDING = Kind("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding")
CSI_DRIVER = Kind("storage.k8s.io/v1", "CSIDriver")
DAEMON_SET = Kind("apps/v1", "DaemonSet")
SECRET = Kind("v1", "Secret")
CONFIG_MAP = Kind("v1", "ConfigMap")
CUSTOM_RUN = Kind("tekton.dev/v1beta1", "CustomRun")
CERTIFICATE = "resultsfs-controller-certificate"
UPGRADE = "helm upgrade resultsfs deploy/chart --namespace resultsfs --reset-then-reuse-values"
_SCALE = "kubectl --namespace resultsfs scale deployment resultsfs-controller --replicas"


@dataclass(frozen=True)
class Snapshot:
    """An installation, and what was there before it."""

    resultsfs: ByReadme
    objects: set[str]
    node: set[str]


@pytest.fixture(scope="module")
def snapshot(cluster: Places, kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Snapshot]:
    """Installed as README.md says, on a cluster of which everything was written down before."""
    before: list[set[str]] = []

    class Watched(ByReadme):
        def install(self, **values: object) -> None:
            if not before:
                before.extend((leftovers.objects(self), leftovers.on_the_node(self)))
            super().install(**values)

    with installed(cluster, kube, tmp_path_factory.mktemp("store"), Watched) as found:
        eventually(lambda: well(found.doctor()), 300)
        yield Snapshot(found, *before)


@pytest.fixture
def readme(snapshot: Snapshot) -> ByReadme:
    """The installation, in which the doctor has found nothing to complain of: what a test breaks it mends."""
    return snapshot.resultsfs


def well(found: Finding) -> bool:
    """Whether everything is green."""
    return not found.of("fail") and not found.of("warn")


def test_two_commands_and_the_doctor_is_content(readme: ByReadme, kube: Kube) -> None:
    """After README.md's two commands every check is green, each says what it found, and none has advice."""
    found = readme.doctor()
    assert found.code == 0
    assert len(found) >= 20
    assert all(line["found"] and not line["advice"] for line in found.values())
    assert readme.bucket in found["store"]["found"]
    assert "kube-system" in found["namespaces"]["found"]
    with Room(kube, "t-by-readme") as room:
        run = room.run(
            taskrun("first", ["small", "large"], write=f"printf yes > $(results.small.path); {fill('large', LARGE)}")
        )
        assert succeeded(run), outcome(run)
        assert results(run)["small"] == "yes"
        reference = Reference.match(results(run)["large"])
        assert reference is not None
        assert reference.sha256 == sha256(LARGE)


@dataclass(frozen=True)
class Broken:
    """One thing broken: how, by which line and words the doctor tells, and the command of its advice that mends it.

    Without a command the test mends it by `mend`, and `says` is what the advice must say.
    """

    breaks: Callable[[ByReadme], object]
    line: str
    found: str
    says: str
    mend: Callable[[ByReadme], object] | None = None
    level: str = "fail"


def _patch_node(selector: dict[str, str | None]) -> Callable[[ByReadme], object]:
    body = {"spec": {"template": {"spec": {"nodeSelector": selector}}}}
    return lambda it: it.kube.patch(DAEMON_SET, "resultsfs-node", body, SYSTEM)


def _enforce(level: str | None) -> Callable[[ByReadme], object]:
    labels = {"pod-security.kubernetes.io/enforce": level}
    return lambda it: it.kube.patch(NAMESPACE, SYSTEM, {"metadata": {"labels": labels}})


def _other_authority(it: ByReadme) -> None:
    """Another authority, as a backup of the cluster brings it back; the controller, who would mend it, is away."""
    it.follow(f"{_SCALE} 0")
    eventually(lambda: not it.pods("controller"), 120)
    bundle = base64.b64encode(certificates.make(["elsewhere"]).bundle).decode()
    configuration = it.kube.get(WEBHOOKS, "resultsfs")
    for webhook in configuration["webhooks"]:
        webhook["clientConfig"]["caBundle"] = bundle
    it.kube.patch(WEBHOOKS, "resultsfs", {"webhooks": configuration["webhooks"]})


def _expired(it: ByReadme) -> None:
    """A certificate of yesterday; the controller, who would renew it, is away."""
    it.follow(f"{_SCALE} 0")
    eventually(lambda: not it.pods("controller"), 120)
    made = certificates.make(["resultsfs-controller.resultsfs.svc"], datetime.timedelta(minutes=-5))
    data = {"tls.crt": made.pair.certificate, "tls.key": made.pair.key, "ca.crt": made.bundle}
    it.kube.patch(
        SECRET, CERTIFICATE, {"data": {key: base64.b64encode(text).decode() for key, text in data.items()}}, SYSTEM
    )


def _bad_setting(text: str | None) -> Callable[[ByReadme], object]:
    return lambda it: it.kube.patch(CONFIG_MAP, "resultsfs", {"data": {"result-size-treshold": text}}, SYSTEM)


BROKEN = {
    "no webhooks": Broken(lambda it: it.kube.delete(WEBHOOKS, "resultsfs"), "webhooks", "there is no", UPGRADE),
    "another authority": Broken(
        _other_authority, "authority", "no authority of its caBundle", "caBundle", lambda it: it.follow(f"{_SCALE} 2")
    ),
    "no controller": Broken(lambda it: it.follow(f"{_SCALE} 0"), "controller", "scaled to 0", f"{_SCALE} 2"),
    "no CSIDriver": Broken(
        lambda it: it.kube.delete(CSI_DRIVER, "csi.resultsfs.dev"), "csi-driver", "ContainerCreating", UPGRADE
    ),
    "no node driver": Broken(
        _patch_node({"nowhere": "true"}),
        "node-driver",
        "no pod of",
        "node.nodeSelector",
        _patch_node({"nowhere": None}),
    ),
    "no holder": Broken(
        lambda it: it.kube.delete(DAEMON_SET, "resultsfs-holder", SYSTEM), "holder", "no DaemonSet", UPGRADE
    ),
    "no store": Broken(lambda it: it.store.stop(), "store", "s3://", "network", lambda it: it.store.start()),
    "other credentials": Broken(
        lambda it: it.store.restart("another-secret"),
        "store",
        "credentials",
        "store.secretName",
        lambda it: it.store.restart(),
    ),
    "baseline": Broken(
        _enforce("baseline"),
        "security",
        "enforce=baseline",
        "kubectl label --overwrite namespace resultsfs pod-security.kubernetes.io/enforce=privileged",
    ),
    "no label": Broken(
        _enforce(None),
        "security",
        "has no label",
        "kubectl label --overwrite namespace resultsfs pod-security.kubernetes.io/enforce=privileged",
        level="warn",
    ),
    "no rights": Broken(
        lambda it: it.kube.delete(BINDING, "resultsfs-controller"), "rights", "resultsfs-controller may not", UPGRADE
    ),
    "no Secret": Broken(lambda it: it.kube.delete(SECRET, CERTIFICATE, SYSTEM), "certificate", "is gone", UPGRADE),
    "expired": Broken(
        _expired, "certificate", "expired", "logs deployment/resultsfs-controller", lambda it: it.follow(f"{_SCALE} 2")
    ),
    "no policy": Broken(
        lambda it: it.kube.delete(POLICY_BINDING, "resultsfs-volumes"), "policy", "binding gone", UPGRADE, level="warn"
    ),
    "bad setting": Broken(
        _bad_setting("1KiB"),
        "settings",
        "result-size-treshold",
        "kubectl --namespace resultsfs edit configmap resultsfs",
        _bad_setting(None),
    ),
}


_MORE = ("no label", "expired", "no policy", "bad setting", "other credentials")
"""Told much as others are."""


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=pytest.mark.slow if what in _MORE else ()) for what in BROKEN]
)
def test_broken_on_purpose(readme: ByReadme, what: str) -> None:
    """One thing is broken: the doctor names it, and after what it advises finds nothing any more."""
    broken = BROKEN[what]
    try:
        broken.breaks(readme)
        eventually(lambda: broken.line in readme.doctor().of(broken.level), 120)
        found = readme.doctor()
        line = found[broken.line]
        assert line["level"] == broken.level, found
        assert broken.found in line["found"]
        assert broken.says in line["advice"]
        assert found.code == (1 if broken.level == "fail" else 0)
    finally:
        if broken.mend is None:
            readme.follow(broken.says)
        else:
            broken.mend(readme)
        eventually(lambda: well(readme.doctor()), 300)


def _ends_while_it_is_retired(readme: ByReadme, room: Room) -> None:
    """A PipelineRun is between two tasks: the next still gets its value, and its pod no volume any more."""
    gate = {"name": "gate", "taskRef": {"apiVersion": "example.dev/v1", "kind": "Gate"}, "runAfter": ["make"]}
    value = "$(tasks.make.results.large)"
    use = uses("use", value, reading('printf %s "$VALUE" | sha256sum'), runAfter=["gate"])
    run = room.start(pipelinerun("in-flight", makes(fill("large", LARGE), ["large"]), gate, use))
    room.wait(CUSTOM_RUN, "in-flight-gate", lambda _: True, deadline=DEADLINE, what="to be made after `make`")
    made = room.taskruns(run)["make"]
    assert Reference.match(results(made)["large"])
    assert room.drivers(made["status"]["podName"])
    readme.retire()
    assert not readme.retired()
    now = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
    opened = {"type": "Succeeded", "status": "True", "reason": "Opened", "lastTransitionTime": now}
    words = ("patch", "customrun", "in-flight-gate", "--namespace", room.name, "--subresource=status", "--type=merge")
    readme.kubectl(*words, f"--patch={json.dumps({'status': {'conditions': [opened]}})}")
    run = room.end(run, deadline=DEADLINE)
    assert succeeded(run), outcome(run)
    used = room.taskruns(run)["use"]
    assert used["spec"]["params"] == [{"name": "value", "value": "x" * LARGE}]
    assert room.log(used, "read").split() == [sha256(LARGE), "-"]
    assert room.drivers(used["status"]["podName"]) == []


def test_nothing_is_left(snapshot: Snapshot, readme: ByReadme, kube: Kube) -> None:
    """Uninstalled as docs/operations.md says: what is in flight ends with its values; then every object, mount, socket,
    directory and process is gone, not the store's content."""
    with Room(kube, "t-last") as room:
        _ends_while_it_is_retired(readme, room)
        readme.take_away()
    eventually(lambda: not leftovers.objects(readme) - snapshot.objects, 120)
    eventually(lambda: not leftovers.on_the_node(readme) - snapshot.node, 120)
    assert not leftovers.objects(readme) - snapshot.objects
    assert not leftovers.on_the_node(readme) - snapshot.node
    kept = [path.name for path in (readme.store.directory / readme.bucket).rglob("*") if path.is_file()]
    assert sha256(LARGE) in kept
    with Room(kube, "t-stock-again") as room:
        run = room.run(taskrun("plain", ["a"], write="printf x > /tekton/results/a"), deadline=DEADLINE)
        assert succeeded(run), outcome(run)
        assert room.drivers(run["status"]["podName"]) == []
