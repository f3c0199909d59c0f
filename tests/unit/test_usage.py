"""Which results must stay inline, by where a pipeline uses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from resultsfs.record import Keep
from resultsfs.usage import kept_results
from resultsfs.variables import ResultUse, names, param_of, result_use

USE = "$(tasks.a.results.r)"


@pytest.mark.parametrize(
    "field",
    [
        {"when": [{"input": USE, "operator": "in", "values": ["x"]}]},
        {"when": [{"input": "x", "operator": "in", "values": ["y", "$(tasks.a.results.r[*])"]}]},
        {"when": [{"cel": f"'{USE}' == 'x'"}]},
        {"displayName": f"for {USE}"},
        {"workspaces": [{"name": "w", "subPath": USE}]},
        {"taskRef": {"name": USE}},
        {"taskRef": {"resolver": "git", "params": [{"name": "url", "value": USE}]}},
        {"onError": USE},
        {"matrix": {"include": [{"name": USE, "params": []}]}},
    ],
)
def test_inline_where_nothing_resolves(field: dict[str, Any]) -> None:
    """A result used anywhere but in params stays inline, in tasks as in finally."""
    assert kept_results({"tasks": [{"name": "b", **field}]}) == {"a": {"r": Keep.INLINE}}
    assert kept_results({"tasks": [], "finally": [{"name": "b", **field}]}) == {"a": {"r": Keep.INLINE}}


@pytest.mark.parametrize(
    "field",
    [
        {"params": [{"name": "p", "value": USE}]},
        {"params": [{"name": "p", "value": ["$(tasks.a.results.r[*])"]}]},
        {"params": [{"name": "p", "value": {"k": "$(tasks.a.results.r.key)"}}]},
        {"taskSpec": {"steps": [{"script": USE}]}},
    ],
)
def test_params_and_embedded_tasks_may_be_spilled(field: dict[str, Any]) -> None:
    """What reaches the TaskRun is resolved at its admission: nothing to keep."""
    assert kept_results({"tasks": [{"name": "b", **field}]}) == {}


@pytest.mark.parametrize(
    "matrix",
    [
        {"params": [{"name": "p", "value": "$(tasks.a.results.r[*])"}]},
        {
            "params": [{"name": "p", "value": "$(tasks.a.results.r[*])"}],
            "include": [{"name": "x", "params": [{"name": "q", "value": "1"}]}],
        },
        {"params": [{"name": "q", "value": ["1"]}], "include": [{"params": [{"name": "p", "value": USE}]}]},
        {"include": [{"params": [{"name": "p", "value": USE}]}, {"params": [{"name": "p", "value": "x"}]}]},
    ],
)
def test_a_matrix_keeps_the_skeleton(matrix: dict[str, Any]) -> None:
    """A matrix fans out over elements, which become params: a skeleton may stand where Tekton compares nothing."""
    assert kept_results({"tasks": [{"name": "b", "matrix": matrix}]}) == {"a": {"r": Keep.SKELETON}}


@pytest.mark.parametrize(
    "matrix",
    [
        {
            "params": [{"name": "p", "value": "$(tasks.a.results.r[*])"}],
            "include": [{"name": "x", "params": [{"name": "p", "value": "1"}, {"name": "flag", "value": "2"}]}],
        },
        {"params": [{"name": "p", "value": ["1", "2"]}], "include": [{"params": [{"name": "p", "value": USE}]}]},
        {
            "params": [{"name": "p", "value": ["1", "2"]}],
            "include": [{"params": [{"name": "q", "value": USE}]}, {"params": [{"name": "q", "value": "x"}]}],
        },
    ],
)
def test_what_a_matrix_compares_stays_inline(matrix: dict[str, Any]) -> None:
    """Tekton compares what an `include` gives with what the rest of the matrix gives, before there is a TaskRun."""
    assert kept_results({"tasks": [{"name": "b", "matrix": matrix}]}) == {"a": {"r": Keep.INLINE}}


@pytest.mark.parametrize(
    "spec",
    [
        {"tasks": [{"name": "b", "params": [{"name": "p", "value": "x$(tasks.a.results.r[0])"}]}]},
        {"tasks": [{"name": "b", "taskSpec": {"steps": [{"args": ["$(tasks.a.results.r[7])"]}]}}]},
        {"tasks": [], "results": [{"name": "x", "value": "$(tasks.a.results.r[0])"}]},
        {"tasks": [], "results": [{"name": "x", "value": {"k": "$(finally.a.results.r[0])"}}]},
    ],
)
def test_an_index_keeps_the_skeleton(spec: dict[str, Any]) -> None:
    """Whoever picks an element of an array, in a pipeline's results too, is never given a whole-array reference."""
    assert kept_results(spec) == {"a": {"r": Keep.SKELETON}}


