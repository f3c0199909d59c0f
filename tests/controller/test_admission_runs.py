"""Runs that a real API server asks the controller about: content goes back in, or they are refused with a reason."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import urllib.error
import urllib.request
from typing import Any
from uuid import UUID, uuid4

import pytest

from controller.admission.size import stored_size
from controller.kube.client import Kube
from controller.kube.errors import ApiError
from controller.kube.resources import CUSTOM_RUNS, NAMESPACES, PIPELINE_RUNS, TASK_RUNS, TASKS
from resultsfs.reference import Reference
from resultsfs.store import Key
from tests.controller.conftest import Serving

pytestmark = [pytest.mark.apiserver, pytest.mark.slow]


def spilled(serving: Serving, namespace: str, content: str | bytes, run: UUID | None = None) -> Reference:
    """Store content as a volume would, and return its reference."""
    data = content.encode() if isinstance(content, str) else content
    reference = Reference.of(run or uuid4(), hashlib.sha256(data).hexdigest())
    serving.store.put(Key.of(namespace, reference), lambda: iter([data]), len(data))
    return reference


def task_run(name: str, *params: tuple[str, Any], **metadata: Any) -> dict[str, Any]:
    """A TaskRun of a Task `consume`."""
    return {
        "apiVersion": "tekton.dev/v1",
        "kind": "TaskRun",
        "metadata": {"name": name, **metadata},
        "spec": {
            "taskRef": {"name": "consume"},
            "params": [{"name": param, "value": value} for param, value in params],
        },
    }


def params(tree: dict[str, Any]) -> dict[str, Any]:
    """The params of a run that was created."""
    return {param["name"]: param["value"] for param in tree["spec"]["params"]}


def test_content_goes_back_into_params_of_all_types(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """Strings, arrays and objects get content where a reference stood, in longer texts too, and the rest stays."""
    one, two = spilled(serving_replica, namespace, "x" * 5000), spilled(serving_replica, namespace, 'a "b" \n c')
    array = spilled(serving_replica, namespace, json.dumps(["p", "q", "r"]))
    made = kube.create(
        TASK_RUNS,
        namespace,
        task_run(
            "all-types",
            ("plain", "stays"),
            ("text", str(one)),
            ("within", f"<{two}> and <{two}>"),
            ("array", ["first", str(two), "last"]),
            ("whole", ["before", f"{array}[*]", "after"]),
            ("object", {"key": str(two), "other": "text"}),
        ),
    )
    assert params(made) == {
        "plain": "stays",
        "text": "x" * 5000,
        "within": '<a "b" \n c> and <a "b" \n c>',
        "array": ["first", 'a "b" \n c', "last"],
        "whole": ["before", "p", "q", "r", "after"],
        "object": {"key": 'a "b" \n c', "other": "text"},
    }
    record = json.loads(made["metadata"]["annotations"]["resultsfs.dev/resolved"])
    assert record["params.text"] == [{"sha256": one.sha256, "size": 5000}]
    assert len(record["params.within"]) == 2


def test_large_values_are_admitted(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """What is too long for the webhook's condition to look through is admitted unchanged where it has no reference, and
    gets its content where it has one, in the last place of many."""
    reference = str(spilled(serving_replica, namespace, "content"))
    plain: tuple[Any, ...] = (["a"] * 50_000, {f"key-{number}": "a" for number in range(20_000)})
    for number, value in enumerate(plain):
        assert params(kube.create(TASK_RUNS, namespace, task_run(f"plain-{number}", ("p", value)))) == {"p": value}
    many = {f"p{number}": "a" for number in range(5_000)}
    assert params(kube.create(TASK_RUNS, namespace, task_run("many", *many.items()))) == many
    array = ["a"] * 5_000
    made = kube.create(TASK_RUNS, namespace, task_run("array", ("p", [*array, reference])))
    assert params(made) == {"p": [*array, "content"]}
    properties = {f"key-{number}": "a" for number in range(5_000)}
    made = kube.create(TASK_RUNS, namespace, task_run("object", ("p", {**properties, "last": reference})))
    assert params(made) == {"p": {**properties, "last": "content"}}
    made = kube.create(TASK_RUNS, namespace, task_run("params", *many.items(), ("last", reference)))
    assert params(made) == {**many, "last": "content"}


def test_a_reference_one_level_deeper_is_found(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """What is no list or mapping of texts is the text of its JSON to Tekton, and the content goes into that."""
    reference = str(spilled(serving_replica, namespace, "content"))
    values: tuple[Any, ...] = ([[reference]], [1, reference], {"a": [reference]}, {"a": 1, "b": reference})
    for number, value in enumerate(values):
        made = kube.create(TASK_RUNS, namespace, task_run(f"deeper-{number}", ("p", value)))
        expected = json.dumps(value, separators=(",", ":")).replace(reference, "content")
        assert params(made) == {"p": expected}


def refused(kube: Kube, namespace: str, tree: dict[str, Any]) -> ApiError:
    """The refusal of a run."""
    resource = {"TaskRun": TASK_RUNS, "PipelineRun": PIPELINE_RUNS, "CustomRun": CUSTOM_RUNS}[tree["kind"]]
    with pytest.raises(ApiError) as caught:
        kube.create(resource, namespace, tree)
    return caught.value


def test_what_holds_no_reference_stays_as_it_is(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """Text that only resembles a reference is the user's own; annotations copied from a PipelineRun say nothing here."""
    text = "/tekton/results/.ref/short and /tekton/results/.ref/"
    stale = {"resultsfs.dev/resolved": "{}", "resultsfs.dev/references": "[]", "other": "stays"}
    made = kube.create(TASK_RUNS, namespace, task_run("plain", ("text", text), annotations=stale))
    assert params(made) == {"text": text}
    assert made["metadata"]["annotations"] == {"other": "stays"}


