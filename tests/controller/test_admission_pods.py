"""Pods that a real API server asks the controller about: a TaskRun's get their volume, all others stay as they are."""

from __future__ import annotations

import copy
import itertools
import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from controller.admission.podspec import declared
from controller.kube.client import Kube
from controller.kube.errors import ApiError
from controller.kube.resources import MUTATING_WEBHOOKS, NAMESPACES, PIPELINE_RUNS, TASK_RUNS, TASKS, Tree
from resultsfs.knobs import Knobs
from resultsfs.record import Keep, Mode
from tests.controller.conftest import Serving
from tests.controller.tekton import PODS
from tests.controller.test_admission_runs import spilled
from tests.support.waiting import eventually

pytestmark = [pytest.mark.apiserver, pytest.mark.slow]

ENTRYPOINT = "/tekton/bin/entrypoint"


def owner(tree: Tree, **changes: Any) -> Tree:
    """An owner reference to an object as its controller."""
    metadata = tree["metadata"]
    reference = {"apiVersion": tree["apiVersion"], "kind": tree["kind"], "name": metadata["name"]}
    return {**reference, "uid": metadata["uid"], "controller": True, **changes}


def task_run(kube: Kube, namespace: str, name: str, parent: Tree | None = None, **metadata: Any) -> Tree:
    """A TaskRun, perhaps of a PipelineRun."""
    if parent is not None:
        metadata["ownerReferences"] = [owner(parent)]
        metadata["labels"] = {"tekton.dev/pipelineTask": name}
    return kube.create(
        TASK_RUNS,
        namespace,
        {
            "apiVersion": "tekton.dev/v1",
            "kind": "TaskRun",
            "metadata": {"name": name, **metadata},
            "spec": {"taskRef": {"name": "any"}},
        },
    )