def test_inline_wins() -> None:
    """A result in a matrix and in a when is kept inline, in whichever order they stand."""
    by_matrix = {"name": "b", "matrix": {"params": [{"name": "p", "value": "$(tasks.a.results.r[*])"}]}}
    by_when = {"name": "c", "when": [{"input": "$(tasks.a.results.r[0])", "operator": "in", "values": []}]}
    for tasks in ([by_matrix, by_when], [by_when, by_matrix]):
        assert kept_results({"tasks": tasks}) == {"a": {"r": Keep.INLINE}}


def test_an_enum_is_checked_before_the_taskrun_exists() -> None:
    """The value of an embedded task's param with an enum stays inline: the pipeline compares it itself."""
    spec = {"params": [{"name": "p", "enum": ["x", "y"]}]}
    task = {
        "name": "b",
        "taskSpec": spec,
        "params": [{"name": "p", "value": USE}, {"name": "q", "value": "$(tasks.a.results.s)"}],
    }
    assert kept_results({"tasks": [task]}) == {"a": {"r": Keep.INLINE}}


@pytest.mark.parametrize(
    "fed",
    [
        {"params": [{"name": "p", "value": USE}, {"name": "q", "value": "$(tasks.a.results.s)"}]},
        {"matrix": {"params": [{"name": "p", "value": ["x", USE]}]}},
        {"matrix": {"include": [{"params": [{"name": "p", "value": USE}]}]}},
    ],
)
def test_an_enum_of_a_task_that_is_named(fed: dict[str, Any]) -> None:
    """Likewise a Task's enum, and one that is fed by a matrix; Tasks are asked for where they matter only."""
    asked: list[str] = []

    def declared(task: Mapping[str, Any]) -> list[dict[str, Any]]:
        asked.append(task["name"])
        return [{"name": "p", "enum": ["x"]}, {"name": "q"}]

    tasks = [{"name": "b", "taskRef": {"name": "t"}, **fed}, {"name": "c", "params": [{"name": "p", "value": "x"}]}]
    assert kept_results({"tasks": tasks}, declared=declared) == {"a": {"r": Keep.INLINE}}
    assert asked == ["b"]


def test_bindings_of_the_run() -> None:
    """A PipelineRun's workspace bindings may name results as well."""
    assert kept_results({"tasks": []}, {"workspaces": [{"name": "w", "subPath": USE}]}) == {"a": {"r": Keep.INLINE}}


def test_pipeline_results_are_free() -> None:
    """A pipeline's results may hold references, of whole arrays too: nobody computes with them."""
    values = [USE, ["$(tasks.a.results.r[*])"], {"k": "$(tasks.a.results.r.key)"}]
    for value in values:
        assert kept_results({"tasks": [], "results": [{"name": "x", "value": value}]}) == {}


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("tasks.a.results.r", ResultUse("a", "r")),
        ("tasks.a.results.r[*]", ResultUse("a", "r", star=True)),
        ("tasks.a.results.r[12]", ResultUse("a", "r", index=12)),
        ("tasks.a.results.r.k", ResultUse("a", "r", key="k")),
        ("finally.a.results.r", ResultUse("a", "r", section="finally")),
        ("tasks.a.results['r.s']", ResultUse("a", "r.s", quoted=True)),
        ("tasks.a.results.r.k.l", None),
        ("tasks.a.status", None),
        ("params.a", None),
    ],
)
def test_result_uses(name: str, use: ResultUse | None) -> None:
    """Variables are told apart as Tekton does it."""
    assert result_use(name) == use


def test_names_in_text() -> None:
    """All variables in a text are found, the shell's own ones that look alike included, others not."""
    text = "x $(params.a)$(params['b c'][0]) $(date +%s) $(params.d[*]) ${e} $(f"
    assert list(names(text)) == ["params.a", "params['b c'][0]", "params.d[*]"]


def test_params_with_dots() -> None:
    """The longest param that fits wins, and a param's name is never a mere prefix."""
    assert param_of("params.a.b.c", ["a", "a.b"]) == "a.b"
    assert param_of("params.abc", ["ab"]) is None
    assert param_of("params['a.b'][1]", ["a.b"]) == "a.b"
    assert param_of("inputs.params.a", ["a"]) == "a"
