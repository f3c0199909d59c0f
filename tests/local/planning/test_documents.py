"""Documents are read strictly: nothing is ignored, and each error names document, field and problem."""

from __future__ import annotations

import pytest

from resultsfs.errors import InvalidDocument
from resultsfs.local.documents import load
from resultsfs.local.model import ParamSpec, PipelineRun, TaskRun
from resultsfs.record import ResultType

TASK = """
apiVersion: tekton.dev/v1
kind: Task
metadata: {name: greet}
spec:
  steps: [{name: say, image: busybox, script: echo}]
"""
PIPELINE = """
apiVersion: tekton.dev/v1
kind: Pipeline
metadata: {name: line}
spec:
  tasks: [{name: one, taskRef: {name: greet}}]
"""


def task(spec: str, version: str = "v1") -> str:
    """A Task with this spec, in flow style."""
    return f"{{apiVersion: tekton.dev/{version}, kind: Task, metadata: {{name: t}}, spec: {spec}}}"


def pipeline(task: str, more: str = "") -> str:
    """A Pipeline whose second task this is; the first has a result `r`, and is called `a`."""
    first = "{name: a, taskSpec: {results: [{name: r}], steps: [{script: x}]}}"
    return f"{{apiVersion: tekton.dev/v1, kind: Pipeline, metadata: {{name: p}}, spec: {{tasks: [{first}, {task}]{more}}}}}"


