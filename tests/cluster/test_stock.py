"""What stock Tekton does with results: the baseline that is to be beaten."""

from __future__ import annotations

import pytest

from tests.cluster.flags import feature_flags
from tests.cluster.kube import PIPELINERUN, Kube, Manifest
from tests.cluster.room import Room, outcome, results, succeeded, task, taskrun

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800, func_only=True)]


def write(result: str, size: int) -> str:
    """A script that writes a result of so many bytes."""
    return f"head -c {size} /dev/zero | tr '\\0' x > $(results.{result}.path)"


def test_a_taskrun_passes_small_results(room: Room) -> None:
    """Results of two steps reach status, byte for byte."""
    run = room.run(
        taskrun(
            "small",
            ["digest", "note"],
            build="printf sha256:abc > $(results.digest.path)",
            note="printf 'two\\nlines\\n' > $(results.note.path)",
        )
    )
    assert succeeded(run), outcome(run)
    assert results(run) == {"digest": "sha256:abc", "note": "two\nlines\n"}


def test_a_pipelinerun_passes_small_results(room: Room) -> None:
    """One task's result decides a `when`, becomes another's param, and is a result of the pipeline."""
    run = room.run(pipelinerun("small", 5))
    assert succeeded(run), outcome(run)
    assert results(run) == {"content": "xxxxx"}
    runs = room.taskruns(run)
    assert set(runs) == {"produce", "consume"}
    assert "5" in room.log(runs["consume"], "measure").splitlines()
    assert [skipped["name"] for skipped in run["status"]["skippedTasks"]] == ["never"]


def pipelinerun(name: str, size: int) -> Manifest:
    """A task writes a result of that size, another takes it as a param; a third runs only if it is `other`."""
    consume = task([], measure="printf %s '$(params.content)' | wc -c")
    value = "$(tasks.produce.results.content)"
    return {
        "apiVersion": PIPELINERUN.api_version,
        "kind": PIPELINERUN.kind,
        "metadata": {"name": name},
        "spec": {
            "pipelineSpec": {
                "results": [{"name": "content", "value": value}],
                "tasks": [
                    {"name": "produce", "taskSpec": task(["content"], write=write("content", size))},
                    {
                        "name": "consume",
                        "params": [{"name": "content", "value": value}],
                        "taskSpec": {"params": [{"name": "content"}], **consume},
                    },
                    {
                        "name": "never",
                        "when": [{"input": value, "operator": "in", "values": ["other"]}],
                        "taskSpec": task([], never="true"),
                    },
                ],
            }
        },
    }


def test_five_kilobytes_fail(room: Room) -> None:
    """A result of 5 KB ends the TaskRun; why is only in the step's log."""
    run = room.run(taskrun("five", ["report"], write=write("report", 5000)))
    assert not succeeded(run)
    assert results(run) == {}
    assert "Termination message is above max allowed size 4096" in room.log(run, "write")
    assert '"step-write" exited with code 1' in outcome(run)["message"]


def test_a_pipelinerun_fails_with_five_kilobytes(room: Room) -> None:
    """Whoever needs the result never runs."""
    run = room.run(pipelinerun("five", 5000))
    assert not succeeded(run)
    assert set(room.taskruns(run)) == {"produce"}


def test_twelve_steps_lose_a_result_silently(room: Room) -> None:
    """The kubelet cuts the messages of many containers: the TaskRun is Succeeded, and results are missing."""
    names = [f"r{number}" for number in range(12)]
    run = room.run(taskrun("twelve", names, **{f"step_{name}": write(name, 100) for name in names}))
    assert succeeded(run), outcome(run)
    found = results(run)
    assert found["r0"] == "x" * 100
    assert len(found) < len(names)
    assert "r11" not in found


def test_sidecar_logs_pass_100_kilobytes(kube: Kube, room: Room) -> None:
    """With `results-from: sidecar-logs` and a raised `max-result-size`, 100 KB reach status and so etcd."""
    with feature_flags(kube, room, results_from="sidecar-logs", max_result_size=150_000):
        run = room.run(taskrun("sidecar", ["report"], write=write("report", 100_000)))
        assert succeeded(run), outcome(run)
        assert results(run) == {"report": "x" * 100_000}


def test_sidecar_logs_fail_at_max_result_size(kube: Kube, room: Room) -> None:
    """A result whose JSON line is longer than `max-result-size` ends the TaskRun, although its step succeeded."""
    with feature_flags(kube, room, results_from="sidecar-logs", max_result_size=150_000):
        run = room.run(taskrun("sidecar", ["report"], write=write("report", 150_000)))
        assert not succeeded(run)
        assert outcome(run)["reason"] == "TaskRunResultLargerThanAllowedLimit"
        assert results(run) == {}
