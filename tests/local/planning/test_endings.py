"""How PipelineRuns skip, fail, retry and time out, in Tekton's words."""

from __future__ import annotations

import pytest

from resultsfs.local.plan import TaskRunOutcome, TaskRunPlan
from resultsfs.record import Keep
from tests.local.planning.conftest import World
from tests.local.planning.written import ARRAY, STRING, USE, pipeline, skipped, task


def test_when_skips_by_tektons_rules(world: World) -> None:
    """A false `when` skips the task and what needs its result; what only runs after it runs; results may be absent."""
    text = pipeline(
        task("a", "result r no", results=STRING),
        task("b", "result r x", "when: [{input: $(tasks.a.results.r), operator: in, values: ['yes']}]", results=STRING),
        task("needs", "print x", "params: [{name: p, value: $(tasks.b.results.r)}]"),
        task("after", "print x", "runAfter: [b]"),
        task("further", "print x", "runAfter: [needs]"),
        results="{name: out, value: $(tasks.b.results.r)}, {name: there, value: $(tasks.a.results.r)}",
    )
    outcome = world.run(text)
    assert (outcome.status, outcome.reason) == ("Succeeded", "Completed")
    assert outcome.message == "Tasks Completed: 2 (Failed: 0, Cancelled 0), Skipped: 3"
    assert skipped(outcome) == {
        "b": "When Expressions evaluated to false",
        "needs": "Results were missing",
        "further": "Parent Tasks were skipped",
    }
    assert [item.name for item in outcome.results] == ["there"]
    assert world.plan("a").kept == {"r": Keep.INLINE}
    assert world.plan("after").kept == {}


def test_a_failure_stops_the_rest(world: World) -> None:
    """After a failure nothing new starts, finally runs and sees the states, and the run is Failed."""
    text = pipeline(
        task("a", "fail"),
        task("b", "print x", "runAfter: [a]"),
        finally_=task(
            "f",
            "print $(params.p)",
            'params: [{name: p, value: "$(tasks.a.status) $(tasks.a.reason) $(tasks.b.status) $(tasks.status)"}]',
        )
        + task("g", "print x", "when: [{input: $(tasks.status), operator: in, values: [Succeeded]}]"),
    )
    outcome = world.run(text)
    assert (outcome.status, outcome.reason) == ("Failed", "Failed")
    assert outcome.message == "Tasks Completed: 2 (Failed: 1, Cancelled 0), Skipped: 2"
    assert skipped(outcome) == {"b": "PipelineRun was stopping", "g": "When Expressions evaluated to false"}
    assert ("output", "run-f", "main", "Failed Failed None Failed") in world.told.calls


def test_an_ignored_failure(world: World) -> None:
    """With `onError: continue` the pipeline goes on and succeeds; results written before the failure count."""
    text = pipeline(
        task("a", "result r partial\nfail", "onError: continue", results=STRING),
        task("b", "print got $(params.p)", USE),
    )
    outcome = world.run(text)
    assert (outcome.status, outcome.reason) == ("Succeeded", "Succeeded")
    assert outcome.message == "Tasks Completed: 2 (Failed: 1 (Ignored: 1), Cancelled 0), Skipped: 0"
    assert ("output", "run-b", "main", "got partial") in world.told.calls


def test_a_result_that_was_not_written(world: World) -> None:
    """A result missing from a task that succeeded fails the run with Tekton's validation reason; finally runs."""
    text = pipeline(task("a", "print x", results=STRING), task("b", "print x", USE), finally_=task("f", "print end"))
    outcome = world.run(text)
    assert (outcome.status, outcome.reason) == ("Failed", "PipelineValidationFailed")
    assert outcome.message == (
        "Tasks Completed: 2 (Failed: 0, Cancelled 0), Skipped: 0, Failed Validation: 1 "
        '(task "a" completed successfully but did not emit the result "r", which is referenced by task "b")'
    )
    assert ("output", "run-f", "main", "end") in world.told.calls
    assert any(call[:2] == ("event", "ResultValidationFailed") for call in world.told.calls)


def test_finally_without_its_result_is_skipped(world: World) -> None:
    """A finally task whose result is missing is skipped, and the run still ends by its tasks."""
    text = pipeline(task("a", "print x", results=STRING), finally_=task("f", "print x", USE))
    outcome = world.run(text)
    assert (outcome.status, outcome.reason) == ("Succeeded", "Completed")
    assert skipped(outcome) == {"f": "Results were missing"}


def test_a_result_that_no_task_declares(world: World) -> None:
    """A reference to an undeclared result fails the run before anything starts."""
    outcome = world.run(pipeline(task("a", "print x"), task("b", "print x", USE)))
    assert (outcome.reason, outcome.message) == (
        "InvalidTaskResultReference",
        'invalid result reference in pipeline task "b": "r" is not a named result returned by pipeline task "a"',
    )
    assert world.plans == []


