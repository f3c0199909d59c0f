"""Kubeflow's pipelines on the cluster: what its published compiler wrote, unchanged, and outputs of any size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
import yaml

from resultsfs.reference import Reference
from tests.cluster.images import recipes
from tests.cluster.installation import STORE, Installation
from tests.cluster.kube import Manifest
from tests.cluster.machine.lifecycle import Cluster
from tests.cluster.machine.places import Places
from tests.cluster.machine.running import run
from tests.cluster.room import Room, outcome, results, succeeded
from tests.cluster.test_pipelines import makes, pipelinerun, reading, uses
from tests.cluster.test_results import DEADLINE
from tests.support.chart import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

EXAMPLE = ROOT / "examples" / "kubeflow" / "pipeline.yaml"
DROPPED = 3072
"""Bytes: where a component's outputs reach it together, the step `copy-results-artifacts` of the compiler puts an empty
file in the place of a result (sdk/python/kfp_tekton/compiler/_op_to_template.py of kfp-tekton 1.9)."""
_SIZES = (10, 3_000, 70_000, 5 << 20, 200_000_000)


@pytest.fixture(scope="module")
def images(cluster: Places) -> Iterator[None]:
    """The node has an image by each name that the compiled pipeline uses: ours, for it has no registry."""
    pipeline = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    steps = [step for task in pipeline["spec"]["pipelineSpec"]["tasks"] for step in task["taskSpec"]["steps"]]
    names = sorted({f"docker.io/library/{step['image']}" for step in steps})
    images = [*Cluster(cluster).ctr(), "--namespace=k8s.io", "images"]
    run([*images, "tag", "--force", recipes.python().reference, *names])
    yield
    run([*images, "remove", *names])


@pytest.fixture(scope="module")
def compiled(hall: Room, images: None) -> Manifest:
    """The run of the compiler's YAML, as it was published: not a byte of it is changed."""
    return hall.start(EXAMPLE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def varying(hall: Room) -> dict[int, Manifest]:
    """Runs of one pipeline whose output has another size in each."""
    return {size: hall.start(_varying(size)) for size in _SIZES}


def _varying(size: int) -> Manifest:
    write = "head -c $(params.size) /dev/urandom | base64 -w 0 | head -c $(params.size) > $(results.output.path)"
    digest = "sha256sum < $(results.output.path) | head -c 64 > $(results.digest.path)"
    make = makes(f"{write}; {digest}", ["output", "digest"])
    make["taskSpec"]["params"] = [{"name": "size"}]
    make["params"] = [{"name": "size", "value": "$(params.size)"}]
    # As summarise of the example does it: a value, or where that is too large the path of a file.
    read = 'case "$VALUE" in /tekton/results/.ref/*) cat "$VALUE";; *) printf %s "$VALUE";; esac | sha256sum'
    run = pipelinerun(
        f"size-{size}",
        make,
        uses("use", "$(tasks.make.results.output)", reading(read)),
        params=[{"name": "size"}],
    )
    run["metadata"]["annotations"] = {"resultsfs.dev/params-as-path": "true"}
    run["spec"]["params"] = [{"name": "size", "value": str(size)}]
    return run


def test_the_compiled_pipeline_runs_unchanged(hall: Room, compiled: Manifest, resultsfs: Installation) -> None:
    """All components succeed and agree on their inputs, although outputs are far beyond what the compiler lets pass."""
    run = hall.end(compiled, deadline=DEADLINE)
    assert succeeded(run), outcome(run)
    assert not run["status"].get("skippedTasks")
    runs = hall.taskruns(run)
    assert set(runs) == {"measure", "train", "count", "summarise", "condition-is-linear-1"}
    measured = results(runs["measure"])
    assert measured["model"] == "linear-v01"
    assert results(runs["condition-is-linear-1"]) == {"outcome": "true"}
    assert results(runs["count"]) == {"Output": "500"}
    rows = "".join(f"{minute},{minute * 7919 % 1000 / 1000:.3f}\n" for minute in range(365 * 720))
    digest = hashlib.sha256(rows.encode()).hexdigest()
    assert results(runs["summarise"]) == {"sha256": digest, "count": str(365 * 720)}
    spilled = {"rows": measured["rows"], "features": measured["features"], "report": results(runs["train"])["Output"]}
    for name, value in spilled.items():
        reference = Reference.match(value)
        assert reference is not None, name
        place = f"{STORE}/{hall.name}/{run['metadata']['uid']}/{reference.sha256}"
        assert int(resultsfs.node("stat", "--format=%s", place)) > DROPPED
        assert name != "rows" or reference.sha256 == digest


@pytest.mark.parametrize("size", _SIZES)
def test_outputs_of_any_size(hall: Room, varying: dict[int, Manifest], size: int) -> None:
    """From run to run one pipeline's output has 10 bytes, kilobytes, 200 MB: the next task reads what was written."""
    run = hall.end(varying[size], deadline=DEADLINE)
    assert succeeded(run), outcome(run)
    runs = hall.taskruns(run)
    found = results(runs["make"])
    reference = Reference.match(found["output"])
    assert (reference is not None) is (size > 4096)
    if reference is None:
        assert len(found["output"]) == size
        assert hashlib.sha256(found["output"].encode()).hexdigest() == found["digest"]
    else:
        assert reference.sha256 == found["digest"]
    assert hall.log(runs["use"], "read").split() == [found["digest"], "-"]
