"""What PipelineRuns make of results on resultsfs: values decide, references become content again, or are read by path."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from resultsfs.reference import Reference
from tests.cluster.flags import feature_flags
from tests.cluster.kube import PIPELINERUN, TASKRUN, Kube, Manifest
from tests.cluster.room import Room, outcome, results, succeeded, task
from tests.cluster.test_results import DEADLINE, LARGE, fill, sha256

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

TOO_LARGE = 100_000
_ELEMENT = 5_000
_BY_PATH = {"annotations": {"resultsfs.dev/params-as-path": "true"}}
_DIGEST = 'printf %s "$VALUE" | sha256sum'


def reading(script: str, value: str = "$(params.value)", kind: str = "string") -> Manifest:
    """A Task's spec with the param `value`, whose step `read` has a value in its environment."""
    param: dict[str, Any] = {"name": "value", "type": kind}
    if kind == "object":
        param["properties"] = {"url": {"type": "string"}, "log": {"type": "string"}}
    found = task([], read=script)
    found["params"] = [param]
    found["steps"][0]["env"] = [{"name": "VALUE", "value": value}]
    return found


def uses(name: str, value: str, spec: Manifest, **more: Any) -> Manifest:
    """A pipeline's task that has the param `value`."""
    return {"name": name, "params": [{"name": "value", "value": value}], "taskSpec": spec, **more}


def makes(write: str, results: list[Manifest] | list[str], **more: Any) -> Manifest:
    """A pipeline's task `make` with these results, by their names or as they are declared."""
    spec = task([], write=write)
    spec["results"] = [{"name": result} if isinstance(result, str) else result for result in results]
    return {"name": "make", "taskSpec": spec, **more}


def pipelinerun(name: str, *tasks: Manifest, **more: Any) -> Manifest:
    """A PipelineRun of these tasks; `more` is of its pipeline."""
    return {
        "apiVersion": PIPELINERUN.api_version,
        "kind": PIPELINERUN.kind,
        "metadata": {"name": name},
        "spec": {"pipelineSpec": {"tasks": list(tasks), **more}},
    }


def _flow() -> Manifest:
    when = {"input": "$(tasks.make.results.small)", "operator": "in"}
    return pipelinerun(
        "flow",
        makes(f"printf yes > $(results.small.path); {fill('large', LARGE)}", ["small", "large"]),
        uses("use", "$(tasks.make.results.large)", reading(_DIGEST), when=[{**when, "values": ["yes"]}]),
        uses("never", "$(tasks.make.results.large)", reading("exit 1"), when=[{**when, "values": ["no"]}]),
        results=[{"name": name, "value": f"$(tasks.make.results.{name})"} for name in ("small", "large")],
        **{"finally": [uses("last", "$(tasks.make.results.large)", reading(_DIGEST))]},
    )


def _retried() -> Manifest:
    attempt = "$(context.task.retry-count)"
    write = f"{fill('large', LARGE, attempt)}; test {attempt} = 1"
    return pipelinerun(
        "retried", makes(write, ["large"], retries=1), uses("use", "$(tasks.make.results.large)", reading(_DIGEST))
    )


def _too_large() -> Manifest:
    value = "$(tasks.make.results.large)"
    return pipelinerun("too-large", makes(fill("large", TOO_LARGE), ["large"]), uses("use", value, reading(_DIGEST)))


def _by_path() -> Manifest:
    run = _too_large()
    run["metadata"]["name"] = "by-path"
    run["spec"]["pipelineSpec"]["tasks"][1]["taskSpec"] |= {"metadata": _BY_PATH}
    run["spec"]["pipelineSpec"]["tasks"][1]["taskSpec"]["steps"] = reading('echo "$VALUE"; sha256sum < "$VALUE"')[
        "steps"
    ]
    return run


