"""Every file in `examples/`, run as it is, with resultsfs and as plain Tekton would."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from resultsfs.message import TOO_LONG
from tests.support.examples import EXAMPLES, Outcome, Runner

pytestmark = pytest.mark.mount


def sha256(text: str | bytes) -> str:
    """In hex."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def assert_too_long(outcome: Outcome, task: str, step: str, skipped: list[str]) -> None:
    """The task's step ended as Tekton ends one whose results are too large, and nothing after it ran."""
    assert outcome.status == "Failed"
    assert outcome.task(task)["status"] == "Failed"
    assert f'"step-{step}" exited with code 1' in outcome.task(task)["message"]
    assert outcome.task(task)["results"] == []
    assert TOO_LONG in outcome.said
    assert outcome.tree["skipped"] == skipped
    assert outcome.tree["results"] == []


def test_release_images(runner: Runner) -> None:
    """IMAGES of 4572 bytes is spilled, though Chains reads it, and the next task gets all of it as a param."""
    outcome = runner.run("release-images.yaml")
    assert (outcome.status, outcome.tree["skipped"]) == ("Succeeded", [])
    assert outcome.spilled() == {("publish", "IMAGES")}
    images = outcome.result("publish", "IMAGES")
    assert images["size"] == 4572
    assert runner.matches(images)
    assert len(re.findall(rb"[a-z.]+/[a-z./-]+@sha256:[0-9a-f]{64},", runner.content(images["value"]))) == 32
    assert outcome.value("publish", "count") == "32"
    assert outcome.value("verify", "sha256") == images["sha256"]
    assert outcome.of_run("images")["value"] == images["value"]
    assert "ChainsResultSpilled" in outcome.said


def test_release_images_in_plain_tekton(runner: Runner) -> None:
    """Plain Tekton's release fails when its images are already published."""
    assert_too_long(runner.run("release-images.yaml", "--stock"), "publish", "tag-images", ["verify"])


def test_demo(runner: Runner) -> None:
    """A small result decides a branch; large ones reach later tasks as a param and as a file, unchanged."""
    outcome = runner.run("demo.yaml")
    assert (outcome.status, outcome.tree["skipped"]) == ("Succeeded", ["announce-nightly"])
    assert outcome.spilled() == {("publish", "IMAGES"), ("list-files", "listing")}
    for task, name in outcome.spilled():
        assert runner.matches(outcome.result(task, name))
    images, listing = outcome.result("publish", "IMAGES"), outcome.result("list-files", "listing")
    assert outcome.value("publish", "images-sha256") == images["sha256"]
    assert outcome.value("list-files", "listing-sha256") == listing["sha256"]
    assert f"received {images['sha256']}" in outcome.said
    assert f"read     {listing['sha256']}, {listing['size']} bytes" in outcome.said


def test_demo_of_a_nightly(runner: Runner) -> None:
    """Another version takes the other branch."""
    outcome = runner.run("demo.yaml", "-p", "version=v0.28.0-nightly")
    assert (outcome.status, outcome.tree["skipped"]) == ("Succeeded", ["announce"])


def test_demo_in_plain_tekton(runner: Runner) -> None:
    """Plain Tekton fails both tasks that write large results, and lets no other run."""
    outcome = runner.run("demo.yaml", "--stock")
    assert outcome.status == "Failed"
    assert TOO_LONG in outcome.said
    assert "Succeeded" not in {run["status"] for run in outcome.tree["taskRuns"]}


def test_http_json(runner: Runner) -> None:
    """The body of an HTTP answer, megabytes, is read by the next task as a file, in the same bytes."""
    outcome = runner.run("http-json.yaml")
    assert (outcome.status, outcome.tree["skipped"]) == ("Succeeded", ["report-failure"])
    assert outcome.spilled() == {("fetch", "payload")}
    payload = outcome.result("fetch", "payload")
    assert payload["size"] > 2_000_000
    assert runner.matches(payload)
    assert outcome.value("fetch", "sha256") == payload["sha256"]
    assert len(json.loads(runner.content(payload["value"]))["items"]) == 40_000
    assert outcome.value("summarise", "items") == "40000"
    assert f"{payload['size']} bytes, SHA-256 {payload['sha256']}, given as /tekton/results/.ref/" in outcome.said


def test_http_json_that_is_small(runner: Runner) -> None:
    """A small body stays in status and comes to the next task as itself, though it asked for paths."""
    outcome = runner.run("http-json.yaml", "-p", "rows=2")
    assert outcome.status == "Succeeded"
    assert outcome.spilled() == set()
    body = outcome.value("fetch", "payload")
    assert [item["id"] for item in json.loads(body)["items"]] == [0, 1]
    assert f"{len(body)} bytes, SHA-256 {sha256(body)}, given as {{" in outcome.said
    assert outcome.value("summarise", "items") == "2"


