"""Whole PipelineRuns: order, results and references passed on, matrix, params, the report."""

from __future__ import annotations

import threading

import pytest

from resultsfs.errors import InvalidDocument
from resultsfs.local.plan import TaskRunPlan
from resultsfs.local.report import as_object
from resultsfs.record import Keep
from tests.local.planning.conftest import World
from tests.local.planning.written import ARRAY, MATRIX, STRING, USE, pipeline, skipped, task


def test_results_pass_on(world: World) -> None:
    """A result orders the tasks and reaches the next one's param, and the pipeline's result is the task's."""
    text = pipeline(
        task("b", "print got $(params.p)", USE),
        task("a", "result r hello", results=STRING),
        results="{name: out, value: $(tasks.a.results.r)}, {name: both, value: <$(tasks.a.results.r)>}",
    )
    outcome = world.run(text)
    assert (outcome.status, outcome.reason) == ("Succeeded", "Succeeded")
    assert outcome.message == "Tasks Completed: 2 (Failed: 0, Cancelled 0), Skipped: 0"
    assert ("output", "run-b", "main", "got hello") in world.told.calls
    assert [(item.name, item.value) for item in outcome.results] == [("out", "hello"), ("both", "<hello>")]
    assert [plan.name for plan in world.plans] == ["run-a", "run-b"]


def test_spilled_results_are_put_back(world: World) -> None:
    """A reference in a result is content again in the next task, and stays a reference in the pipeline's result."""
    text = pipeline(
        task("a", "spill r a-large-report", results=STRING),
        task("b", "print got $(params.p)", USE),
        results="{name: out, value: $(tasks.a.results.r)}, {name: both, value: see $(tasks.a.results.r)}",
    )
    outcome = world.run(text)
    assert ("output", "run-b", "main", "got a-large-report") in world.told.calls
    record = next(item for item in outcome.task_runs if item.pipeline_task == "b")
    assert [(item.where, item.size) for item in record.put_back] == [("params.p", 14)]
    out, both = outcome.results
    assert (out.spilled, out.size, str(out.value).startswith("/tekton/results/.ref/")) == (True, 14, True)
    assert (both.spilled, both.size) == (True, len(str(both.value)))


def test_propagated_results_are_put_back(world: World) -> None:
    """A result used in an embedded task's steps orders it and is put back there too."""
    outcome = world.run(
        pipeline(task("b", "print got $(tasks.a.results.r)"), task("a", "spill r content", results=STRING))
    )
    assert outcome.status == "Succeeded"
    assert ("output", "run-b", "main", "got content") in world.told.calls


def test_arrays_and_objects_through_skeletons(world: World) -> None:
    """Index, whole array and property work on skeletons; each part is put back with its type."""
    text = pipeline(
        task("a", 'spill r ["x", "y"]\nspill o {"k": "v"}', results=f"{ARRAY}, {{name: o, properties: {{k: {{}}}}}}"),
        """
  - name: b
    params:
    - {name: one, value: "$(tasks.a.results.r[1])"}
    - {name: all, value: ["0", "$(tasks.a.results.r[*])"]}
    - {name: key, value: $(tasks.a.results.o.k)}
    - {name: object, value: "$(tasks.a.results.o[*])"}
    taskSpec:
      params: [{name: one}, {name: all, type: array}, {name: key}, {name: object, properties: {k: {}}}]
      steps: [{command: [show, $(params.one), "$(params.all[*])", $(params.key), $(params.object.k), "$(params.all[2])"]}]
""",
    )
    assert world.run(text).status == "Succeeded"
    assert world.plan("b").steps[0].command == ("show", "y", "0", "x", "y", "v", "v", "y")


def test_a_whole_array_reference_expands(world: World) -> None:
    """An array that came as one whole-array reference has all its elements again in an array param."""
    text = pipeline(
        task("a", 'whole r ["x", "y", "z"]', results=ARRAY),
        """
  - name: b
    params: [{name: all, value: "$(tasks.a.results.r[*])"}]
    taskSpec:
      params: [{name: all, type: array}]
      steps: [{command: [show], args: ["$(params.all[*])"]}]
""",
    )
    assert world.run(text).status == "Succeeded"
    assert world.plan("b").steps[0].args == ("x", "y", "z")


