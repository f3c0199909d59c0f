"""Tekton's own examples, as its module has them but for the images that their steps run in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from resultsfs.reference import Reference
from tests.cluster.images import recipes
from tests.cluster.installation import Installation
from tests.cluster.kube import PIPELINERUN, TASKRUN, Kind, Kube, Manifest, kind_of
from tests.cluster.machine.settings import DISK
from tests.cluster.room import Room, outcome, results, succeeded
from tests.support import tekton

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

_DEADLINE = 900.0
_VOLUME = Kind("v1", "PersistentVolume")
_WHEN = "pipelineruns/pipelinerun-with-when-expressions"
_IMAGE = re.compile(r"(?<=image: )mirror\.gcr\.io/\S+")
EXAMPLES = (
    "taskruns/task-result",
    "taskruns/object-param-result",
    "taskruns/beta/emit-array-results",
    "taskruns/beta/large-task-result",
    "pipelineruns/4808-regression",
    "pipelineruns/task_results_example",
    "pipelineruns/pipelinerun-results",
    "pipelineruns/pipelinerun-array-results-substitution",
    "pipelineruns/pipeline-object-results",
    "pipelineruns/propagating_results_implicit_resultref",
    _WHEN,
    "pipelineruns/beta/pipelinerun-with-matrix-and-results",
)


class Examples:
    """The runs that the examples make, which all run at once."""

    def __init__(self, hall: Room) -> None:
        self.room = hall
        folder = tekton.source().directory / "examples" / "v1"
        self._started = {name: self._start((folder / f"{name}.yaml").read_text()) for name in EXAMPLES}

    def _start(self, text: str) -> Manifest:
        run: Manifest | None = None
        for document in yaml.safe_load_all(_IMAGE.sub(recipes.busybox().reference, text)):
            made = self.room.start(document)
            run = made if kind_of(made) in (PIPELINERUN, TASKRUN) else run
        assert run is not None
        return run

    def succeeded(self, name: str) -> tuple[Manifest, list[Manifest]]:
        """An example's run when it has ended well, and its TaskRuns; those with results had them on resultsfs."""
        run = self.room.end(self._started[name], deadline=_DEADLINE)
        assert succeeded(run), outcome(run)
        runs = self.taskruns(run)
        for made in runs:
            ours = self.room.drivers(made["status"]["podName"])
            assert ours == (["csi.resultsfs.dev"] if made["status"]["taskSpec"].get("results") else [])
        return run, runs

    def taskruns(self, run: Manifest) -> list[Manifest]:
        """The TaskRuns of a run; of a matrix all."""
        if kind_of(run) == TASKRUN:
            return [run]
        selector = f"tekton.dev/pipelineRun={run['metadata']['name']}"
        return self.room.kube.list(TASKRUN, self.room.name, label_selector=selector)

    def printed(self, run: Manifest, task: str, step: str) -> str:
        """What a step of a PipelineRun's task printed."""
        return self.room.log(self.room.taskruns(run)[task], step)


