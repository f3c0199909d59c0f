"""`resultsfs list|get|stat pipelinerun/NAME`: its own results, and by task those of the runs that it made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from controller.kube.client import Kube
from controller.kube.resources import CUSTOM_RUNS, PIPELINE_RUNS, TASK_RUNS, Resource, Tree
from tests.controller.conftest import Serving
from tests.controller.replica import account_kubeconfig
from tests.controller.test_admission_pods import pipeline_run, task_run
from tests.controller.test_admission_runs import spilled
from tests.controller.test_api import allow, made, token
from tests.controller.test_commands import Run, command_of

pytestmark = [pytest.mark.apiserver, pytest.mark.slow, pytest.mark.timeout(600)]

CONTENT = "content" * 1000
Ask = Callable[..., Any]


def status(kube: Kube, resource: Resource, namespace: str, name: str, **values: str) -> None:
    """Give a run these results."""
    results = [{"name": key, "type": "string", "value": value} for key, value in values.items()]
    kube.merge(resource.path(namespace, name, "status"), {"status": {"podName": "", "results": results}})


def _child(name: str, task: str, kind: str = "TaskRun") -> Tree:
    return {"apiVersion": "tekton.dev/v1", "kind": kind, "name": name, "pipelineTaskName": task}


@pytest.fixture
def whole(serving_replica: Serving, kube: Kube, namespace: str) -> str:
    """A PipelineRun of tasks with results: a matrix, one whose run is gone, a custom one, a pipeline; its name."""
    parent = pipeline_run(kube, namespace, "whole", {"tasks": []})
    reference = str(spilled(serving_replica, namespace, CONTENT, UUID(parent["metadata"]["uid"])))
    for name in ("whole-make", "whole-each-0", "whole-each-1"):
        task_run(kube, namespace, name)
    pipeline_run(kube, namespace, "whole-inner", {"tasks": []})
    status(kube, TASK_RUNS, namespace, "whole-make", out=reference, digest="of make", only="yes")
    for number in range(2):
        status(kube, TASK_RUNS, namespace, f"whole-each-{number}", out=f"each {number}")
    status(kube, PIPELINE_RUNS, namespace, "whole-inner", inner="of the pipeline within")
    custom = {"customRef": {"apiVersion": "example.dev/v1", "kind": "Wait"}}
    tree = {
        "apiVersion": "tekton.dev/v1beta1",
        "kind": "CustomRun",
        "metadata": {"name": "whole-custom"},
        "spec": custom,
    }
    kube.create(CUSTOM_RUNS, namespace, tree)
    status(kube, CUSTOM_RUNS, namespace, "whole-custom", waited="5 s")
    status(kube, PIPELINE_RUNS, namespace, "whole", digest="the pipeline's own")
    children = [
        _child("whole-make", "make"),
        _child("whole-each-0", "each"),
        _child("whole-each-1", "each"),
        _child("whole-gone", "gone"),
        _child("whole-custom", "custom", "CustomRun"),
        _child("whole-inner", "inner", "PipelineRun"),
    ]
    kube.merge(PIPELINE_RUNS.path(namespace, "whole", "status"), {"status": {"childReferences": children}})
    return "pipelinerun/whole"


@pytest.fixture(params=["store", "api"])
def ask(request: pytest.FixtureRequest, serving_replica: Serving, kube: Kube, namespace: str, tmp_path: Path) -> Ask:
    """The command as a person runs it who may get the namespace's runs, and list none: by the store, or by the API."""
    allow(kube, namespace, "reader")
    token(kube, namespace, "reader")
    config = account_kubeconfig(serving_replica.api, kube, "reader", namespace)
    run: Run = command_of(serving_replica, tmp_path)
    by = {"store": ["--store", serving_replica.store.url], "api": ["--api", serving_replica.replica.https]}
    chosen = by[request.param]
    return lambda *words: run(*words, "-n", namespace, *chosen, kubeconfig=config, trusted=True)