def test_an_index_beyond_the_array(world: World) -> None:
    """An index that the array does not have fails the run with Tekton's words."""
    text = pipeline(
        task("a", 'result r ["x"]', results=ARRAY),
        task("b", "print x", 'params: [{name: p, value: "$(tasks.a.results.r[1])"}]'),
    )
    outcome = world.run(text)
    assert outcome.reason == "PipelineValidationFailed"
    assert "array Result Index 1 for Task a Result r is out of bound of size 1" in outcome.message


def test_a_pipeline_result_that_does_not_exist(world: World) -> None:
    """A pipeline result that its succeeded task did not write fails the run with CouldntGetPipelineResult."""
    text = pipeline(task("a", "print x", results=STRING), results="{name: out, value: $(tasks.a.results.r)}")
    outcome = world.run(text)
    assert (outcome.status, outcome.reason) == ("Failed", "CouldntGetPipelineResult")
    assert "invalid pipelineresults [out], the referenced results don't exist" in outcome.message


def test_retries(world: World) -> None:
    """A task is tried as often as its retries allow, and knows which retry it is."""
    script = "print retry $(context.task.retry-count) of $(context.pipelineTask.retries)\nfail"
    outcome = world.run(pipeline(task("a", script, "retries: 2")))
    lines = [call[3] for call in world.told.calls if call[0] == "output"]
    assert lines == [f"retry {count} of $(context.pipelineTask.retries)" for count in range(3)]
    assert [call[2] for call in world.told.calls if call[0] == "started"] == [1, 2, 3]
    assert (outcome.status, outcome.task_runs[0].attempts, len(outcome.task_runs)) == ("Failed", 3, 1)


def test_a_retry_that_succeeds(world: World) -> None:
    """A task that succeeds when it is tried again has succeeded."""
    world.before = lambda plan: TaskRunOutcome("Failed", "Failed", "no") if len(world.plans) == 1 else None
    outcome = world.run(pipeline(task("a", "print x", "retries: 5")))
    assert (outcome.status, outcome.task_runs[0].attempts) == ("Succeeded", 2)


@pytest.mark.parametrize(
    ("declared", "given", "reason", "part"),
    [
        ("{name: x}", "", "ParameterMissing", "pipelineRun missing parameters: [x]"),
        ("{name: x}", "{name: x, value: [a]}", "ParameterTypeMismatch", "inconsistent types : [x]"),
        ("{name: x, properties: {k: {}, l: {}}}", "{name: x, value: {k: a}}", "ObjectParameterMissKeys", "map[x:[l]]"),
        ("{name: x, enum: [a]}", "{name: x, value: b}", "InvalidParamValue", "b is not in the enum list"),
        ("{name: x, default: $(params.x)}", "", "PipelineValidationFailed", "circular"),
        ("{name: x, type: array}", "{name: x, value: [a]}", "ParamArrayIndexingInvalid", "$(params.x[3])"),
    ],
)
def test_bad_params(world: World, declared: str, given: str, reason: str, part: str) -> None:
    """Params that do not fit fail the run with Tekton's reason, before anything starts."""
    text = pipeline(
        task("a", "print $(params.x[3])" if reason.startswith("ParamArray") else "print x"), run=f"  params: [{given}]"
    )
    outcome = world.run(text.replace("  pipelineSpec:\n", f"  pipelineSpec:\n    params: [{declared}]\n"))
    assert (outcome.status, outcome.reason) == ("Failed", reason)
    assert part in outcome.message
    assert world.plans == []


@pytest.mark.parametrize("fed", ["params: [{name: p, value: %s}]", "matrix: {params: [{name: p, value: [red, %s]}]}"])
@pytest.mark.parametrize("named", [True, False])
def test_an_enum_of_the_task(world: World, fed: str, named: bool) -> None:
    """A result that is not in the enum of the next task's param fails the run before that TaskRun is made.

    The pipeline itself compares it, so it stays inline, whether the task is embedded or named, whatever feeds it.
    """
    spec = "{params: [{name: p, enum: [red]}], steps: [{name: s, script: x}]}"
    which = "taskRef: {name: t}" if named else f"taskSpec: {spec}"
    given = fed % "$(tasks.a.results.r)"
    text = pipeline(task("a", "result r blue", results=STRING), f"\n  - {{name: b, {given}, {which}}}\n")
    text += f"---\n{{apiVersion: tekton.dev/v1, kind: Task, metadata: {{name: t}}, spec: {spec}}}\n"
    outcome = world.run(text)
    assert outcome.reason == "InvalidParamValue"
    assert world.plan("a").kept == {"r": Keep.INLINE}
    assert [plan.pipeline_task for plan in world.plans] == ["a"]


