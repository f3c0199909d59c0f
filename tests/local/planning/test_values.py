"""Params, `when`, matrices, names and durations: the small rules, each as Tekton has it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resultsfs.errors import InvalidDocument
from resultsfs.local import duration
from resultsfs.local.conditions import allow, replaced
from resultsfs.local.matrix import aggregated, as_params, child_name, combinations, run_names
from resultsfs.local.model import Include, Matrix, ParamSpec, When
from resultsfs.local.params import effective, enum_problem, overridden, task_problem
from resultsfs.local.substitution import Replacements


def specs(*trees: dict[str, Any]) -> list[ParamSpec]:
    """Declared params."""
    return [ParamSpec.of(tree) for tree in trees]


SOME = specs({"name": "s"}, {"name": "a", "type": "array"}, {"name": "o", "properties": {"k": {}, "l": {}}})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([("s", "a=b")], {"s": "a=b"}),
        ([("a", "x")], {"a": ["x"]}),
        ([("a", "x"), ("a", "[y]")], {"a": ["x", "[y]"]}),
        ([("a", '["x", "y"]')], {"a": ["x", "y"]}),
        ([("o", '{"k": "1"}')], {"o": {"k": "1"}}),
        ([("o", "k=1"), ("o", "l=2=3")], {"o": {"k": "1", "l": "2=3"}}),
    ],
)
def test_options(options: list[tuple[str, str]], expected: dict[str, object]) -> None:
    """`-p` is read by the param's type: text, JSON, or repeated."""
    assert dict(overridden(SOME, (), options)) == expected


def test_options_replace() -> None:
    """An option replaces the run's own value and keeps the others, propagated ones too."""
    assert overridden(SOME, (("s", "1"), ("free", "2")), [("s", "3"), ("free", "4")]) == (("s", "3"), ("free", "4"))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ([("z", "x")], "known are a, o, s"),
        ([("s", "x"), ("s", "y")], "2 times"),
        ([("a", "[1]")], "strings only"),
        ([("a", '["x"')], "not JSON"),
        ([("o", "x")], "key=value"),
    ],
)
def test_bad_options(options: list[tuple[str, str]], part: str) -> None:
    """A bad `-p` is refused by name."""
    with pytest.raises(InvalidDocument, match=part):
        overridden(SOME, (), options)


def test_defaults_refer_to_one_another() -> None:
    """Defaults take other params in any order, with all types; an object completes itself from its default."""
    declared = specs(
        {"name": "image", "default": "$(params.registry)/$(params.name)"},
        {"name": "registry", "default": "host"},
        {"name": "name"},
        {"name": "tags", "default": ["$(params.image):1", "x"]},
        {"name": "object", "default": {"k": "$(params.name)", "l": "2"}},
    )
    values = dict(effective(declared, (("name", "app"), ("object", {"l": "3"}))))
    assert values["image"] == "host/app"
    assert values["tags"] == ["host/app:1", "x"]
    assert values["object"] == {"k": "$(params.name)", "l": "3"}


@pytest.mark.parametrize(
    ("trees", "part"),
    [
        ([{"name": "a", "default": "$(params.b)"}, {"name": "b", "default": "$(params.a)"}], "circular"),
        ([{"name": "a", "default": "$(params.gone)"}], "undefined param"),
    ],
)
def test_defaults_that_cannot_be(trees: list[dict[str, Any]], part: str) -> None:
    """Circles and unknown names in defaults are refused."""
    with pytest.raises(ValueError, match=part):
        effective(specs(*trees), ())


def test_problems_in_tektons_words() -> None:
    """Missing, wrongly typed and incomplete params are named as Tekton names them."""
    assert task_problem(SOME, (("s", "x"),)) == ("missing values for these params which have no default values: [a o]")
    full = (("a", ["x"]), ("o", {"k": "1", "l": "2"}))
    assert task_problem(SOME, (("s", ["x"]), *full)) == "param types don't match the user-specified type: [s]"
    assert task_problem(SOME, (("s", "x"), ("a", []), ("o", {"k": "1"}))) == (
        "missing keys for these params which are required in ParamSpec's properties map[o:[l]]"
    )
    assert task_problem(SOME, (("s", "x"), *full)) is None
    assert task_problem(SOME, (("s", "x"), ("a", "$(tasks.t.results.r[*])"), full[1]), unresolved=True) is None
    assert task_problem(SOME, full, ["s"]) is None
    assert task_problem(SOME, (("s", "x"), full[1]), ["a"]) == "param types don't match the user-specified type: [a]"