def pipeline_run(kube: Kube, namespace: str, name: str, spec: Tree, parent: Tree | None = None, task: str = "") -> Tree:
    """A PipelineRun whose status has its pipeline, as Tekton leaves it."""
    metadata: Tree = {"name": name}
    if parent is not None:
        metadata |= {"ownerReferences": [owner(parent)], "labels": {"tekton.dev/pipelineTask": task}}
    tree = {"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "metadata": metadata}
    made = kube.create(PIPELINE_RUNS, namespace, {**tree, "spec": {"pipelineRef": {"name": "any"}}})
    kube.merge(PIPELINE_RUNS.path(namespace, name, "status"), {"status": {"pipelineSpec": spec}})
    return made


def pod(run: Tree, results: str = "a,b", **changes: Any) -> Tree:
    """A TaskRun's pod, in what matters as Tekton makes it: two steps, an init container, a sidecar of the user's."""
    arguments = ["-wait_file", "x", *(["-results", results] if results else []), "-entrypoint", "sh", "--"]
    step = {
        "image": "busybox",
        "command": [ENTRYPOINT],
        "args": [*arguments, "-results", "not,ours"],
        "volumeMounts": [{"name": "tekton-internal-results", "mountPath": "/tekton/results"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{run['metadata']['name']}-pod",
            "labels": {"tekton.dev/taskRun": run["metadata"]["name"]},
            "ownerReferences": [owner(run)],
        },
        "spec": {
            "initContainers": [{"name": "prepare", "image": "busybox"}],
            "containers": [{"name": "step-one", **step}, {"name": "step-two", **step}, {"name": "user", "image": "x"}],
            "volumes": [
                {"name": "tekton-internal-home", "emptyDir": {}},
                {"name": "tekton-internal-results", "emptyDir": {}},
            ],
            **changes,
        },
    }


def volume(made: Tree) -> Tree:
    """The results' volume of a pod."""
    found: Tree = next(one for one in made["spec"]["volumes"] if one["name"] == "tekton-internal-results")
    return found


def knobs(made: Tree) -> Knobs:
    """What is stamped on it."""
    csi = volume(made)["csi"]
    assert csi["driver"] == "csi.resultsfs.dev"
    return Knobs.from_mapping(csi["volumeAttributes"])


def propagation(made: Tree) -> dict[str, str | None]:
    """How the containers that mount the results do so, by their names."""
    return {
        container["name"]: mount.get("mountPropagation")
        for container in [*made["spec"]["initContainers"], *made["spec"]["containers"]]
        for mount in container.get("volumeMounts", [])
        if mount["name"] == "tekton-internal-results"
    }


def test_only_the_volume_changes(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """The emptyDir becomes the driver's volume with the pod's own knobs, mounted so that a mount over a dead one is
    seen; everything else is as without us."""
    run = task_run(kube, namespace, "single", annotations={"resultsfs.dev/result-size-threshold": "1KiB"})
    made = kube.create(PODS, namespace, pod(run))
    found = knobs(made)
    assert found == Knobs(
        results=("a", "b"), taskrun="single", run_uid=found.run_uid, run_name="single", containers=4, threshold=1024
    )
    assert str(found.run_uid) == run["metadata"]["uid"]
    other = pod(run)
    other["metadata"]["name"] = "unchanged"
    del other["metadata"]["labels"]  # then the webhook is not asked
    plain = kube.create(PODS, namespace, other)
    assert volume(plain)["emptyDir"] == {}
    assert propagation(made) == {"step-one": "HostToContainer", "step-two": "HostToContainer"}
    assert propagation(plain) == {"step-one": None, "step-two": None}
    for tree in (made, plain):
        for container in tree["spec"]["containers"]:
            for mount in container.get("volumeMounts", []):
                mount.pop("mountPropagation", None)
        tree["spec"]["volumes"] = [one for one in tree["spec"]["volumes"] if "internal-results" not in one["name"]]
    assert made["spec"] == plain["spec"]


def test_containers_that_others_add_are_counted(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """A pod that comes with our volume already is stamped anew, whatever is on it."""
    run = task_run(kube, namespace, "again")
    tree = pod(run)
    forged = {"results": "a", "taskrun": "other", "run-uid": "00000000-0000-0000-0000-000000000001"}
    tree["spec"]["volumes"][1] = {
        "name": "tekton-internal-results", "csi": {"driver": "csi.resultsfs.dev", "volumeAttributes": forged}
    }  # fmt: skip
    tree["spec"]["containers"].append({"name": "injected", "image": "mesh"})
    found = knobs(kube.create(PODS, namespace, tree))
    assert (found.containers, found.taskrun, found.results) == (5, "again", ("a", "b"))
    assert str(found.run_uid) == run["metadata"]["uid"]


def test_every_mount_of_the_results_propagates(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """Init containers and sidecars too; a mount that says something of propagation, or may not, is left as it is."""
    run = task_run(kube, namespace, "mounts")
    tree = pod(run)

    def mounting(name: str, **more: Any) -> Tree:
        mount = {"name": "tekton-internal-results", "mountPath": "/tekton/results", **more}
        other = {"name": "tekton-internal-home", "mountPath": "/home"}
        return {"name": name, "image": "busybox", "volumeMounts": [other, mount]}

    tree["spec"]["initContainers"] = [mounting("init"), {**mounting("native"), "restartPolicy": "Always"}]
    tree["spec"]["containers"] += [
        mounting("sidecar", readOnly=True),
        mounting("said", mountPropagation="None"),
        mounting("strict", readOnly=True, recursiveReadOnly="Enabled"),
    ]
    made = kube.create(PODS, namespace, tree)
    propagates = dict.fromkeys(("init", "native", "step-one", "step-two", "sidecar"), "HostToContainer")
    assert propagation(made) == {**propagates, "said": "None", "strict": None}
    homes = [
        mount
        for container in [*made["spec"]["initContainers"], *made["spec"]["containers"]]
        for mount in container.get("volumeMounts", [])
        if mount["name"] == "tekton-internal-home"
    ]
    assert [mount for mount in homes if "mountPropagation" in mount] == []


def test_a_pod_is_asked_about_twice(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """While nobody answers the first call, the second one gives the pod its volume; if nobody answers that one either,
    the pod is as Tekton made it."""
    run = task_run(kube, namespace, "twice")
    numbers = itertools.count()

    def created() -> Tree:
        tree = pod(run)
        tree["metadata"]["name"] = f"twice-{next(numbers)}"
        return volume(kube.create(PODS, namespace, tree))

    before = _urls(kube)
    nobody = {name: url.replace(urlsplit(url).netloc, "127.0.0.1:1") for name, url in before.items() if "pods" in name}
    try:
        _call(kube, nobody)
        eventually(lambda: "emptyDir" in created(), 60)
        _call(kube, {"pods-again.resultsfs.dev": before["pods-again.resultsfs.dev"]})
        eventually(lambda: "csi" in created(), 60)
        assert _urls(kube)["pods.resultsfs.dev"] == nobody["pods.resultsfs.dev"]
    finally:
        _call(kube, before)
        eventually(lambda: "csi" in created(), 60)


def _urls(kube: Kube) -> dict[str, str]:
    found = kube.get(MUTATING_WEBHOOKS, None, "resultsfs")
    return {webhook["name"]: webhook["clientConfig"]["url"] for webhook in found["webhooks"]}


def _call(kube: Kube, urls: dict[str, str]) -> None:
    """Have the API server call webhooks there."""
    found = kube.get(MUTATING_WEBHOOKS, None, "resultsfs")
    for webhook in found["webhooks"]:
        webhook["clientConfig"]["url"] = urls.get(webhook["name"], webhook["clientConfig"]["url"])
    kube.update(MUTATING_WEBHOOKS, None, found)


def test_forged_owners_get_nothing(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """Labels decide nothing: a wrong UID, a run that is not there, another kind or group leave the pod as it is; the audit
    log names pod, claim and user of the first two."""
    run = task_run(kube, namespace, "real")
    pipeline = pipeline_run(kube, namespace, "pipeline", {"tasks": []})
    for number, reference in enumerate(
        (
            owner(run, uid="00000000-0000-0000-0000-000000000001"),
            owner(run, name="missing"),
            owner(run, controller=False),
            owner(pipeline),
            owner(run, apiVersion="example.com/v1"),
        )
    ):
        tree = pod(run)
        tree["metadata"] |= {"name": f"forged-{number}", "ownerReferences": [reference]}
        assert "csi" not in volume(kube.create(PODS, namespace, tree)), reference
    lines = [line for line in serving_replica.replica.log.read_text().splitlines() if "forged pod: " in line]
    told = [json.loads(line.partition("forged pod: ")[2]) for line in lines if namespace in line]
    uid = run["metadata"]["uid"]
    wrong = {"pod": "forged-0", "claimed": "real", "claimedUid": "00000000-0000-0000-0000-000000000001"}
    missing = {"pod": "forged-1", "claimed": "missing", "claimedUid": uid}
    who = {"namespace": namespace, "user": "kubernetes-admin"}
    assert all(" WARNING " in line and "resultsfs.audit" in line for line in lines)
    assert [one for number, one in enumerate(told) if one not in told[:number]] == [
        {**wrong, **who},
        {**missing, **who},
    ]


def test_off_by_annotation(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """`inject: "false"` of a run or its namespace leaves pods alone, and the run's own word is the last."""
    off, on = ({"resultsfs.dev/inject": word} for word in ("false", "true"))
    run = task_run(kube, namespace, "off", annotations=off)
    assert "csi" not in volume(kube.create(PODS, namespace, pod(run)))
    other = f"{namespace}-off"
    kube.create(NAMESPACES, None, {"metadata": {"name": other, "annotations": off}})
    assert "csi" not in volume(kube.create(PODS, other, pod(task_run(kube, other, "off"))))
    assert "csi" in volume(kube.create(PODS, other, pod(task_run(kube, other, "on", annotations=on))))


def test_a_bad_annotation_refuses_the_pod(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """Tekton then fails the TaskRun with our text, which names run, annotation, value and what is allowed."""
    for name, value in (("inject", "no"), ("result-size-threshold", "12"), ("param-as-path", "true")):
        run = task_run(kube, namespace, f"bad-{name}", annotations={f"resultsfs.dev/{name}": value})
        with pytest.raises(ApiError) as caught:
            kube.create(PODS, namespace, pod(run))
        assert caught.value.status == 422
        assert name in str(caught.value) and repr(value)[1:-1] in str(caught.value)


def test_without_results_there_is_no_volume_unless_references_are_read(
    serving_replica: Serving, kube: Kube, namespace: str
) -> None:
    """A pod that declares no result is left alone, but for one whose params are paths that only a volume serves."""
    assert "csi" not in volume(kube.create(PODS, namespace, pod(task_run(kube, namespace, "none"), "")))
    run = task_run(kube, namespace, "reads", annotations={"resultsfs.dev/params-as-path": "true"})
    reference = str(spilled(serving_replica, namespace, "content"))
    path = TASK_RUNS.path(namespace, "reads")
    kube.merge(path, {"spec": {"params": [{"name": "report", "value": reference}]}})
    assert knobs(kube.create(PODS, namespace, pod(run, ""))).results == ()


def test_observe_changes_nothing(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """In observe mode pods are counted and stay as they are."""
    run = task_run(kube, namespace, "watched", annotations={"resultsfs.dev/observe": "true"})
    assert "csi" not in volume(kube.create(PODS, namespace, pod(run)))
    assert 'resultsfs_admission_pods_total{outcome="observed"}' in serving_replica.replica.get("/metrics")[1]


def test_observe_takes_no_path_away(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """A TaskRun that was handed a path has the volume that serves it in observe mode, too."""
    annotations = {"resultsfs.dev/observe": "true", "resultsfs.dev/params-as-path": "true"}
    run = task_run(kube, namespace, "reads", annotations=annotations)
    reference = str(spilled(serving_replica, namespace, "content"))
    kube.merge(TASK_RUNS.path(namespace, "reads"), {"spec": {"params": [{"name": "report", "value": reference}]}})
    assert "csi" in volume(kube.create(PODS, namespace, pod(run)))


def test_what_pipelines_above_use_stays_inline(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """A parent's `when` on a child pipeline's result keeps the task's result inline; the topmost run owns the content."""
    top = pipeline_run(
        kube, namespace, "top",
        {"tasks": [
            {"name": "child", "pipelineRef": {"name": "x"}},
            {"name": "next", "when": [{"input": "$(tasks.child.results.verdict)", "operator": "in", "values": ["y"]}]},
        ]},
    )  # fmt: skip
    child = pipeline_run(
        kube, namespace, "child",
        {
            "tasks": [
                {"name": "make", "taskRef": {"name": "x"}},
                {"name": "fan", "matrix": {"params": [{"name": "p", "value": "$(tasks.make.results.b[*])"}]}},
            ],
            "results": [
                {"name": "verdict", "value": "$(tasks.make.results.a)"},
                {"name": "report", "value": "$(tasks.make.results.c)"},
            ],
        },
        top, "child",
    )  # fmt: skip
    run = task_run(kube, namespace, "make", child)
    found = knobs(kube.create(PODS, namespace, pod(run, "a,b,c")))
    assert dict(found.kept) == {"a": Keep.INLINE, "b": Keep.SKELETON}
    assert (found.run_kind, found.run_name, str(found.run_uid)) == ("PipelineRun", "top", top["metadata"]["uid"])


def test_enums_of_tasks_that_are_named(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """What feeds a param of a Task with an enum stays inline, for Tekton compares it; a Task that is not there counts not."""
    spec = {"params": [{"name": "p", "enum": ["x"]}, {"name": "q"}], "steps": [{"name": "s", "image": "x"}]}
    tree = {"apiVersion": "tekton.dev/v1", "kind": "Task", "metadata": {"name": "choosy"}, "spec": spec}
    kube.create(TASKS, namespace, tree)
    given = [{"name": name, "value": f"$(tasks.make.results.{result})"} for name, result in (("p", "a"), ("q", "b"))]
    tasks = [
        {"name": "make", "taskRef": {"name": "x"}},
        {"name": "use", "taskRef": {"name": "choosy"}, "params": given},
        {"name": "lost", "taskRef": {"name": "missing"}, "params": given[1:]},
    ]
    run = task_run(kube, namespace, "make", pipeline_run(kube, namespace, "top", {"tasks": tasks}))
    assert dict(knobs(kube.create(PODS, namespace, pod(run, "a,b"))).kept) == {"a": Keep.INLINE}


def test_where_the_pipeline_is_not_known_all_results_stay_inline(
    serving_replica: Serving, kube: Kube, namespace: str
) -> None:
    """A PipelineRun without status whose pipeline comes from elsewhere: nothing is spilled that `when` might read."""
    tree = {"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "metadata": {"name": "remote"}}
    spec = {"pipelineRef": {"resolver": "git", "params": [{"name": "url", "value": "x"}]}}
    parent = kube.create(PIPELINE_RUNS, namespace, {**tree, "spec": spec})
    run = task_run(kube, namespace, "make", parent)
    assert dict(knobs(kube.create(PODS, namespace, pod(run))).kept) == {"a": Keep.INLINE, "b": Keep.INLINE}


def sidecar(native: bool) -> Tree:
    """A pod in sidecar-logs mode."""
    run = {"apiVersion": "tekton.dev/v1", "kind": "TaskRun", "metadata": {"name": "x", "uid": "y"}}
    tree = pod(run)
    command = ["/ko-app/sidecarlogresults", "-results-dir", "/tekton/results", "-result-names", "a,b,c"]
    container = {"name": "sidecar-tekton-log-results", "image": "x", "command": command}
    tree["spec"]["initContainers" if native else "containers"].append(container)
    return tree


@pytest.mark.parametrize("native", [False, True])
def test_results_by_sidecar_logs(native: bool) -> None:
    """The sidecar's own arguments count, wherever it stands; native sidecars are init containers to the kubelet."""
    found = declared(sidecar(native))
    assert (found.results, found.mode, found.containers) == (("a", "b", "c"), Mode.SIDECAR_LOGS, 5)


def test_room_is_left_for_what_others_add() -> None:
    """Step results and SPIRE take their share of the largest message; other flags are not taken for them."""
    tree = sidecar(False)
    del tree["spec"]["containers"][-1]
    assert declared(tree).reserve == 0
    with_steps = copy.deepcopy(tree)
    with_steps["spec"]["containers"][1]["args"][:0] = ["-step_results", "digest,url"]
    assert 150 < declared(with_steps).reserve < 300
    with_spire = copy.deepcopy(tree)
    with_spire["spec"]["containers"][0]["args"].insert(0, "-enable_spire")
    assert 1500 < declared(with_spire).reserve <= 4096