ROWS = [
    ("make", "whole-make", "out", len(CONTENT)),
    ("make", "whole-make", "digest", 7),
    ("make", "whole-make", "only", 3),
    ("each", "whole-each-0", "out", 6),
    ("each", "whole-each-1", "out", 6),
    ("custom", "whole-custom", "waited", 3),
    ("inner", "whole-inner", "inner", 22),
    ("(pipeline)", "whole", "digest", 18),
]


def test_a_list_has_its_own_and_those_of_its_tasks(ask: Ask, whole: str) -> None:
    """Every result of every run that is there, in the pipeline's order and its own last; what is missing is said."""
    listed = ask("list", whole, "--output", "json")
    assert listed.returncode == 0, listed.stderr
    found = json.loads(listed.stdout)
    assert [(row["task"], row["run"], row["name"], row["size"]) for row in found["results"]] == ROWS
    assert len(found["notes"]) == 1 and "whole-gone of task gone" in found["notes"][0]
    table = ask("list", whole)
    for word in (b"make ", b"each (whole-each-0)", b"each (whole-each-1)", b"(pipeline)", b"spilled"):
        assert word in table.stdout, table.stdout
    assert b"left out: TaskRun whole-gone" in table.stderr


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("digest", "the pipeline's own"),
        ("make/digest", "of make"),
        ("whole-make/digest", "of make"),
        ("only", "yes"),
        ("make/out", CONTENT),
        ("whole-each-1/out", "each 1"),
        ("inner/inner", "of the pipeline within"),
        ("custom/waited", "5 s"),
    ],
)
def test_each_has_a_name(ask: Ask, whole: str, name: str, content: str) -> None:
    """NAME is the pipeline's own, or a task's where no other has it; TASK/NAME and TASKRUN/NAME are those of its runs."""
    read = ask("get", whole, name)
    assert (read.returncode, read.stdout.decode()) == (0, content), read.stderr
    facts = json.loads(ask("stat", whole, name, "--output", "json").stdout)
    assert (facts["size"], facts["spilled"]) == (len(content), content == CONTENT)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("out", "say which of make/out, whole-each-0/out, whole-each-1/out"),
        ("each/out", "say which of whole-each-0/out, whole-each-1/out"),
        ("make/none", "there are: "),
        ("none/out", "make/out, make/digest, make/only, whole-each-0/out"),
    ],
)
def test_a_name_that_is_none_or_several_says_which_there_are(ask: Ask, whole: str, name: str, said: str) -> None:
    """An error that lists the names that would do."""
    read = ask("get", whole, name)
    assert read.returncode == 2 and said in read.stderr.decode(), read.stderr
    assert read.stdout == b""


def test_of_a_run_that_is_gone(ask: Ask, whole: str) -> None:
    """A task's result whose TaskRun was deleted is told as that, not as a name that never was."""
    read = ask("get", whole, "gone/out")
    assert read.returncode == 1 and b"whole-gone" in read.stderr and b"404" in read.stderr, read.stderr


def test_the_api_names_the_runs_that_it_made(serving_replica: Serving, kube: Kube, namespace: str, whole: str) -> None:
    """The list of a PipelineRun has its own results, and says at which paths those of its tasks are."""
    allow(kube, namespace, "reader")
    for client in made(serving_replica, token(kube, namespace, "reader")):
        base = f"/v1/namespaces/{namespace}"
        listed = client.ask(f"{base}/pipelineruns/whole/results").json()
        assert [row["name"] for row in listed["results"]] == ["digest"]
        assert listed["children"][0] == {"kind": "taskruns", "name": "whole-make", "task": "make"}
        child = listed["children"][0]
        assert client.ask(f"{base}/{child['kind']}/{child['name']}/results/out").data == CONTENT.encode()
        assert client.ask(f"{base}/{child['kind']}/{child['name']}/results").json()["children"] == []