def _array() -> Manifest:
    big = f"big=$(head -c {_ELEMENT} /dev/zero | tr '\\0' e)"
    write = f'{big}; printf \'["one", "%s", "three"]\' "$big" > $(results.list.path)'
    every = reading("")
    every["steps"][0] |= {
        "command": ["sh", "-ec", 'echo $#; printf %s "$2" | sha256sum', "sh"],
        "args": ["$(params.value[*])"],
    }
    every["steps"][0].pop("env")
    every["params"][0]["type"] = "array"
    each = uses("each", "", reading(_DIGEST))
    each["matrix"] = {"params": [{"name": "value", "value": "$(tasks.make.results.list[*])"}]}
    del each["params"]
    return pipelinerun(
        "array",
        makes(write, [{"name": "list", "type": "array"}]),
        uses("first", "$(tasks.make.results.list[0])$(tasks.make.results.list[1])", reading(_DIGEST)),
        uses("all", "$(tasks.make.results.list[*])", every),
        each,
    )


def _object() -> Manifest:
    big = f"big=$(head -c {_ELEMENT} /dev/zero | tr '\\0' o)"
    write = f'{big}; printf \'{{"url": "here", "log": "%s"}}\' "$big" > $(results.found.path)'
    properties = {"url": {"type": "string"}, "log": {"type": "string"}}
    whole = reading(f'{_DIGEST}; echo "$(params.value.url)"', "$(params.value.log)", "object")
    return pipelinerun(
        "object",
        makes(write, [{"name": "found", "type": "object", "properties": properties}]),
        uses("property", "$(tasks.make.results.found.log)", reading(_DIGEST)),
        uses("whole", "$(tasks.make.results.found[*])", whole),
    )


def _propagated() -> Manifest:
    use = task([], read=_DIGEST)
    use["steps"][0]["env"] = [{"name": "VALUE", "value": "$(tasks.make.results.large)"}]
    return pipelinerun("propagated", makes(fill("large", LARGE), ["large"]), {"name": "use", "taskSpec": use})


class Begun:
    """The module's PipelineRuns by name, which all run at once."""

    def __init__(self, hall: Room) -> None:
        self.room = hall
        made = (_flow(), _retried(), _too_large(), _by_path(), _array(), _object(), _propagated())
        self._started = {run["metadata"]["name"]: hall.start(run) for run in made}

    def ended(self, name: str) -> Manifest:
        """A PipelineRun when it has ended."""
        return self.room.end(self._started[name], deadline=DEADLINE)

    def succeeded(self, name: str) -> Manifest:
        """A PipelineRun when it has ended well."""
        run = self.ended(name)
        assert succeeded(run), outcome(run)
        return run

    def read(self, run: Manifest, name: str) -> list[str]:
        """The words that a task's step `read` printed."""
        return self.room.log(self.room.taskruns(run)[name], "read").split()


@pytest.fixture(scope="module")
def begun(hall: Room) -> Begun:
    """All PipelineRuns of this module."""
    return Begun(hall)


def test_values_decide_and_references_become_content(begun: Begun) -> None:
    """Small: `when` decides by it. Large: a reference in status, the content itself in the next param and in finally's."""
    run = begun.succeeded("flow")
    runs = begun.room.taskruns(run)
    assert set(runs) == {"make", "use", "last"}
    assert [skipped["name"] for skipped in run["status"]["skippedTasks"]] == ["never"]
    found = results(runs["make"])
    assert found["small"] == "yes"
    reference = Reference.match(found["large"])
    assert reference is not None
    assert (reference.sha256, str(reference.run)) == (sha256(LARGE), run["metadata"]["uid"])
    for name in ("use", "last"):
        assert runs[name]["spec"]["params"] == [{"name": "value", "value": "x" * LARGE}]
        assert begun.read(run, name) == [sha256(LARGE), "-"]
    assert results(run) == {"small": "yes", "large": str(reference)}


def test_a_retry_counts(begun: Begun) -> None:
    """A task that wrote a large result and failed is tried again; what the second attempt wrote is the result."""
    run = begun.succeeded("retried")
    made = begun.room.taskruns(run)["make"]
    assert len(made["status"]["retriesStatus"]) == 1
    assert begun.read(run, "use") == [sha256(LARGE, "1"), "-"]