def test_http_json_in_plain_tekton(runner: Runner) -> None:
    """Plain Tekton's fetch fails, and neither branch of the `when` is taken."""
    outcome = runner.run("http-json.yaml", "--stock")
    assert_too_long(outcome, "fetch", "fetch", ["summarise", "report-failure"])


def pypi_out_of_reach() -> str | None:
    """Why the index that pip asks cannot be reached; None when it answers, or pip fails for another reason."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "pip", "--retries", "1", "download", "--no-deps", "--quiet"]
        asked = subprocess.run(
            [*command, "--dest", directory, "cyclonedx-bom==7.5.0"], capture_output=True, check=False, text=True
        )
    # of an index that does not answer pip says that it has no version at all
    lost = asked.returncode != 0 and "from versions: none" in asked.stderr
    return f"pip cannot reach its index: {asked.stderr.strip()}" if lost else None


@pytest.mark.timeout(600)
def test_sbom(runner: Runner) -> None:
    """A bill of materials by cyclonedx-bom reaches the next task whole, as a param."""
    if problem := pypi_out_of_reach():
        pytest.skip(problem)
    outcome = runner.run("sbom.yaml", timeout=500)
    assert outcome.status == "Succeeded", outcome.said
    assert outcome.spilled() == {("make-sbom", "sbom")}
    sbom = outcome.result("make-sbom", "sbom")
    assert 4096 < sbom["size"] < 90 << 10
    assert runner.matches(sbom)
    assert outcome.value("make-sbom", "sha256") == sbom["sha256"]
    document = json.loads(runner.content(sbom["value"]))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert ("cyclonedx-bom", "7.5.0") in {(item["name"], item["version"]) for item in document["components"]}
    assert outcome.value("check-sbom", "components") == str(len(document["components"]))
    assert isinstance(outcome.value("check-sbom", "unlicensed"), list)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sbom_in_plain_tekton(runner: Runner) -> None:
    """Plain Tekton fails the step that made the document."""
    if problem := pypi_out_of_reach():
        pytest.skip(problem)
    assert_too_long(runner.run("sbom.yaml", "--stock", timeout=500), "make-sbom", "sbom", ["check-sbom"])


TWELVE = [
    *("build", "unit", "integration", "lint", "types", "licences"),
    *("secrets", "dependencies", "image", "signature", "docs", "coverage"),
]


def test_twelve_steps(runner: Runner) -> None:
    """Twelve messages of at most 877 bytes lose none of twelve results: what exceeds a share is spilled."""
    outcome = runner.run("twelve-steps.yaml")
    assert (outcome.status, outcome.tree["skipped"]) == ("Succeeded", [])
    results = outcome.task("check")["results"]
    assert [result["name"] for result in results] == TWELVE
    assert outcome.spilled() == {("check", "dependencies")}
    assert outcome.result("check", "dependencies")["size"] == 1300
    assert runner.matches(outcome.result("check", "dependencies"))
    reports = [runner.content(result["value"]) if result["spilled"] else result["value"].encode() for result in results]
    assert outcome.value("report", "sha256") == sha256(b"".join(reports))
    assert outcome.value("report", "lines") == str(b"".join(reports).count(b"\n"))


def test_twelve_steps_in_plain_tekton(runner: Runner) -> None:
    """Plain Tekton's TaskRun succeeds and has lost nine results; the run fails only where one is asked for."""
    outcome = runner.run("twelve-steps.yaml", "--stock")
    check = outcome.task("check")
    assert (check["status"], check["reason"]) == ("Succeeded", "Succeeded")
    assert [result["name"] for result in check["results"]] == TWELVE[:3]
    assert TOO_LONG not in outcome.said
    assert (outcome.status, outcome.tree["reason"]) == ("Failed", "PipelineValidationFailed")
    assert 'task "check" completed successfully but did not emit the result "lint"' in outcome.tree["message"]
    assert outcome.runs_of("report") == []