def test_too_large_a_param_fails_the_run(world: World) -> None:
    """A param over the limit: the TaskRun is not created and the run fails with CreateRunFailed and our message."""
    text = pipeline(
        task("a", f"spill r {'x' * 2000}", results=STRING),
        task("b", "print $(params.p)", USE),
        finally_=task("f", "print end"),
        run="",
    ).replace("{name: run}", "{name: run, annotations: {resultsfs.dev/param-inline-limit: 1KiB}}")
    outcome = world.run(text)
    assert (outcome.status, outcome.reason) == ("Failed", "CreateRunFailed")
    for part in ('"b"', 'param "p"', "2000 bytes", "1024 bytes", "params-as-path"):
        assert part in outcome.message
    assert [item.name for item in outcome.task_runs] == ["run-a"]


@pytest.mark.parametrize("where", ["run", "task", "spec", "both"])
def test_params_as_path(world: World, where: str) -> None:
    """The annotation on the run, its task, or taskRunSpecs hands over the path; the run's beats the task's."""
    annotation = 'annotations: {resultsfs.dev/params-as-path: "true"}'
    text = pipeline(task("a", "spill r content", results=STRING), task("b", "print $(params.p)", USE))
    if where == "run":
        text = text.replace("{name: run}", f"{{name: run, {annotation}}}")
    elif where == "spec":
        text = text.replace(
            "  pipelineSpec:", f"  taskRunSpecs: [{{pipelineTaskName: b, metadata: {{{annotation}}}}}]\n  pipelineSpec:"
        )
    else:
        head, tail = text.rsplit("taskSpec:\n", 1)
        text = f"{head}taskSpec:\n        metadata: {{{annotation}}}\n{tail}"
    if where == "both":
        text = text.replace("{name: run}", f"{{name: run, {annotation.replace('true', 'false')}}}")
    assert world.run(text).status == "Succeeded"
    (line,) = [call[3] for call in world.told.calls if call[0] == "output" and call[1] == "run-b"]
    assert line == "content" if where == "both" else line.startswith("/tekton/results/.ref/")


@pytest.mark.parametrize("annotation", ["params-as-path: perhaps", 'param-as-path: "true"', "store: memory://x"])
@pytest.mark.parametrize(
    "where", ["metadata", "spec.taskRunSpecs[0].metadata", "spec.pipelineSpec.tasks[0].taskSpec.metadata"]
)
def test_a_bad_annotation_is_found_first(world: World, annotation: str, where: str) -> None:
    """One of ours that means nothing is an error before anything runs, which names the object, the place and it."""
    given = f"annotations: {{resultsfs.dev/{annotation}}}"
    text = pipeline(task("a"))
    if where == "metadata":
        text = text.replace("{name: run}", f"{{name: run, {given}}}")
    elif "taskRunSpecs" in where:
        specs = f"  taskRunSpecs: [{{pipelineTaskName: a, metadata: {{{given}}}}}]\n"
        text = text.replace("  pipelineSpec:", f"{specs}  pipelineSpec:")
    else:
        text = text.replace("taskSpec:\n", f"taskSpec:\n        metadata: {{{given}}}\n")
    with pytest.raises(InvalidDocument) as caught:
        world.run(text)
    for word in ('PipelineRun "run": ', f"{where}.annotations", f"resultsfs.dev/{annotation.partition(':')[0]}"):
        assert word in str(caught.value)
    assert world.plans == []


def test_unknown_content(world: World) -> None:
    """A reference whose content is gone fails the run by name of param and content."""
    gone = f"/tekton/results/.ref/{'A' * 22}.{'A' * 43}"
    text = pipeline(task("a", f"result r {gone}", results=STRING), task("b", "print x", USE))
    outcome = world.run(text)
    assert (outcome.reason, "unknown or expired" in outcome.message) == ("CreateRunFailed", True)


def test_stock_resolves_nothing(world: World) -> None:
    """In stock mode plans say so, and what looks like a reference is the user's own text."""
    gone = f"/tekton/results/.ref/{'A' * 22}.{'A' * 43}"
    world.stock = True
    text = pipeline(task("a", f"result r {gone}", results=STRING), task("b", "print $(params.p)", USE))
    assert world.run(text).status == "Succeeded"
    assert ("output", "run-b", "main", gone) in world.told.calls
    assert all(plan.stock for plan in world.plans)


def test_independent_tasks_run_together(world: World) -> None:
    """Two tasks that do not wait for one another are executed at the same time."""
    meeting = threading.Barrier(2, timeout=60)

    def meet(plan: TaskRunPlan) -> None:
        if plan.pipeline_task in ("a", "b"):
            meeting.wait()

    world.before = meet
    assert world.run(pipeline(task("a"), task("b"), task("c", "print x", "runAfter: [a, b]"))).status == "Succeeded"
    assert world.plans[-1].pipeline_task == "c"


