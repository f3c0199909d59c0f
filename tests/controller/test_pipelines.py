"""Whole PipelineRuns by Tekton's own controller, but for the nodes: admission of runs and pods as they meet."""

from __future__ import annotations

import json

import pytest

from controller.kube.resources import PIPELINE_RUNS, Tree
from resultsfs.knobs import Knobs
from resultsfs.record import Keep, Mode
from tests.controller.conftest import Serving
from tests.controller.tekton import Runs, condition
from tests.controller.test_admission_runs import spilled

pytestmark = [pytest.mark.apiserver, pytest.mark.slow]

PIPELINE = """
apiVersion: tekton.dev/v1
kind: PipelineRun
metadata: {name: run}
spec:
  pipelineSpec:
    tasks:
      - name: make
        taskSpec:
          results: [{name: small}, {name: large}, {name: fan, type: array}]
          steps: [{name: write, image: busybox, script: "#!/bin/sh\\ntrue"}]
      - name: use
        when: [{input: $(tasks.make.results.small), operator: in, values: ["yes"]}]
        params: [{name: text, value: $(tasks.make.results.large)}]
        taskSpec:
          params: [{name: text}]
          steps: [{name: read, image: busybox, command: [cat], args: ["$(params.text)"]}]
      - name: each
        matrix:
          params: [{name: one, value: "$(tasks.make.results.fan[*])"}]
        taskSpec:
          params: [{name: one}]
          steps: [{name: read, image: busybox, command: [cat], args: ["$(params.one)"]}]
"""


def knobs(pod: Tree) -> Knobs:
    """What is stamped on a pod's volume."""
    volume = next(volume for volume in pod["spec"]["volumes"] if volume["name"] == "tekton-internal-results")
    assert volume["csi"]["driver"] == "csi.resultsfs.dev", volume
    return Knobs.from_mapping(volume["csi"]["volumeAttributes"])


def test_a_reference_becomes_the_next_tasks_value(serving_replica: Serving, runs: Runs) -> None:
    """The volume knows whose results it holds; the next TaskRun gets the content, and its pod's step the text."""
    (run,) = runs.apply(PIPELINE)
    make = runs.task_run("run", "make")
    pod = runs.pod(make["metadata"]["name"])
    found = knobs(pod)
    assert found.results == ("small", "large", "fan")
    assert (found.run_kind, found.run_name, str(found.run_uid)) == ("PipelineRun", "run", run["metadata"]["uid"])
    assert found.taskrun == make["metadata"]["name"]
    assert found.mode is Mode.TERMINATION_MESSAGE
    assert found.containers == len(pod["spec"]["containers"]) + len(pod["spec"]["initContainers"])
    assert dict(found.kept) == {"small": Keep.INLINE, "fan": Keep.SKELETON}

    reference = spilled(serving_replica, runs.namespace, "z" * 6000, found.run_uid)
    runs.finish(pod, {"small": "yes", "large": str(reference), "fan": json.dumps(["a", str(reference)])})
    use = runs.task_run("run", "use")
    assert use["spec"]["params"] == [{"name": "text", "value": "z" * 6000}]
    pod = runs.pod(use["metadata"]["name"])
    assert "z" * 6000 in pod["spec"]["containers"][0]["args"]
    runs.finish(pod, {})


def test_what_does_not_fit_ends_the_pipeline_run_with_our_text(serving_replica: Serving, runs: Runs) -> None:
    """A reference to more than fits ends the PipelineRun as CreateRunFailed, with the way out in its message."""
    runs.apply(PIPELINE)
    pod = runs.pod(runs.task_run("run", "make")["metadata"]["name"])
    reference = spilled(serving_replica, runs.namespace, "z" * 100_000)
    runs.finish(pod, {"small": "yes", "large": str(reference), "fan": '["a"]'})
    ended = condition(runs.ended(PIPELINE_RUNS, "run"))
    assert (ended["status"], ended["reason"]) == ("False", "CreateRunFailed")
    for word in ('pipeline task "use"', 'param "text"', "97.7 KiB", "90 KiB", "resultsfs.dev/params-as-path"):
        assert word in ended["message"]
