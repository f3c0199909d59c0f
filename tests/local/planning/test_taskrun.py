"""TaskRuns: steps with all variables replaced, templates merged, workspaces as directories."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from tests.local.planning.conftest import World


def task_run(spec: str, more: str = "") -> str:
    """A TaskRun called `run` with this embedded task."""
    lines = "\n".join(f"    {line}" for line in spec.strip("\n").splitlines())
    return f"""
apiVersion: tekton.dev/v1
kind: TaskRun
metadata: {{name: run, namespace: team}}
spec:
{more}
  taskSpec:
{lines}
"""


def test_everything_in_a_step(world: World) -> None:
    """All fields of a step are substituted, and the template fills what the step leaves open."""
    spec = """
params: [{name: who, default: you}, {name: list, default: [a, b]}]
results: [{name: r}, {name: s.t}]
stepTemplate:
  workingDir: /template
  env: [{name: A, value: template}, {name: B, value: "$(params.who)"}]
steps:
- name: first
  image: "img:$(params.who)"
  command: [echo, "$(params.list[*])"]
  args: ["$(results.r.path)", "$(results['s.t'].path)", "$(B) $$(B) $(date)"]
  env: [{name: A, value: step}, {name: C, value: "$(A)-$(B)"}]
  onError: continue
  timeout: 90s
  stdoutConfig: {path: "$(results.r.path)"}
  stderrConfig: {path: "/tmp/$(params.who)"}
- script: |
    echo $(context.taskRun.name) $(context.taskRun.namespace) $(context.task.retry-count) $(inputs.params.who)
  workingDir: /own
  args: [$(steps.step-first.exitCode.path), $(steps.step-unnamed-1.exitCode.path), $(credentials.path)]
"""
    outcome = world.run(task_run(spec))
    assert (outcome.kind, outcome.status, outcome.name) == ("TaskRun", "Succeeded", "run")
    (plan,) = world.plans
    first, second = plan.steps
    assert first.command == ("echo", "a", "b")
    assert first.args == ("/tekton/results/r", "/tekton/results/s.t", "you $(B) $(date)")
    assert dict(first.env) == {"A": "step", "B": "you", "C": "step-you"}
    assert (first.on_error, first.timeout, first.image, first.working_dir) == ("continue", 90.0, "img:you", "/template")
    assert (first.stdout_path, first.stderr_path) == ("/tekton/results/r", "/tmp/you")
    assert (second.name, second.working_dir, second.script) == ("unnamed-1", "/own", "echo run team 0 you\n")
    exit_codes = ("/tekton/steps/step-first/exitCode", "/tekton/steps/step-unnamed-1/exitCode")
    assert second.args == (*exit_codes, "/tekton/creds")
    assert (plan.namespace, plan.run_kind, plan.run_name, plan.pipeline_task) == ("team", "TaskRun", "run", None)
    assert plan.timeout == 3600.0


def test_a_taskrun_of_a_task(world: World) -> None:
    """A TaskRun finds its Task in the same file, takes options, and reports its results."""
    text = """
apiVersion: tekton.dev/v1
kind: Task
metadata: {name: greet}
spec:
  params: [{name: who}]
  results: [{name: r}]
  steps: [{script: "result r hello $(params.who) of $(context.task.name)"}]
---
apiVersion: tekton.dev/v1beta1
kind: TaskRun
metadata: {generateName: greet-}
spec: {taskRef: {name: greet}, params: [{name: who, value: you}]}
"""
    outcome = world.run(text, params=[("who", "me")])
    assert [item.value for item in outcome.results] == ["hello me of greet"]


@pytest.mark.parametrize(
    ("spec", "more", "reason", "part"),
    [
        ("params: [{name: x}]", "", "TaskRunValidationFailed", "no default values: [x]"),
        (
            "params: [{name: x, enum: [a]}]",
            "  params: [{name: x, value: b}]",
            "InvalidParamValue",
            "b is not in the enum",
        ),
        ("workspaces: [{name: w}]", "", "TaskRunValidationFailed", 'workspace "w" is required'),
        ("params: [{name: x, default: [a]}]", "", "TaskRunValidationFailed", "$(params.x[1])"),
        (
            "description: d",
            "  workspaces: [{name: w, emptyDir: {}, subPath: ../x}]",
            "TaskRunValidationFailed",
            "'../x'",
        ),
    ],
)
def test_a_taskrun_that_cannot_start(world: World, spec: str, more: str, reason: str, part: str) -> None:
    """What Tekton would refuse is a failed TaskRun with its reason, and nothing is executed."""
    script = "$(params.x[1])" if "default: [a]" in spec else "$(workspaces.w.path)" if "subPath" in more else "x"
    outcome = world.run(task_run(f"{spec}\nsteps: [{{script: '{script}'}}]", more))
    assert (outcome.status, outcome.reason) == ("Failed", reason)
    assert part in outcome.message
    assert world.plans == []


def test_workspaces(world: World) -> None:
    """Bound workspaces are directories at their mount paths, optional ones may be absent, all variables are known."""
    spec = """