def test_what_does_not_fit_is_refused_with_the_way_out(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """422 names pipeline task, param, size, limit and annotation; with the annotation's limit it fits."""
    reference = spilled(serving_replica, namespace, "x" * 100_000)
    tree = task_run("large", ("report", str(reference)), labels={"tekton.dev/pipelineTask": "publish"})
    error = refused(kube, namespace, tree)
    assert error.status == 422
    for word in ('pipeline task "publish"', 'param "report"', "100000 bytes", "92160 bytes", "params-as-path"):
        assert word in str(error)
    tree["metadata"]["annotations"] = {"resultsfs.dev/param-inline-limit": "100000"}
    assert params(kube.create(TASK_RUNS, namespace, tree)) == {"report": "x" * 100_000}


def test_what_etcd_does_not_take_is_refused(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """422 in our words, where the API server would say 500 after which Tekton tries for ever: the object counts as Go
    escapes it, so less text of quotes fits than of letters; what fits is created."""
    most = {"resultsfs.dev/param-inline-limit": "1MiB"}
    for number, (text, fits) in enumerate(
        (('"' * (1000 << 10), False), ("\x01" * (300 << 10), False), ("<" * (250 << 10), False),
         ("\u2028" * (250 << 10), False), ('"' * (600 << 10), True), ("<" * (200 << 10), True), ("x" * (1000 << 10), True))
    ):  # fmt: skip
        tree = task_run(f"large-{number}", ("p", str(spilled(serving_replica, namespace, text))), annotations=most)
        if fits:
            assert params(kube.create(TASK_RUNS, namespace, tree)) == {"p": text}
        else:
            error = refused(kube, namespace, tree)
            assert error.status == 422 and "bytes as JSON" in str(error) and "params-as-path" in str(error), text[0]


def test_sizes_are_those_that_go_writes() -> None:
    """Expected: what json.Marshal of Go 1.26 writes of these."""
    everything = "".join(map(chr, range(0x300))) + "\u2028\u2029\ufffd\U0001f600"
    for tree, size in (
        (everything, 1586),
        ({"a<": [1, True, None, '\b\f\n\r\t\x7f\\"/'], "é": {}}, 52),
        ("\ud800x", 6),
    ):
        assert stored_size(tree) == size


def test_params_that_are_none_are_the_crds_to_refuse(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """A param without a name, and what is no list of params, are refused by validation with its own words, and not by an
    error of the webhook's, which Tekton would try again for ever."""
    reference = str(spilled(serving_replica, namespace, "content"))
    for number, bad in enumerate(([{"value": reference}], [reference], [{"name": 5, "value": reference}])):
        tree = task_run(f"bad-{number}")
        tree["spec"]["params"] = bad
        error = refused(kube, namespace, tree)
        assert error.status == 422 and "spec.params[0]" in str(error), bad


@pytest.mark.parametrize("where", ["run", "namespace", "task"])
def test_path_policy_hands_over_the_reference(serving_replica: Serving, kube: Kube, namespace: str, where: str) -> None:
    """By annotation of run, namespace or Task the reference stays, and the run keeps its content by an annotation."""
    as_path = {"annotations": {"resultsfs.dev/params-as-path": "true"}}
    if where == "namespace":
        kube.patch(NAMESPACES, None, namespace, {"metadata": as_path})
    if where == "task":
        task = {"apiVersion": "tekton.dev/v1", "kind": "Task", "metadata": {"name": "consume", **as_path}, "spec": {}}
        kube.create(TASKS, namespace, task)
    reference = spilled(serving_replica, namespace, b"\x00\xff" * 100_000)
    array = spilled(serving_replica, namespace, '["a","b"]')
    tree = task_run(
        "paths", ("report", f"{reference}"), ("list", [f"{array}[*]"]), **(as_path if where == "run" else {})
    )
    made = kube.create(TASK_RUNS, namespace, tree)
    assert params(made) == {"report": str(reference), "list": ["a", "b"]}
    assert json.loads(made["metadata"]["annotations"]["resultsfs.dev/references"]) == [reference.name]


@pytest.mark.parametrize("as_path", ["true", "false"])
def test_unknown_expired_and_foreign_references_are_refused(
    serving_replica: Serving, kube: Kube, namespace: str, as_path: str
) -> None:
    """A reference opens nothing of another namespace; what is not there is refused by value and as a path."""
    foreign = spilled(serving_replica, "another-team", "not yours")
    for number, reference in enumerate((foreign, Reference.of(uuid4(), "0" * 64))):
        tree = task_run(
            f"foreign-{number}", ("text", str(reference)), annotations={"resultsfs.dev/params-as-path": as_path}
        )
        error = refused(kube, namespace, tree)
        assert error.status == 422 and "unknown or expired" in str(error)


def test_a_whole_array_reference_fits_only_an_array_element(
    serving_replica: Serving, kube: Kube, namespace: str
) -> None:
    """`<reference>[*]` anywhere else is refused, never taken for an element."""
    array = spilled(serving_replica, namespace, '["a","b"]')
    for number, value in enumerate((f"{array}[*]", [f"x{array}[*]"], {"key": f"{array}[*]"})):
        error = refused(kube, namespace, task_run(f"star-{number}", ("p", value)))
        assert error.status == 422 and "whole array" in str(error)


def test_content_that_is_no_text_is_refused_by_value(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """Bytes that are not UTF-8 cannot be a param: refused, with the annotation that hands over a path."""
    error = refused(kube, namespace, task_run("bytes", ("p", str(spilled(serving_replica, namespace, b"\xff" * 5000)))))
    assert error.status == 422 and "not UTF-8" in str(error) and "params-as-path" in str(error)


def test_embedded_specs_of_all_kinds(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """Content goes into the embedded specs of TaskRuns, child PipelineRuns and CustomRuns that a run owns."""
    reference = spilled(serving_replica, namespace, "into the spec")
    text = f"echo {reference}"
    owner = {
        "apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "name": "parent", "uid": str(uuid4()), "controller": True
    }  # fmt: skip
    step = {"name": "s", "image": "i", "script": text}
    specs: dict[str, tuple[Any, dict[str, Any]]] = {
        "TaskRun": (TASK_RUNS, {"taskSpec": {"steps": [step]}}),
        "PipelineRun": (PIPELINE_RUNS, {"pipelineSpec": {"tasks": [{"name": "t", "taskSpec": {"steps": [step]}}]}}),
        "CustomRun": (CUSTOM_RUNS, {"customSpec": {"apiVersion": "x/v1", "kind": "K", "spec": {"text": text}}}),
    }
    for kind, (resource, spec) in specs.items():
        tree = {
            "apiVersion": f"tekton.dev/{resource.version}",
            "kind": kind,
            "metadata": {"name": "embedded", "ownerReferences": [owner]},
            "spec": {**spec, "params": [{"name": "p", "value": str(reference)}]},
        }
        made = kube.create(resource, namespace, tree)
        assert "echo into the spec" in json.dumps(made["spec"]), kind
        assert str(reference) not in json.dumps(made["spec"]), kind
        assert params(made) == {"p": "into the spec"}


def test_a_bad_annotation_is_refused(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """An annotation that means nothing, or that only the administrator may set, is an error that names it."""
    reference = str(spilled(serving_replica, namespace, "text"))
    for name, value in (("param-inline-limit", "lots"), ("store", "memory://mine")):
        tree = task_run("bad", ("p", reference), annotations={f"resultsfs.dev/{name}": value})
        error = refused(kube, namespace, tree)
        assert error.status == 422 and f"resultsfs.dev/{name}" in str(error)


def test_one_fetch_per_content(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """A thousand places with one reference take a moment, and the record says how many it leaves out."""
    reference = spilled(serving_replica, namespace, "12345678")
    made = kube.create(TASK_RUNS, namespace, task_run("many", ("list", [str(reference)] * 1000)))
    assert params(made) == {"list": ["12345678"] * 1000}
    record = json.loads(made["metadata"]["annotations"]["resultsfs.dev/resolved"])
    assert len(record["params.list"]) == 200 and record["…"] == "800 more"


def test_wrong_bytes_are_refused(serving_replica: Serving, kube: Kube, namespace: str) -> None:
    """Content that does not have its SHA-256 never gets into a run."""
    reference = spilled(serving_replica, namespace, "right")
    where = serving_replica.store.location(Key.of(namespace, reference)).removeprefix("file://")
    with open(where, "wb") as file:
        file.write(b"wrong")
    error = refused(kube, namespace, task_run("wrong", ("p", str(reference))))
    assert error.status == 422 and "damaged" in str(error)


def test_a_gibibyte_by_value_is_refused_without_reading_it(
    serving_replica: Serving, kube: Kube, namespace: str
) -> None:
    """The size decides before anything is fetched."""
    reference = spilled(serving_replica, namespace, "x")
    where = serving_replica.store.location(Key.of(namespace, reference)).removeprefix("file://")
    os.truncate(where, 1 << 30)
    before = serving_replica.replica.memory()
    error = refused(kube, namespace, task_run("gibibyte", ("p", str(reference))))
    assert error.status == 422 and "1 GiB" in str(error)
    assert serving_replica.replica.memory() - before < 50 << 20


def test_only_the_api_server_is_answered(serving_replica: Serving, namespace: str) -> None:
    """A review of one's own making gets no content: without the token it is 403, whatever namespace it claims."""
    reference = spilled(serving_replica, namespace, "secret")
    request = {
        "uid": "1", "kind": {"kind": "TaskRun"}, "resource": {"resource": "taskruns"}, "operation": "CREATE",
        "namespace": namespace, "object": task_run("forged", ("p", str(reference))),
    }  # fmt: skip
    body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for path in ("/mutate/taskruns", "/mutate/taskruns/guess"):
        asked = urllib.request.Request(serving_replica.replica.https + path, body)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(asked, context=context, timeout=30)
        with caught.value:
            assert caught.value.code == 403 and b"secret" not in caught.value.read()