STEP = "taskSpec: {steps: [{script: x}]}"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[", ["not YAML"]),
        ("- a", ["document 1", "mapping"]),
        ("{apiVersion: v1, kind: ConfigMap}", ["apiVersion", "'v1'"]),
        ("{apiVersion: tekton.dev/v1, kind: StepAction}", ["StepAction", "not supported"]),
        ("{apiVersion: tekton.dev/v1, kind: [x]}", ["['x']", "not supported"]),
        ("{apiVersion: tekton.dev/v1, kind: Task, spec: {steps: [{script: x}]}}", ["metadata", "missing"]),
        (task("{steps: [{script: x}]}").replace("name: t", "name: T_x"), ["metadata.name", "'T_x'"]),
        (task("{steps: [{script: $(steps.a.exitCode.path)}]}"), ["no step 'a'", "step- before it"]),
        (task("{steps: []}"), ['Task "t"', "spec.steps", "missing"]),
        (task("{steps: [{script: x, unheard: 1}]}"), ["spec.steps[0].unheard", "unknown to Tekton"]),
        (task("{steps: [{script: 5}]}"), ["spec.steps[0].script", "5", "quotes"]),
        (task("{steps: [{image: busybox}]}"), ["spec.steps[0]", "script or command", "images are not run"]),
        (task("{steps: [{script: x, command: [y]}]}"), ["both script and command"]),
        (task("{steps: [{ref: {name: x}}]}"), ["spec.steps[0].ref", "not supported by the local runner"]),
        (task("{steps: [{script: x, when: []}]}"), ["spec.steps[0].when", "not supported"]),
        (task("{steps: [{script: x, timeout: soon}]}"), ["timeout", "'soon'", "1h30m0s"]),
        (task("{steps: [{script: x, onError: shrug}]}"), ["onError", "'shrug'", "stopAndFail"]),
        (task("{sidecars: [], steps: [{script: x}]}"), ["spec.sidecars", "not supported"]),
        (task("{volumes: [], steps: [{script: x}]}"), ["spec.volumes", "not supported", "workspace"]),
        (task("{steps: [{script: x, env: [{name: A, valueFrom: {}}]}]}"), ["env[0].valueFrom", "not supported"]),
        (task("{steps: [{script: x, resources: {}}]}"), ["resources", "tekton.dev/v1"]),
        (task("{resources: {}, steps: [{script: x}]}", "v1beta1"), ["spec.resources", "not supported"]),
        (task("{params: [{name: a}, {name: a}], steps: [{script: x}]}"), ["params[1].name", "more than once"]),
        (task("{params: [{name: a, type: array, default: x}], steps: [{script: x}]}"), ["default", "'x'", "array"]),
        (task("{params: [{name: a, enum: [b], default: x}], steps: [{script: x}]}"), ["default", "'x'", "enum"]),
        (task("{params: [{name: a, type: number}], steps: [{script: x}]}"), ["type", "'number'", "'object'"]),
        (task("{results: [{name: '.r'}], steps: [{script: x}]}"), ["results[0].name", "'.r'"]),
        (task("{results: [{name: r, value: $(steps.s.results.x)}], steps: [{script: x}]}"), ["value", "step results"]),
        (task("{steps: [{script: echo $(params.who)}]}"), ["spec.steps[0].script", "$(params.who)", "no such param"]),
        (task("{params: [{name: a}], steps: [{script: $(params.ab)}]}"), ["$(params.ab)", "no such param"]),
        (task("{steps: [{script: $(results.r.path)}]}"), ["$(results.r.path)", "no result"]),
        (task("{steps: [{script: $(workspaces.w.path)}]}"), ["$(workspaces.w.path)", "no workspace"]),
        (task("{steps: [{script: $(context.taskRun.nam)}]}"), ["$(context.taskRun.nam)", "context"]),
        (task("{steps: [{script: $(step.results.r.path)}]}"), ["$(step.results.r.path)", "not supported"]),
        (task("{steps: [{script: x}], steps: []}"), ["'steps'", "more than once"]),
        (TASK + "---" + TASK, ['Task "greet"', "more than once in the file"]),
        (pipeline("{name: b}"), ["spec.tasks[1]", "taskRef and taskSpec"]),
        (pipeline(f"{{name: a, {STEP}}}"), ["tasks[1].name", "'a'", "more than once"]),
        (pipeline(f"{{name: B, {STEP}}}"), ["tasks[1].name", "'B'"]),
        (pipeline("{name: b, taskRef: {name: x, bundle: y}}"), ["bundle", "tekton.dev/v1"]),
        (pipeline("{name: b, taskRef: {resolver: git}}"), ["taskRef.resolver", "same file"]),
        (pipeline("{name: b, taskRef: {name: x, kind: ClusterTask}}"), ["taskRef.kind", "'ClusterTask'", "'Task'"]),
        (pipeline("{name: b, pipelineSpec: {}}"), ["tasks[1].pipelineSpec", "not supported"]),
        (pipeline(f"{{name: b, when: [{{cel: x}}], {STEP}}}"), ["when[0].cel", "not supported"]),
        (pipeline(f"{{name: b, when: [{{input: x, operator: is, values: [y]}}], {STEP}}}"), ["operator", "'is'"]),
        (pipeline(f"{{name: b, runAfter: [c], {STEP}}}"), ['"b" depends on "c"']),
        (pipeline(f"{{name: b, runAfter: [b], {STEP}}}"), ["wait for one another", "b -> b"]),
        (pipeline(f"{{name: b, params: [{{name: x, value: $(tasks.z.results.r)}}], {STEP}}}"), ['depends on "z"']),
        (
            pipeline(f"{{name: b, params: [{{name: x, value: '$(tasks.a.results[''r''])'}}], {STEP}}}"),
            ["results['r']", "dependency"],
        ),
        (
            pipeline(f"{{name: b, params: [{{name: x, value: $(tasks.a.status)}}], {STEP}}}"),
            ["$(tasks.a.status)", "finally"],
        ),
        (pipeline(f"{{name: b, params: [{{name: x, value: $(params.q)}}], {STEP}}}"), ["$(params.q)", "no such param"]),
        (pipeline(f"{{name: b, retries: -1, {STEP}}}"), ["retries", "-1"]),
        (pipeline(f"{{name: b, matrix: {{params: [{{name: x, value: y}}]}}, {STEP}}}"), ["matrix", "'y'", "array"]),
        (
            pipeline(
                f"{{name: b, params: [{{name: x, value: y}}], matrix: {{params: [{{name: x, value: [y]}}]}}, {STEP}}}"
            ),
            ["both give", "'x'"],
        ),
        (pipeline(f"{{name: b, workspaces: [{{name: w, subPath: $(tasks.a.results.r)}}], {STEP}}}"), ["subPath only"]),
        (pipeline(f"{{name: b, {STEP}}}", f", finally: [{{name: c, runAfter: [a], {STEP}}}]"), ["finally[0].runAfter"]),
        (pipeline(f"{{name: b, {STEP}}}", f", finally: [{{name: a, {STEP}}}]"), ["finally[0].name", "more than once"]),
        (pipeline("{name: b, taskRef: {name: absent}}"), ["taskRef.name", "'absent'", "not in the file"]),
    ],
)
def test_errors_name_what_is_wrong(text: str, parts: list[str]) -> None:
    """Each mistake is refused, with a message that names place, value and what is allowed."""
    with pytest.raises(InvalidDocument) as caught:
        load(text, "f.yaml").select()
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_a_run_is_preferred() -> None:
    """Of a file with a Task, a Pipeline and a run of it, the run is taken, and finds both by name."""
    text = (
        f"{TASK}---{PIPELINE}---\n"
        + "{apiVersion: tekton.dev/v1, kind: PipelineRun, metadata: {generateName: r-}, spec: {pipelineRef: {name: line}}}"
    )
    chosen = load(text).select()
    assert isinstance(chosen, PipelineRun)
    assert chosen.name.startswith("r-")
    assert len(chosen.name) == 7
    assert chosen.pipeline.name == "line"
    assert list(chosen.tasks) == ["greet"]