def test_enum() -> None:
    """A value outside the enum is named; an empty one is not looked at, as in Tekton."""
    declared = specs({"name": "color", "enum": ["red"]})
    assert enum_problem(declared, (("color", "blue"),)) == "param `color` value: blue is not in the enum list"
    assert enum_problem(declared, (("color", ""),)) is None
    assert enum_problem(declared, (("color", "red"),)) is None


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (When("a", "in", ("a", "b")), True),
        (When("c", "in", ("a", "b")), False),
        (When("a", "notin", ("a",)), False),
        (When("c", "notin", ("a",)), True),
        (When("", "in", ("",)), True),
    ],
)
def test_when(when: When, expected: bool) -> None:
    """`in` and `notin` compare a text with a list; all expressions must hold."""
    assert allow([when]) is expected
    assert allow([when, When("x", "in", ())]) is False
    assert allow([]) is True


def test_when_with_arrays() -> None:
    """A whole array is its elements among the values, and its JSON as the input."""
    replacements = Replacements.of_params([("a", ["x", "y"])])
    (found,) = replaced([When("$(params.a[*])", "in", ("z", "$(params.a[*])"))], replacements)
    assert found == When('["x","y"]', "in", ("z", "x", "y"))


def include(**params: str) -> Include:
    """One explicit combination."""
    return Include("", tuple(params.items()))


def test_matrix_of_params() -> None:
    """The first param varies fastest, as Tekton numbers the TaskRuns."""
    found = combinations(Matrix((("os", ["linux", "mac"]), ("web", ["safari", "chrome"]))))
    assert [(item["os"], item["web"]) for item in found] == [
        ("linux", "safari"),
        ("mac", "safari"),
        ("linux", "chrome"),
        ("mac", "chrome"),
    ]


def test_matrix_with_includes() -> None:
    """Tekton's documented case: some includes complete combinations, one is a combination more."""
    matrix = Matrix(
        (("arch", ["amd", "s390x"]), ("go", ["17", "18"])),
        (
            include(package="p"),
            include(arch="s390x", flags="f"),
            include(go="17", context="c"),
            include(arch="none"),
        ),
    )
    assert combinations(matrix) == [
        {"arch": "amd", "go": "17", "package": "p", "context": "c"},
        {"arch": "s390x", "go": "17", "package": "p", "flags": "f", "context": "c"},
        {"arch": "amd", "go": "18", "package": "p"},
        {"arch": "s390x", "go": "18", "package": "p", "flags": "f"},
        {"arch": "none"},
    ]


def test_matrix_of_includes_only() -> None:
    """Without params each include is one combination."""
    assert combinations(Matrix((), (include(a="1"), include(a="2", b="3")))) == [{"a": "1"}, {"a": "2", "b": "3"}]
    assert as_params({"b": "2", "a": "1"}) == (("a", "1"), ("b", "2"))


def test_aggregated_results() -> None:
    """Results of a matrix stand in the order of the TaskRuns' names as text: -10 before -2."""
    assert aggregated([("r-2", "c"), ("r-10", "b"), ("r-0", "a")]) == ["a", "b", "c"]


def test_names_of_taskruns() -> None:
    """One TaskRun is named after run and task, several are numbered."""
    assert run_names("run", "task", 1) == ["run-task"]
    assert run_names("run", "task", 2) == ["run-task-0", "run-task-1"]


@given(st.from_regex(r"[a-z]{1,120}", fullmatch=True), st.from_regex(r"-[a-z]{1,62}", fullmatch=True))
def test_names_fit(parent: str, suffix: str) -> None:
    """A child's name has at most 63 characters, whatever its parts, and is plain when it fits."""
    name = child_name(parent, suffix)
    assert len(name) <= 63
    if len(parent + suffix) <= 63:
        assert name == parent + suffix


@given(st.integers(1, 300))
def test_long_names_stay_apart(count: int) -> None:
    """TaskRuns of a matrix have different names of at most 63 characters, also when all parts are long."""
    names = run_names("r" * 60, "t" * 62, count)
    assert len(set(names)) == count
    assert max(map(len, names)) <= 63


@pytest.mark.parametrize(
    ("text", "seconds", "shown"),
    [
        ("1h", 3600, "1h0m0s"),
        ("90s", 90, "1m30s"),
        ("1.5s", 1.5, "1.5s"),
        ("200ms", 0.2, "200ms"),
        ("0", 0, "0s"),
        ("1h0m1s", 3601, "1h0m1s"),
    ],
)
def test_durations(text: str, seconds: float, shown: str) -> None:
    """Go's durations are read, and shown as Go shows them."""
    assert duration.parse(text) == pytest.approx(seconds)
    assert duration.show(seconds) == shown


@pytest.mark.parametrize("text", ["", "5", "1d", "-1s", "1 h"])
def test_bad_durations(text: str) -> None:
    """What Go would refuse is refused."""
    with pytest.raises(ValueError, match="1h30m0s"):
        duration.parse(text)