def test_matrix_fans_out_and_gathers(world: World) -> None:
    """A matrix makes one TaskRun for each combination; their results are one array, their count is known."""
    text = pipeline(
        MATRIX.format(
            name="a",
            more="matrix: {params: [{name: os, value: [linux, mac]}], include: [{name: x, params: [{name: os, value: mac}, {name: n, value: '1'}]}]}",
            script="spill r $(params.os)-$(params.n)",
        ),
        """
  - name: b
    params:
    - {name: all, value: "$(tasks.a.results.r[*])"}
    - {name: count, value: "$(tasks.a.matrix.length)/$(tasks.a.matrix.r.length)"}
    taskSpec:
      params: [{name: all, type: array}, {name: count}]
      steps: [{command: [show, "$(params.all[*])", $(params.count)]}]
""",
        results='{name: out, value: "$(tasks.a.results.r[*])"}',
    )
    outcome = world.run(text)
    assert outcome.status == "Succeeded", outcome.message
    assert [item.name for item in outcome.task_runs] == ["run-a-0", "run-a-1", "run-b"]
    assert world.plan("b").steps[0].command == ("show", "linux-0", "mac-1", "2/2")
    assert (outcome.results[0].type, outcome.results[0].spilled, len(outcome.results[0].value)) == ("array", True, 2)


def test_matrix_over_a_result(world: World) -> None:
    """An array result fans out another task: its skeleton is kept, each element is content again in its TaskRun."""
    text = pipeline(
        task("a", 'spill r ["x", "y"]', results=ARRAY),
        MATRIX.format(
            name="b",
            more='matrix: {params: [{name: os, value: "$(tasks.a.results.r[*])"}]}',
            script="print $(params.os)",
        ),
    )
    assert world.run(text).status == "Succeeded"
    assert {call[3] for call in world.told.calls if call[0] == "output"} == {"x", "y"}
    assert world.plan("a").kept == {"r": Keep.SKELETON}


def test_an_empty_matrix_is_skipped(world: World) -> None:
    """No elements, no TaskRuns: skipped with Tekton's reason, and its dependants with it."""
    text = pipeline(
        task("a", "result r []", results=ARRAY),
        MATRIX.format(
            name="b", more='matrix: {params: [{name: os, value: "$(tasks.a.results.r[*])"}]}', script="print x"
        ),
        task("c", "print x", "runAfter: [b]"),
    )
    assert skipped(world.run(text)) == {
        "b": "Matrix Parameters have an empty array",
        "c": "Parent Tasks were skipped",
    }


def test_too_large_a_matrix(world: World) -> None:
    """More than 256 combinations are refused."""
    values = ", ".join(f"v{index}" for index in range(257))
    text = pipeline(
        MATRIX.format(name="a", more=f"matrix: {{params: [{{name: os, value: [{values}]}}]}}", script="print x")
    )
    assert "257 combinations" in world.run(text).message


def test_params_of_the_run(world: World) -> None:
    """Params, defaults, contexts and options reach embedded steps, inner params hide outer ones."""
    text = pipeline(
        task(
            "a",
            "print $(params.x) $(params.y) $(context.pipelineRun.name) $(context.taskRun.name) $(context.pipeline.name)",
        ),
        task("b", "print $(params.x)", "params: [{name: x, value: inner $(params.x)}]"),
        run="  params: [{name: x, value: given}]",
    ).replace(
        "  pipelineSpec:\n", "  pipelineSpec:\n    params: [{name: x}, {name: y, default: default of $(params.x)}]\n"
    )
    assert world.run(text, params=[("x", "option")]).status == "Succeeded"
    lines = {call[1]: call[3] for call in world.told.calls if call[0] == "output"}
    assert lines == {"run-a": "option default of option run run-a run", "run-b": "inner option"}


def test_report(world: World) -> None:
    """The report is exactly the JSON object of `--output json`."""
    text = pipeline(
        task("a", "result r hi", results=STRING),
        task("b", "print x", "when: [{input: a, operator: in, values: [b]}]"),
        results="{name: out, value: $(tasks.a.results.r)}",
    )
    result = {
        "type": "string",
        "size": 2,
        "sha256": "8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4",
        "spilled": False,
        "value": "hi",
    }
    assert as_object(world.run(text)) == {
        "kind": "PipelineRun",
        "name": "run",
        "status": "Succeeded",
        "reason": "Completed",
        "message": "Tasks Completed: 1 (Failed: 0, Cancelled 0), Skipped: 1",
        "results": [{"name": "out", **result}],
        "taskRuns": [
            {
                "name": "run-a",
                "pipelineTask": "a",
                "status": "Succeeded",
                "reason": "Succeeded",
                "message": "All Steps have completed executing",
                "results": [{"name": "r", **result}],
            }
        ],
        "skipped": ["b"],
    }
