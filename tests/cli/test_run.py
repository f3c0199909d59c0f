"""`resultsfs run`: what it prints, what it returns, what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from resultsfs import mountinfo
from resultsfs.reference import Reference
from tests.cli.conftest import DEADLINE, LARGE, PIPELINE, Home


def task(script: str, results: str = "[]", extra: str = "") -> str:
    """A Task of one step."""
    return (
        "apiVersion: tekton.dev/v1\nkind: Task\nmetadata: {name: one}\nspec:\n"
        f"  results: {results}\n  steps:\n    - name: only\n      script: {json.dumps(script)}\n{extra}"
    )


def running(words: str) -> list[str]:
    """The commands of all processes whose command line has these words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # gone meanwhile
            continue
        if words in command:
            found.append(command)
    return found


pytestmark = pytest.mark.mount


def test_json_is_one_object_of_the_documented_shape(home: Home) -> None:
    """Only the object is on stdout, with every documented field and no other, and large values as references."""
    done = home.run("run", home.file("p.yaml", PIPELINE), "--output", "json")
    assert done.code == 0, done.err
    run = done.tree
    assert set(run) == {"kind", "name", "status", "reason", "message", "results", "taskRuns", "skipped"}
    assert (run["kind"], run["status"], run["skipped"]) == ("PipelineRun", "Succeeded", ["left"])
    assert run["name"].startswith("demo-run-")
    tasks = {task_run["pipelineTask"]: task_run for task_run in run["taskRuns"]}
    assert set(tasks) == {"make", "other", "chosen"}
    assert set(tasks["make"]) == {"name", "pipelineTask", "status", "reason", "message", "results"}
    results = {result["name"]: result for result in tasks["make"]["results"]}
    digest = hashlib.sha256(LARGE.encode()).hexdigest()
    large = results["large"]
    assert set(large) == {"name", "type", "size", "sha256", "spilled", "value"}
    assert (large["type"], large["size"], large["sha256"], large["spilled"]) == ("string", 50000, digest, True)
    reference = Reference.parse(large["value"])
    assert reference.sha256 == digest
    assert (results["small"]["value"], results["small"]["spilled"]) == ("yes", False)
    assert results["list"]["value"][1] == "b" and Reference.match(results["list"]["value"][0])
    assert run["results"][0]["value"] == large["value"]
    # progress, with the steps' output, is on stderr
    assert "written" in done.err and "got 50000 bytes" in done.err


def test_the_table_shows_what_a_person_wants(home: Home) -> None:
    """Sizes, references, places, the skipped task and why, what plain Tekton would have done, and the end."""
    done = home.run("run", home.file("p.yaml", PIPELINE))
    assert done.code == 0, done.err
    digest = hashlib.sha256(LARGE.encode()).hexdigest()
    for words in (
        "50000 B",
        "spilled",
        "skeleton (1 spilled)",
        "inline",
        "/tekton/results/.ref/",
        f"file://{home.store}/default/",
        digest,
        "left: When Expressions evaluated to false",
        "make: would have failed",
        '"step-write" exited with code 1',
        "Termination message is above max allowed size 4096, caused by large task result.",
        "other: the same",
        "Succeeded",
    ):
        assert words in done.text, done.text
    assert done.err.count("Images are not run") == 1


def test_a_failed_run_exits_with_1(home: Home) -> None:
    """The run's failure is told in the object and in the exit code."""
    done = home.run("run", home.file("t.yaml", task("#!/bin/sh\nexit 3")), "--output", "json")
    assert (done.code, done.tree["status"]) == (1, "Failed")
    assert done.tree["message"] == '"step-only" exited with code 3'


def test_stock_fails_as_tekton_does(home: Home) -> None:
    """Without spilling, a result too large for a termination message fails the run, with Tekton's words."""
    text = task("#!/bin/sh\nhead -c 5000 /dev/zero | tr '\\0' x > $(results.big.path)", "[{name: big}]")
    path = home.file("t.yaml", text)
    done = home.run("run", path, "--stock", "--output", "json")
    assert (done.code, done.tree["reason"]) == (1, "StepFailed")
    assert "Termination message is above max allowed size 4096, caused by large task result." in done.err
    assert home.run("run", path).code == 0