def test_what_fits_no_param_ends_the_pipelinerun(begun: Begun) -> None:
    """CreateRunFailed, and the message says which param, how large, what the limit is, and what helps."""
    run = begun.ended("too-large")
    found = outcome(run)
    assert (found["status"], found["reason"]) == ("False", "CreateRunFailed")
    for word in ('pipeline task "use"', 'param "value"', "97.7 KiB", "90 KiB", "resultsfs.dev/params-as-path"):
        assert word in found["message"]
    assert set(begun.room.taskruns(run)) == {"make"}


def test_by_annotation_it_is_read_by_path(begun: Begun) -> None:
    """With params-as-path on the consumer the param is a path, and the file behind it the content."""
    run = begun.succeeded("by-path")
    reference = results(begun.room.taskruns(run)["make"])["large"]
    assert begun.read(run, "use") == [reference, sha256(TOO_LARGE), "-"]


def test_arrays_by_index_as_a_whole_and_in_a_matrix(begun: Begun) -> None:
    """A large element of an array is a reference in status, and itself wherever it is used."""
    run = begun.succeeded("array")
    made = begun.room.taskruns(run)["make"]
    one, big, three = results(made)["list"]
    assert (one, three) == ("one", "three")
    reference = Reference.match(big)
    assert reference is not None
    assert reference.sha256 == sha256(_ELEMENT, "e")
    content = "e" * _ELEMENT
    assert begun.read(run, "first") == [hashlib.sha256(f"one{content}".encode()).hexdigest(), "-"]
    assert begun.read(run, "all") == ["3", sha256(_ELEMENT, "e"), "-"]
    selector = "tekton.dev/pipelineRun=array,tekton.dev/pipelineTask=each"
    fanned = begun.room.kube.list(TASKRUN, begun.room.name, label_selector=selector)
    values = {made["spec"]["params"][0]["value"] for made in fanned}
    assert values == {"one", content, "three"}


def test_objects_by_property_and_as_a_whole(begun: Begun) -> None:
    """A large property of an object is a reference in status, and itself wherever it is used."""
    run = begun.succeeded("object")
    found = results(begun.room.taskruns(run)["make"])["found"]
    assert found["url"] == "here"
    assert Reference.match(found["log"])
    assert begun.read(run, "property") == [sha256(_ELEMENT, "o"), "-"]
    assert begun.read(run, "whole") == [sha256(_ELEMENT, "o"), "-", "here"]


def test_results_propagate_into_embedded_tasks(begun: Begun) -> None:
    """A large result that an embedded task names without a param is its content there."""
    run = begun.succeeded("propagated")
    assert begun.read(run, "use") == [sha256(LARGE), "-"]


def test_by_sidecar_logs_too(kube: Kube, begun: Begun, hall: Room) -> None:
    """With `results-from: sidecar-logs` small values decide and are in status, a large result is the next task's param
    and the pipeline's result a reference."""
    for name in ("flow", "retried", "too-large", "by-path", "array", "object", "propagated"):
        begun.ended(name)  # the flag is everybody's
    run = _flow()
    run["metadata"]["name"] = "flow-by-logs"
    with feature_flags(kube, hall, results_from="sidecar-logs"):
        run = hall.run(run, deadline=DEADLINE)
    assert succeeded(run), outcome(run)
    runs = hall.taskruns(run)
    assert set(runs) == {"make", "use", "last"}
    made = runs["make"]
    assert made["status"]["provenance"]["featureFlags"]["resultExtractionMethod"] == "sidecar-logs"
    reference = Reference.match(results(made)["large"])
    assert reference is not None
    assert (results(made)["small"], reference.sha256) == ("yes", sha256(LARGE))
    for name in ("use", "last"):
        assert runs[name]["spec"]["params"] == [{"name": "value", "value": "x" * LARGE}]
        assert hall.log(runs[name], "read").split() == [sha256(LARGE), "-"]
    assert results(run) == {"small": "yes", "large": str(reference)}