def test_a_run_is_made() -> None:
    """A bare Pipeline, or a bare Task, gets a run of its own; its workspaces are shared directories."""
    made = load(TASK + "---" + PIPELINE).select()
    assert isinstance(made, PipelineRun)
    assert made.name.startswith("line-run-")
    with_workspace = TASK.replace("spec:", "spec:\n  workspaces: [{name: w}, {name: o, optional: true}]")
    alone = load(with_workspace).select()
    assert isinstance(alone, TaskRun)
    assert [(item.name, item.claim) for item in alone.workspaces] == [("w", "workspace-w")]


def test_a_claim_in_the_file() -> None:
    """A PersistentVolumeClaim among the documents is no obstacle: what names it is a directory."""
    claim = "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: c}, spec: {}}"
    loaded = load(f"{claim}\n---\n{task('{steps: [{script: x}]}')}")
    assert (list(loaded.tasks), loaded.runs) == ([("default", "t")], {})


def test_several_candidates() -> None:
    """Several candidates are an error that names them; a name chooses, a wrong one is refused."""
    text = TASK + "---" + TASK.replace("greet", "other")
    with pytest.raises(InvalidDocument, match=r"f\.yaml: 2 Tasks \(greet, other\)"):
        load(text, "f.yaml").select()
    assert load(text).select("other").name.startswith("other-run-")
    with pytest.raises(InvalidDocument, match="'third'"):
        load(text).select("third")


def document(kind: str, name: str, namespace: str, spec: str) -> str:
    """One document; without a namespace where it is empty."""
    where = f", namespace: {namespace}" if namespace else ""
    return f"---\n{{apiVersion: tekton.dev/v1, kind: {kind}, metadata: {{name: {name}{where}}}, spec: {spec}}}\n"


def test_a_run_that_is_made_has_the_namespace_of_what_it_runs() -> None:
    """A Task's or Pipeline's own namespace, which its Tasks must be in as well."""
    one = document("Task", "t", "team", "{steps: [{script: x}]}")
    both = one + document("Pipeline", "p", "team", "{tasks: [{name: a, taskRef: {name: t}}]}")
    assert load(one).select().namespace == load(both).select().namespace == "team"


@pytest.mark.parametrize(
    ("kind", "spec", "namespaces"),
    [
        ("TaskRun", "{taskRef: {name: t}}", ("", "team")),
        ("PipelineRun", "{pipelineRef: {name: p}}", ("other", "team")),
        ("PipelineRun", "{pipelineSpec: {tasks: [{name: a, taskRef: {name: t}}]}}", ("team", "")),
        ("Pipeline", "{tasks: [{name: a, taskRef: {name: t}}]}", ("team", "other")),
    ],
)
def test_references_do_not_leave_their_namespace(kind: str, spec: str, namespaces: tuple[str, str]) -> None:
    """What is named must be in the namespace of what names it, as in Tekton; the error says which two they are."""
    own, others = namespaces
    text = document(kind, "x", own, spec) + document("Task", "t", others, "{steps: [{script: x}]}")
    if "pipelineRef" in spec:
        text += document("Pipeline", "p", others, "{tasks: [{name: a, taskRef: {name: t}}]}")
    with pytest.raises(InvalidDocument) as caught:
        load(text).select()
    for word in ("Ref.name", repr(own or "default"), repr(others or "default"), "metadata.namespace"):
        assert word in str(caught.value)