def test_arrays_objects_matrix(runner: Runner) -> None:
    """Skeletons keep arity and keys, and index, `[*]`, property and matrix each get the right content."""
    outcome = runner.run("arrays-objects-matrix.yaml")
    assert (outcome.status, outcome.tree["skipped"]) == ("Succeeded", [])
    assert outcome.spilled() == {("collect", "logs"), ("collect", "release")}
    logs, release = outcome.result("collect", "logs"), outcome.result("collect", "release")
    assert (logs["type"], release["type"]) == ("array", "object")
    contents = [runner.content(reference) for reference in logs["value"]]
    assert [set(re.findall(rb"shard \d", content)) for content in contents] == [
        {b"shard 0"},
        {b"shard 1"},
        {b"shard 2"},
    ]
    assert sha256(json.dumps([content.decode() for content in contents])) == logs["sha256"]
    assert (set(release["value"]), release["value"]["version"]) == ({"version", "notes"}, "1.4.2")
    notes = runner.content(release["value"]["notes"])
    assert sha256(json.dumps({"version": "1.4.2", "notes": notes.decode()})) == release["sha256"]

    assert outcome.value("one-element", "sha256") == sha256(contents[1])
    assert outcome.value("one-property", "sha256") == sha256(notes)
    assert outcome.value("everything", "sha256s") == [sha256(content) for content in (*contents, notes)]
    assert outcome.value("everything", "version") == "1.4.2"
    combinations = [f"shard {shard} on linux/{arch}" for arch in ("amd64", "arm64") for shard in range(3)]
    assert [run["results"][0]["value"] for run in outcome.runs_of("each")] == combinations
    assert outcome.value("gather", "count") == "6"
    assert outcome.of_run("shards")["value"] == combinations
    assert outcome.of_run("logs")["value"] == logs["value"]
    of_run = outcome.of_run("notes")
    assert of_run["value"] == release["value"]["notes"]
    assert (of_run["size"], of_run["sha256"], of_run["spilled"]) == (len(notes), sha256(notes), True)


def test_arrays_objects_matrix_in_plain_tekton(runner: Runner) -> None:
    """Plain Tekton fails the task that writes the array."""
    skipped = ["one-element", "one-property", "everything", "each", "gather"]
    assert_too_long(runner.run("arrays-objects-matrix.yaml", "--stock"), "collect", "collect", skipped)


def test_kubeflow(runner: Runner) -> None:
    """A pipeline as kfp-tekton compiled it runs unchanged, whatever size its outputs have."""
    outcome = runner.run("kubeflow/pipeline.yaml")
    assert (outcome.status, outcome.tree["skipped"]) == ("Succeeded", []), outcome.said
    assert outcome.spilled() == {("measure", "rows"), ("measure", "features"), ("train", "Output")}
    rows = outcome.result("measure", "rows")
    assert rows["size"] > 3_000_000
    assert all(runner.matches(outcome.result(*name)) for name in outcome.spilled())
    assert outcome.value("measure", "model") == "linear-v01"
    assert outcome.value("condition-is-linear-1", "outcome") == "true"
    assert outcome.value("count", "Output") == "500"
    assert outcome.value("summarise", "sha256") == rows["sha256"]
    assert outcome.value("summarise", "count") == str(365 * 720)


@pytest.mark.parametrize(("days", "spilled"), [("0", False), ("1", True)])
def test_kubeflow_with_other_sizes(runner: Runner, days: str, spilled: bool) -> None:
    """The same pipeline takes rows of no bytes and of kilobytes."""
    outcome = runner.run("kubeflow/pipeline.yaml", "-p", f"days={days}")
    assert outcome.status == "Succeeded", outcome.said
    rows = outcome.result("measure", "rows")
    assert rows["spilled"] is spilled
    assert outcome.value("summarise", "sha256") == rows["sha256"]
    assert outcome.value("summarise", "count") == str(int(days) * 720)


def test_kubeflow_in_plain_tekton(runner: Runner) -> None:
    """Plain Tekton fails the first component."""
    skipped = ["train", "count", "summarise", "condition-is-linear-1"]
    assert_too_long(runner.run("kubeflow/pipeline.yaml", "--stock"), "measure", "main", skipped)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kubeflow_compiles_to_the_file(tmp_path: Path) -> None:
    """The published compiler makes exactly the committed YAML of the committed DSL."""
    if sys.version_info >= (3, 13):
        pytest.skip("kfp 1.8.22 needs lib2to3, which Python 3.13 has no more")
    if problem := pypi_out_of_reach():
        pytest.skip(problem)
    script = EXAMPLES.parent / "scripts" / "compile-kubeflow"
    subprocess.run(
        [script, sys.executable, tmp_path / "pipeline.yaml"], check=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert (tmp_path / "pipeline.yaml").read_text() == (EXAMPLES / "kubeflow" / "pipeline.yaml").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline.yaml"]


def test_every_example_is_run() -> None:
    """No YAML file below `examples/` is without a test here that runs it, and the README lists them all."""
    files = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.y*ml")}
    source = Path(__file__).read_text(encoding="utf-8")
    assert set(re.findall(r'runner\.run\(\s*"([^"]+)"', source)) == files
    assert set(re.findall(r"\]\(([^)]+\.ya?ml)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"))) == files
    for path in files - {"kubeflow/pipeline.yaml"}:  # the compiler's
        assert (EXAMPLES / path).read_text(encoding="utf-8").startswith("# "), path