@pytest.fixture(scope="module")
def examples(hall: Room, kube: Kube, resultsfs: Installation) -> Iterator[Examples]:
    """All examples started; and a volume for the one that claims one, for nothing on the cluster makes volumes."""
    volume: dict[str, Any] = {
        "apiVersion": _VOLUME.api_version,
        "kind": _VOLUME.kind,
        "metadata": {"name": hall.name},
        "spec": {
            "capacity": {"storage": "16Mi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "",
            "hostPath": {"path": f"{DISK}/{hall.name}", "type": "DirectoryOrCreate"},
        },
    }
    kube.apply([volume])
    try:
        yield Examples(hall)
    finally:
        kube.delete(_VOLUME, hall.name)
        resultsfs.node("rm", "-rf", f"{DISK}/{hall.name}")


def test_task_result(examples: Examples) -> None:
    """Two steps' results of one line each reach status with their newline."""
    run, _ = examples.succeeded("taskruns/task-result")
    found = results(run)
    assert found["current-date-unix-timestamp"] == examples.room.log(run, "print-date-unix-timestamp")
    assert found["current-date-human-readable"] == examples.room.log(run, "print-date-human-readable")


def test_object_param_result(examples: Examples) -> None:
    """An object result reaches status as an object."""
    run, _ = examples.succeeded("taskruns/object-param-result")
    assert results(run) == {"object-results": {"IMAGE_URL": "ar.com", "IMAGE_DIGEST": "sha234"}}


def test_emit_array_results(examples: Examples) -> None:
    """An array result reaches status as an array, and a later step reads the file."""
    run, _ = examples.succeeded("taskruns/beta/emit-array-results")
    assert results(run) == {"array-results": ["hello", "world"]}
    assert examples.room.log(run, "check-results-array") == "TRUE\n"


def test_large_task_result(examples: Examples) -> None:
    """Five results of 3.4 KB, for which Tekton's own tests need sidecar logs, succeed by termination messages."""
    run, _ = examples.succeeded("taskruns/beta/large-task-result")
    found = results(run)
    assert sorted(found) == [f"result{number}" for number in range(1, 6)]
    printed = examples.room.log(run, "step1") + examples.room.log(run, "step2")
    for value in found.values():
        assert Reference.match(value) or value in printed
    assert any(Reference.match(value) for value in found.values())


def test_4808_regression(examples: Examples) -> None:
    """A result of 3,000 bytes goes from task to task inline."""
    run, _ = examples.succeeded("pipelineruns/4808-regression")
    assert examples.printed(run, "print-result", "print-result") == "." * 3000 + "\n"
    assert results(examples.room.taskruns(run)["generate-result"]) == {"RESULT_STRING": "." * 3000}


def test_task_results_example(examples: Examples) -> None:
    """Two results meet in one param: 20 and 12 are 2012, twice."""
    run, _ = examples.succeeded("pipelineruns/task_results_example")
    assert results(examples.room.taskruns(run)["sum-and-multiply"]) == {"sum": "4024"}


def test_pipelinerun_results(examples: Examples) -> None:
    """Results of tasks become results of the pipeline, also within longer strings."""
    run, _ = examples.succeeded("pipelineruns/pipelinerun-results")
    assert results(run) == {"sum": "22", "partial-sum": "12", "all-sum": "22-12"}


def test_array_results_substitution(examples: Examples) -> None:
    """Arrays as a whole and by index, also past an empty element."""
    run, _ = examples.succeeded("pipelineruns/pipelinerun-array-results-substitution")
    assert "Done validating reading from an array" in examples.printed(run, "task2", "validate-image")


def test_object_results(examples: Examples) -> None:
    """Objects as a whole and by property."""
    run, _ = examples.succeeded("pipelineruns/pipeline-object-results")
    assert "validate the object digest successfully" in examples.printed(run, "task2", "validate-whole-object")


def test_propagated_results(examples: Examples) -> None:
    """A result is used in an embedded task without a param."""
    run, _ = examples.succeeded("pipelineruns/propagating_results_implicit_resultref")
    assert examples.printed(run, "show-uid", "show-uid") == "1001\n"


def test_when_expressions(examples: Examples) -> None:
    """Results decide in `when`, of tasks and of finally tasks."""
    run, _ = examples.succeeded(_WHEN)
    assert set(examples.room.taskruns(run)) == {
        "create-file",
        "check-file",
        "echo-file-exists",
        "sample-task-with-array-values",
        "finally-task-should-be-executed",
    }


def test_matrix_and_results(examples: Examples) -> None:
    """An array result and elements of another fan out: three platforms by two browsers."""
    run, _ = examples.succeeded("pipelineruns/beta/pipelinerun-with-matrix-and-results")
    fanned = [
        made for made in examples.taskruns(run) if made["metadata"]["labels"]["tekton.dev/pipelineTask"][-3:] == "dag"
    ]
    assert {examples.room.log(made, "echo") for made in fanned} == {
        f"Visit myfavoritesitedotcom on {platform} using {browser}.\n"
        for platform in ("linux", "mac", "windows")
        for browser in ("chrome", "firefox")
    }
