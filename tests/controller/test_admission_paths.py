"""Whoever is handed a path has the volume that serves it, or is refused: a real API server asks the controller."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from controller.admission.podspec import unserved
from controller.kube.client import Kube
from controller.kube.errors import ApiError, Conflict
from controller.kube.resources import NAMESPACES, TASK_RUNS, Resource, Tree
from resultsfs.settings import Settings, from_mapping
from tests.controller.conftest import Serving
from tests.controller.replica import delete_quietly
from tests.controller.tekton import PODS
from tests.controller.test_admission_pods import pod, volume
from tests.controller.test_admission_runs import params, refused, spilled, task_run

pytestmark = [pytest.mark.apiserver, pytest.mark.slow]

AS_PATH = {"resultsfs.dev/params-as-path": "true"}
OFF = {"resultsfs.dev/inject": "false"}
RUNTIME_CLASSES = Resource("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass")
WINDOWS: tuple[Tree, ...] = ({"os": {"name": "windows"}}, {"nodeSelector": {"kubernetes.io/os": "windows"}})


def handed(serving: Serving, kube: Kube, namespace: str, **annotations: str) -> Tree:
    """A TaskRun with a reference in its param, as admission leaves it."""
    reference = str(spilled(serving, namespace, "content"))
    tree = task_run(f"run-{uuid.uuid4().hex[:8]}", ("report", reference), annotations={**AS_PATH, **annotations})
    return kube.create(TASK_RUNS, namespace, tree)


@pytest.fixture
def sandbox(kube: Kube) -> Iterator[str]:
    """A RuntimeClass of the name that gVisor's has: the API server refuses pods of one that is not there."""
    try:
        kube.create(RUNTIME_CLASSES, None, {"metadata": {"name": "gvisor"}, "handler": "runsc"})
    except Conflict:
        pass
    yield "gvisor"
    delete_quietly(kube, RUNTIME_CLASSES, "gvisor")


def test_without_a_volume_params_are_handed_over_by_value(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """Where the run or its namespace says `inject: "false"`, the content goes back in, and the pod stays as it is; the
    run's own word is the last, as for pods."""
    run = handed(serving_replica, kube, namespace, **OFF)
    assert params(run) == {"report": "content"}
    assert "resultsfs.dev/references" not in run["metadata"]["annotations"]
    assert "csi" not in volume(kube.create(PODS, namespace, pod(run)))
    other = f"{namespace}-off"
    kube.create(NAMESPACES, None, {"metadata": {"name": other, "annotations": OFF}})
    run = handed(serving_replica, kube, other)
    assert params(run) == {"report": "content"}
    assert "csi" not in volume(kube.create(PODS, other, pod(run)))
    run = handed(serving_replica, kube, other, **{"resultsfs.dev/inject": "true"})
    assert params(run)["report"].startswith("/tekton/results/.ref/")
    assert "csi" in volume(kube.create(PODS, other, pod(run)))


def test_what_does_not_fit_by_value_says_why_it_is_no_path(
    serving_replica: Serving, kube: Kube, namespace: str
) -> None:
    """The refusal names the annotation because of which `params-as-path` counts for nothing."""
    reference = str(spilled(serving_replica, namespace, "x" * 100_000))
    error = refused(kube, namespace, task_run("large", ("p", reference), annotations={**AS_PATH, **OFF}))
    assert error.status == 422 and "100000 bytes" in str(error) and 'resultsfs.dev/inject is "false"' in str(error)


def test_a_path_that_was_handed_over_has_its_volume(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """`inject: "false"` that comes after the TaskRun was created takes no path away."""
    run = handed(serving_replica, kube, namespace)
    kube.merge(TASK_RUNS.path(namespace, run["metadata"]["name"]), {"metadata": {"annotations": OFF}})
    assert "csi" in volume(kube.create(PODS, namespace, pod(run, "")))


def test_sandboxed_pods_and_those_for_windows_are_left_alone(
    serving_replica: Serving, kube: Kube, namespace: str, sandbox: str
) -> None:
    """Their volume stays Tekton's, also where another webhook makes them so after they had ours; for Linux, it is ours."""
    run = kube.create(TASK_RUNS, namespace, task_run("plain"))

    def created(name: str, ours: bool = False, **changes: Any) -> Tree:
        tree = pod(run, **changes)
        tree["metadata"]["name"] = name
        if ours:
            tree["spec"]["volumes"][1] = {"name": "tekton-internal-results", "csi": {"driver": "csi.resultsfs.dev"}}
        return volume(kube.create(PODS, namespace, tree))

    for number, changes in enumerate(({"runtimeClassName": sandbox}, *WINDOWS)):
        assert created(f"left-{number}", **changes)["emptyDir"] == {}
        assert created(f"back-{number}", ours=True, **changes)["emptyDir"] == {}
    assert "csi" in created("linux", os={"name": "linux"}, nodeSelector={"kubernetes.io/os": "linux"})
    assert 'resultsfs_admission_pods_total{outcome="unserved"}' in serving_replica.replica.get("/metrics")[1]


def test_a_pod_that_cannot_have_what_it_was_handed_is_refused(
    serving_replica: Serving, kube: Kube, namespace: str, sandbox: str
) -> None:
    """422 names the pod, what keeps the volume away and the annotation by which the TaskRun gets the content itself."""
    run = handed(serving_replica, kube, namespace)
    for changes, why in (({"runtimeClassName": sandbox}, "'gvisor'"), *((one, "Windows") for one in WINDOWS)):
        with pytest.raises(ApiError) as caught:
            kube.create(PODS, namespace, pod(run, **changes))
        assert caught.value.status == 422
        for word in (f"{run['metadata']['name']}-pod", why, 'resultsfs.dev/inject: "false"'):
            assert word in str(caught.value)
    by_value = handed(serving_replica, kube, namespace, **OFF)
    assert "csi" not in volume(kube.create(PODS, namespace, pod(by_value, runtimeClassName=sandbox)))
    assert json.loads(run["metadata"]["annotations"]["resultsfs.dev/references"])


def test_which_runtime_classes_are_left_alone() -> None:
    """Those of gVisor and Kata by their usual names; the setting replaces them, and empty it is none."""
    usual = Settings().skipped_runtime_classes

    def left(name: str, classes: tuple[str, ...] = usual) -> bool:
        return bool(unserved({"spec": {"runtimeClassName": name}}, classes))

    assert all(left(name) for name in ("gvisor", "runsc", "kata", "kata-qemu", "kata-clh"))
    assert not any(left(name) for name in ("", "nvidia", "crun", "katana"))
    named = from_mapping({"skipped-runtime-classes": "mine, vm-*"}).skipped_runtime_classes
    assert left("vm-1", named) and not left("gvisor", named)
    assert not left("gvisor", from_mapping({"skipped-runtime-classes": ""}).skipped_runtime_classes)