def test_params_and_stdin(home: Home) -> None:
    """`-p` sets a param, and `-` reads the file from stdin."""
    done = home.run("run", "-", "-p", "size=7", "--output", "json", stdin=PIPELINE.encode())
    assert done.code == 0, done.err
    results = {result["name"]: result for result in done.tree["taskRuns"][0]["results"]}
    assert results["large"]["value"] == "x" * 7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", ["bad.yaml", "not YAML"]),
        ("", ["bad.yaml", "nothing to run"]),
        ("apiVersion: v1\nkind: Pod\n", ["bad.yaml", "apiVersion", "'v1'"]),
        ("apiVersion: tekton.dev/v1\nkind: Task\nmetadata: {name: x}\nspec: {steps: []}\n", ["Task", "x", "steps"]),
        (task("true", extra="  volumes: [{name: v}]\n"), ["Task", "one", "volumes"]),
        (task("true", extra="  sidecars: [{name: v, image: i}]\n"), ["Task", "one", "sidecars"]),
        (task("echo $(params.none)"), ["Task", "one", "params.none"]),
    ],
)
def test_a_bad_file_is_refused_by_name(home: Home, text: str, words: list[str]) -> None:
    """Bad YAML and unsupported fields end with exit code 2 and one line that names the place."""
    home.run("run", home.file("bad.yaml", text)).complains(2, *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--store", "ftp://host/x"], ["store", "'ftp://host/x'", "unknown scheme", "s3"]),
        (["--store", "nowhere"], ["store", "'nowhere'", "expected a URL"]),
        (["--store", "memory://"], ["memory://", "file:///directory"]),
        (["-p", "novalue"], ["'novalue'", "name=value"]),
        (["-p", "none=1"], ["none", "no such param"]),
        (["--settings", "none.yaml"], ["none.yaml", "No such file"]),
        (["--name", "other"], ["'other'", "one"]),
        (["--output", "xml"], ["'xml'", "table"]),
    ],
)
def test_bad_options_are_refused_by_name(home: Home, options: list[str], words: list[str]) -> None:
    """A bad option ends with exit code 2 and names the value and what is allowed."""
    home.run("run", home.file("t.yaml", task("#!/bin/sh\ntrue")), *options).complains(2, *words)


@pytest.mark.parametrize("store", ["s3://bucket/p", "file:///proc/nope"])
def test_a_store_that_cannot_be_used_is_told_before_the_run(home: Home, store: str) -> None:
    """A store without credentials, or where nothing can be written, ends the command at once, and nothing has run."""
    path = home.file("t.yaml", task(f"#!/bin/sh\ntouch {home.path}/ran"))
    home.environment.update(AWS_CONFIG_FILE="/dev/null", AWS_SHARED_CREDENTIALS_FILE="/dev/null")
    done = home.run("run", path, "--store", store)
    done.complains(2, "nothing was run", store, "resultsfs doctor")
    assert not (home.path / "ran").exists()
    assert home.run("run", path, "--store", store, "--stock").code == 0
    assert (home.path / "ran").exists()


def test_a_bad_setting_is_refused_with_its_file(home: Home) -> None:
    """A bad value in a settings file names file, key, value and what is allowed."""
    settings = home.file("my.yaml", "result-size-threshold: huge\n")
    done = home.run("run", home.file("t.yaml", task("#!/bin/sh\ntrue")), "--settings", settings)
    done.complains(2, "my.yaml", "result-size-threshold", "'huge'", "90KiB")


def test_a_missing_file_is_refused(home: Home) -> None:
    """A file that is not there is named."""
    home.run("run", "none.yaml").complains(2, "none.yaml", "No such file")


def test_settings_count(home: Home) -> None:
    """A lower threshold from a file spills what would stay inline."""
    settings = home.file("my.yaml", "result-size-threshold: 100\n")
    text = task("#!/bin/sh\nhead -c 200 /dev/zero | tr '\\0' x > $(results.mid.path)", "[{name: mid}]")
    done = home.run("run", home.file("t.yaml", text), "--settings", settings, "--output", "json")
    assert done.code == 0, done.err
    assert done.tree["results"][0]["spilled"] is True


def test_a_run_that_cannot_be_recorded_still_counts(home: Home) -> None:
    """Where the state directory cannot be written, the run goes on and the command says so."""
    home.file("state", "in the way")
    done = home.run("run", home.file("t.yaml", task("#!/bin/sh\ntrue")))
    assert done.code == 0
    assert "this run is not recorded" in done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(home: Home, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM cancel the run: it ends as failed, its processes and mounts with it."""
    marker = f"sleep {1_000_000 + number}.{os.getpid()}"  # other tests may run on this machine
    path = home.file("t.yaml", task(f"#!/bin/sh\necho sleeping\nexec {marker}", "[{name: r}]"))
    process = home.start("run", path, "--output", "json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if b"sleeping" in line:
                break
        process.send_signal(number)
        out, err = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 1, err
    assert b'"reason": "TaskRunCancelled"' in out
    assert not [mount for mount in mountinfo.mounts() if mount.mountpoint.startswith(str(home.path))]
    assert not running(marker)


@pytest.mark.parametrize("transport", ["native", "fusepy"])
def test_when_sees_the_content_of_a_linked_result(home: Home, transport: str) -> None:
    """A result that is a link to another one is what `when` compares, although the other may be spilled."""
    content = "7" * 300
    pipeline = f"""
apiVersion: tekton.dev/v1
kind: Pipeline
metadata: {{name: linked}}
spec:
  tasks:
    - name: make
      taskSpec:
        results: [{{name: x}}, {{name: y}}]
        steps: [{{name: only, script: "cd /tekton/results && printf {content} > y && ln -s y x"}}]
    - name: chosen
      when: [{{input: $(tasks.make.results.x), operator: in, values: ["{content}"]}}]
      taskSpec:
        steps: [{{name: only, script: "true"}}]
"""
    low = home.file("low.yaml", "result-size-threshold: 90\n")
    file = home.file("p.yaml", pipeline)
    done = home.run(
        "run", file, "--settings", low, "--store", f"file://{home.store}", "--output", "json", "--transport", transport
    )
    assert done.code == 0, done.err
    assert done.tree["skipped"] == []
    assert {result["value"] for run in done.tree["taskRuns"] for result in run["results"]} == {content}