params: [{name: sub, default: deep/er}]
workspaces: [{name: a}, {name: b, mountPath: "/data/$(params.sub)"}, {name: c, optional: true}]
steps: [{script: "$(workspaces.a.path) $(workspaces.b.path) $(workspaces.b.claim) $(workspaces.c.bound) $(workspaces.a.bound)[$(workspaces.c.path)]"}]
"""
    more = '  workspaces: [{name: a, emptyDir: {}}, {name: b, persistentVolumeClaim: {claimName: disk}, subPath: "x/$(params.sub)"}]'
    assert world.run(task_run(spec, more)).status == "Succeeded"
    (plan,) = world.plans
    assert plan.steps[0].script == "/workspace/a /data/deep/er disk false true[]"
    assert set(plan.workspaces) == {"/workspace/a", "/data/deep/er"}
    assert all(path.is_dir() and path.is_relative_to(world.room) for path in plan.workspaces.values())
    assert plan.workspaces["/data/deep/er"].parts[-3:] == ("x", "deep", "er")


def test_a_claim_stays_in_its_room(world: World) -> None:
    """A claim's name cannot lead out of the directory for workspaces."""
    more = "  workspaces: [{name: w, persistentVolumeClaim: {claimName: ../../out}}]"
    world.run(task_run("workspaces: [{name: w}]\nsteps: [{script: x}]", more))
    (path,) = world.plans[0].workspaces.values()
    assert Path(path).resolve().is_relative_to(world.room.resolve())


def test_workspaces_of_a_pipeline(world: World) -> None:
    """A claim is one directory for all tasks, an emptyDir is each TaskRun's own; propagation needs no declaration."""
    text = """
apiVersion: tekton.dev/v1
kind: Task
metadata: {name: user}
spec: {workspaces: [{name: w}], steps: [{script: x}]}
---
apiVersion: tekton.dev/v1
kind: PipelineRun
metadata: {name: run}
spec:
  workspaces: [{name: shared, volumeClaimTemplate: {}}, {name: scratch, emptyDir: {}}]
  pipelineSpec:
    workspaces: [{name: shared}, {name: scratch}]
    tasks:
    - {name: a, taskRef: {name: user}, workspaces: [{name: w, workspace: shared}]}
    - {name: b, taskRef: {name: user}, workspaces: [{name: w, workspace: shared, subPath: sub}]}
    - {name: c, taskRef: {name: user}, workspaces: [{name: w, workspace: scratch}]}
    - {name: d, taskRef: {name: user}, workspaces: [{name: w, workspace: scratch}]}
    - name: e
      taskSpec: {steps: [{script: "$(workspaces.shared.path) $(workspaces.shared.bound)"}]}
"""
    assert world.run(text).status == "Succeeded"
    a, b, c, d = (world.plan(name).workspaces["/workspace/w"] for name in "abcd")
    assert b == a / "sub"
    assert len({a, c, d}) == 3
    assert dict(world.plan("e").workspaces) == {"/workspace/shared": a}
    assert world.plan("e").steps[0].script == "/workspace/shared true"


def test_a_workspace_that_the_run_does_not_bind(world: World) -> None:
    """A needed workspace that is not bound fails the run with InvalidWorkspaceBindings."""
    text = """
apiVersion: tekton.dev/v1
kind: PipelineRun
metadata: {name: run}
spec:
  pipelineSpec:
    workspaces: [{name: shared}]
    tasks: [{name: a, taskSpec: {steps: [{script: x}]}}]
"""
    assert world.run(text).reason == "InvalidWorkspaceBindings"


def test_read_only_is_not_silent(world: World) -> None:
    """A readOnly workspace is said not to be enforced."""
    spec = "workspaces: [{name: w, readOnly: true}]\nsteps: [{script: x}]"
    world.run(task_run(spec, "  workspaces: [{name: w, emptyDir: {}}]"))
    assert any(call[:2] == ("event", "WorkspaceReadOnlyNotEnforced") for call in world.told.calls)


def test_references_given_from_outside(world: World) -> None:
    """A TaskRun on its own has references in its params resolved too, and is not made when that fails."""
    reference = world.put("team", uuid.uuid4(), b"content")
    text = task_run("params: [{name: p}]\nsteps: [{script: 'print $(params.p)'}]")
    assert world.run(text, params=[("p", reference)]).status == "Succeeded"
    assert ("output", "run", "unnamed-0", "content") in world.told.calls
    missing = world.run(text, params=[("p", reference[:-3] + "AAA")])
    assert (missing.reason, missing.task_runs) == ("CreateRunFailed", ())


def test_retries_start_afresh(world: World) -> None:
    """Each try of a TaskRun has an emptyDir of its own."""
    spec = "workspaces: [{name: w}]\nsteps: [{script: fail}]"
    outcome = world.run(task_run(spec, "  retries: 1\n  workspaces: [{name: w, emptyDir: {}}]"))
    assert outcome.status == "Failed"
    first, second = (plan.workspaces["/workspace/w"] for plan in world.plans)
    assert first != second