def test_one_name_in_two_namespaces() -> None:
    """Each is found where it is named, and told apart by its namespace where it is to be run."""
    tasks = "".join(document("Task", "t", name, f"{{steps: [{{script: {name}}}]}}") for name in ("a", "b"))
    run = load(tasks + document("TaskRun", "x", "b", "{taskRef: {name: t}}")).select()
    assert isinstance(run, TaskRun) and run.task.spec.tree["steps"] == [{"script": "b"}]
    for name in (None, "t"):
        with pytest.raises(InvalidDocument, match=r"2 Tasks \(a/t, b/t\)"):
            load(tasks).select(name)
    assert load(tasks).select("b/t").namespace == "b"


def test_nothing_to_run() -> None:
    """A file without documents says so."""
    with pytest.raises(InvalidDocument, match="nothing to run"):
        load("---\n---\n").select()


def test_harmless_fields_are_accepted() -> None:
    """What has no meaning without images, nodes and a user interface may stand, in both versions."""
    load(
        """
apiVersion: tekton.dev/v1beta1
kind: PipelineRun
metadata: {name: r, namespace: n, labels: {a: b}, annotations: {c: d}, uid: x, creationTimestamp: null}
spec:
  serviceAccountName: s
  timeout: 525600m
  podTemplate: {nodeSelector: {a: b}}
  taskRunSpecs: [{pipelineTaskName: a, taskServiceAccountName: x}]
  pipelineSpec:
    description: d
    tasks:
    - name: a
      displayName: A
      taskSpec:
        metadata: {labels: {a: b}, annotations: {c: d}}
        stepTemplate: {securityContext: {runAsUser: 1}}
        steps: [{script: x, image: i, imagePullPolicy: Always, resources: {limits: {cpu: 1}}, terminationMessagePath: /x}]
status: {anything: goes}
""".strip()
    ).select()


def test_yaml_as_the_api_server_reads_it() -> None:
    """Dates and times of day are text, values that are no strings become their JSON, null becomes empty."""
    text = """
apiVersion: tekton.dev/v1
kind: TaskRun
metadata: {name: r}
spec:
  params:
  - {name: date, value: 2024-01-02}
  - {name: time, value: 12:30:45}
  - {name: number, value: 5}
  - {name: float, value: 1.5}
  - {name: flag, value: true}
  - {name: nothing, value: null}
  - {name: mixed, value: [1, a]}
  - {name: list, value: [a, b]}
  - {name: object, value: {k: v}}
  taskSpec: {steps: [{script: x}]}
"""
    chosen = load(text).select()
    assert dict(chosen.params) == {
        "date": "2024-01-02",
        "time": "12:30:45",
        "number": "5",
        "float": "1.5",
        "flag": "true",
        "nothing": "",
        "mixed": '[1,"a"]',
        "list": ["a", "b"],
        "object": {"k": "v"},
    }


@pytest.mark.parametrize(
    ("tree", "kind"),
    [
        ({}, ResultType.STRING),
        ({"default": "x"}, ResultType.STRING),
        ({"default": ["x"]}, ResultType.ARRAY),
        ({"default": {"k": "v"}}, ResultType.OBJECT),
        ({"properties": {"k": {}}}, ResultType.OBJECT),
        ({"type": "array", "properties": {}}, ResultType.ARRAY),
    ],
)
def test_types_are_inferred(tree: dict[str, object], kind: ResultType) -> None:
    """A param's type is the declared one, else follows from its properties, else from its default."""
    assert ParamSpec.of({"name": "p", **tree}).type is kind


def test_timeouts_must_fit() -> None:
    """Tasks and finally together may not take longer than the pipeline."""
    text = """
apiVersion: tekton.dev/v1
kind: PipelineRun
metadata: {name: r}
spec:
  timeouts: {pipeline: 10m, tasks: 8m, finally: 3m}
  pipelineSpec: {tasks: [{name: a, taskSpec: {steps: [{script: x}]}}]}
"""
    with pytest.raises(InvalidDocument, match=r"spec\.timeouts .*10m0s"):
        load(text)