def test_the_pipelines_timeout(world: World) -> None:
    """A TaskRun that the run's timeout ends is cancelled, the rest is skipped, the run is PipelineRunTimeout."""
    now = [100.0]
    world.clock = lambda: now[0]

    def late(plan: TaskRunPlan) -> TaskRunOutcome:
        assert plan.timeout == 60
        now[0] += 61
        return TaskRunOutcome("Failed", "TaskRunTimeout", "too late")

    world.before = late
    text = pipeline(task("a", "print x", "retries: 3"), finally_=task("f"), run="  timeouts: {pipeline: 1m}")
    outcome = world.run(text)
    assert (outcome.reason, outcome.message) == (
        "PipelineRunTimeout",
        'PipelineRun "run" failed to finish within "1m0s"',
    )
    record = outcome.task_runs[0]
    assert (record.reason, record.attempts) == ("TaskRunCancelled", 1)
    assert "PipelineRun it belongs to has timed out" in record.message
    assert skipped(outcome) == {"f": "PipelineRun timeout has been reached"}


def test_the_tasks_timeout_leaves_finally(world: World) -> None:
    """When the tasks' timeout is over, other tasks are skipped, finally still runs, and the run has timed out."""
    now = [0.0]
    world.clock = lambda: now[0]

    def late(plan: TaskRunPlan) -> None:
        if plan.pipeline_task == "a":
            now[0] += 61
        else:
            assert plan.timeout == 239

    world.before = late
    text = pipeline(
        task("a"),
        task("b", "print x", "runAfter: [a]"),
        finally_=task("f"),
        run="  timeouts: {pipeline: 5m, tasks: 1m}",
    )
    outcome = world.run(text)
    assert outcome.reason == "PipelineRunTimeout"
    assert outcome.message == 'PipelineRun "run" failed due to tasks failed to finish within "1m0s"'
    assert skipped(outcome) == {"b": "PipelineRun Tasks timeout has been reached"}
    assert [plan.pipeline_task for plan in world.plans] == ["a", "f"]


def test_a_tasks_own_timeout(world: World) -> None:
    """A task's own timeout is its TaskRun's; taskRunSpecs override it; it fails as TaskRunTimeout and is retried."""
    world.before = lambda plan: TaskRunOutcome("Failed", "TaskRunTimeout", "late")
    text = pipeline(
        task("a", "print x", "timeout: 5s\n    retries: 1"),
        task("b", "print x", "timeout: 5s"),
        run="  taskRunSpecs: [{pipelineTaskName: b, timeout: 7s}]",
    )
    outcome = world.run(text)
    assert outcome.reason == "Failed"
    assert {(plan.pipeline_task, plan.timeout) for plan in world.plans} == {("a", 5.0), ("b", 7.0)}
    assert {record.name: (record.reason, record.attempts) for record in outcome.task_runs} == {
        "run-a": ("TaskRunTimeout", 2),
        "run-b": ("TaskRunTimeout", 1),
    }


def test_no_timeout(world: World) -> None:
    """Zero is no limit, and an hour is the default."""
    assert world.run(pipeline(task("a"), run='  timeouts: {pipeline: "0"}')).status == "Succeeded"
    assert world.run(pipeline(task("b"))).status == "Succeeded"
    assert {plan.pipeline_task: plan.timeout for plan in world.plans} == {"a": None, "b": 3600.0}


def test_a_cancelled_run(world: World) -> None:
    """A TaskRun that was cancelled from outside ends the run as Cancelled, without retries and without finally."""
    world.before = lambda plan: TaskRunOutcome("Failed", "TaskRunCancelled", "stop")
    outcome = world.run(pipeline(task("a", "print x", "retries: 3"), finally_=task("f")))
    assert (outcome.status, outcome.reason, outcome.message) == (
        "Failed",
        "Cancelled",
        'PipelineRun "run" was cancelled',
    )
    assert len(world.plans) == 1


def test_what_execute_raises_is_raised(world: World) -> None:
    """When the machine itself cannot execute, the error comes out, after what was started has ended."""

    def broken(plan: TaskRunPlan) -> None:
        raise NotImplementedError("no namespaces here")

    world.before = broken
    with pytest.raises(NotImplementedError, match="no namespaces here"):
        world.run(pipeline(task("a"), task("b")))


def test_missing_task_by_variable(world: World) -> None:
    """A Task's name may be a variable; one that is not in the file fails the run with CouldntGetTask."""
    text = pipeline("\n  - {name: a, taskRef: {name: $(params.which)}}\n", run="  params: [{name: which, value: gone}]")
    assert (world.run(text).reason, world.plans) == ("CouldntGetTask", [])
