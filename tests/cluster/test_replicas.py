"""The controller's replicas behind their Service: one is killed again and again while TaskRuns are created."""

from __future__ import annotations

import pytest

from resultsfs.reference import Reference
from tests.cluster.installation import Installation
from tests.cluster.kube import PIPELINERUN, TASKRUN, Manifest
from tests.cluster.room import ENDED, Room, outcome, results, succeeded, task, taskrun
from tests.cluster.test_pipelines import pipelinerun
from tests.cluster.test_results import DEADLINE, LARGE, fill, sha256
from tests.support.waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

RUNS, TASKS, KILLS = 4, 5, 4
_KILL = """
for place in /proc/[0-9]*; do
  if grep -qs {uid} $place/cgroup && tr '\\0' ' ' < $place/cmdline | grep -qs 'controller serve'; then
    kill -9 ${{place#/proc/}} && echo killed
  fi
done
"""


def _chain(name: str, reference: str) -> Manifest:
    """A PipelineRun of tasks one after the other, each of which gets what the reference stands for, and has a result."""
    tasks = []
    for number in range(TASKS):
        spec = task(["digest"], read='printf %s "$VALUE" | sha256sum | head -c 64 > $(results.digest.path)')
        spec["params"] = [{"name": "value"}]
        spec["steps"][0]["env"] = [{"name": "VALUE", "value": "$(params.value)"}]
        after = {"runAfter": [f"t{number - 1}"]} if number else {}
        params = [{"name": "value", "value": reference}]
        tasks.append({"name": f"t{number}", "taskSpec": spec, "params": params, **after})
    return pipelinerun(name, *tasks)


def _kill(resultsfs: Installation, number: int) -> None:
    """Kill the one or the other, when both serve."""
    eventually(lambda: len(_serving(resultsfs)) == 2, DEADLINE)
    before = _restarts(resultsfs)
    pods = sorted(pod["metadata"]["uid"] for pod in _serving(resultsfs))
    killed = resultsfs.node("sh", "-c", _KILL.format(uid=pods[number % 2].replace("-", "[-_]")))
    assert killed.split() == ["killed"]
    eventually(lambda: _restarts(resultsfs) == before + 1, DEADLINE)


def _serving(resultsfs: Installation) -> list[Manifest]:
    return [
        pod
        for pod in resultsfs.pods("controller")
        if all(container["ready"] for container in pod["status"].get("containerStatuses") or [{"ready": False}])
    ]


def _restarts(resultsfs: Installation) -> int:
    pods = resultsfs.pods("controller")
    return sum(status["restartCount"] for pod in pods for status in pod["status"].get("containerStatuses") or [])


def test_a_replica_killed_under_load_fails_no_run(resultsfs: Installation, ours: Room) -> None:
    """Of two replicas one or the other is killed (-9) while TaskRuns with references are created all the time: all
    succeed, each with its content, for Tekton asks again where nobody answered."""
    made = ours.run(taskrun("make", ["large"], write=fill("large", LARGE)), deadline=DEADLINE)
    assert succeeded(made), outcome(made)
    reference = results(made)["large"]
    assert Reference.match(reference)
    started = [ours.start(_chain(f"chain-{number}", reference)) for number in range(RUNS)]
    for kill in range(KILLS):
        _kill(resultsfs, kill)
        wanted = (kill + 1) * RUNS * TASKS // (KILLS + 1)
        eventually(lambda: _created(ours) >= wanted or _all_ended(ours), DEADLINE)  # noqa: B023  # waited for here
    for run in started:
        ended = ours.end(run, deadline=DEADLINE)
        assert succeeded(ended), outcome(ended)
        taskruns = ours.taskruns(ended)
        assert len(taskruns) == TASKS
        for one in taskruns.values():
            assert one["spec"]["params"] == [{"name": "value", "value": "x" * LARGE}]
            assert results(one) == {"digest": sha256(LARGE)}


def _created(room: Room) -> int:
    return len(room.kube.list(TASKRUN, room.name, label_selector="tekton.dev/pipelineTask"))


def _all_ended(room: Room) -> bool:
    return all(ENDED(run) for run in room.kube.list(PIPELINERUN, room.name))
