"""Variables are replaced as Tekton documents it: one pass, arrays and objects where whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resultsfs.local.substitution import Replacements, expand_environment
from resultsfs.record import ResultValue

PARAMS: list[tuple[str, ResultValue]] = [
    ("s", "text"),
    ("a", ["x", "y"]),
    ("o", {"k": "v"}),
    ("dotted.name", "d"),
    ("empty", []),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(params.s)", "text"),
        ("$(params[\"s\"])-$(params['s'])", "text-text"),
        ("$(params['dotted.name'])$(params.dotted.name)", "dd"),
        ("$(params.a[0])$(params.a[1])", "xy"),
        ("$(params['a'][1])", "y"),
        ("$(params.o.k)", "v"),
        ("$($(params.s))", "$(text)"),
        ("$(date) $(params.none) $(params.a[2]) $(", "$(date) $(params.none) $(params.a[2]) $("),
        ("$$(params.s)", "$text"),
    ],
)
def test_text(text: str, expected: str) -> None:
    """Strings, elements and properties are replaced in place; what is unknown stays."""
    assert Replacements.of_params(PARAMS).text(text) == expected


def test_inputs_params_is_for_tasks() -> None:
    """The old spelling `inputs.params` works in tasks, where compiled Kubeflow pipelines use it."""
    assert Replacements.of_params(PARAMS, in_task=True).text("$(inputs.params.s)") == "text"
    assert Replacements.of_params(PARAMS).text("$(inputs.params.s)") == "$(inputs.params.s)"


def test_values_take_types() -> None:
    """A string that is exactly a whole array or object takes its type; inside other text it does not."""
    replacements = Replacements.of_params(PARAMS)
    assert replacements.value("$(params.a[*])") == ["x", "y"]
    assert replacements.value("$(params.a)") == ["x", "y"]
    assert replacements.value("$(params.o[*])") == {"k": "v"}
    assert replacements.value(["0", "$(params.a[*])", "$(params.s)"]) == ["0", "x", "y", "text"]
    assert replacements.value(["$(params.empty[*])"]) == []
    assert replacements.value({"z": "$(params.o.k)"}) == {"z": "v"}
    assert replacements.value("-$(params.a[*])") == "-$(params.a[*])"


def test_trees() -> None:
    """In a tree, lists of strings expand and all other strings are replaced in place."""
    tree = {"args": ["a", "$(params.a[*])"], "env": [{"name": "E", "value": "$(params.s)"}], "n": 3}
    expected = {"args": ["a", "x", "y"], "env": [{"name": "E", "value": "text"}], "n": 3}
    assert Replacements.of_params(PARAMS).tree(tree) == expected


def test_inner_scope_hides() -> None:
    """Params of an inner scope are left for it, in all their forms, and no others."""
    inner = Replacements.of_params([*PARAMS, ("ab", "other")]).without_params(["a", "s"])
    text = "$(params.s)$(params['s'])$(params.a[0])"
    assert inner.text(text) == text
    assert inner.text("$(params.ab)$(params.o.k)") == "otherv"
    assert inner.value("$(params.a[*])") == "$(params.a[*])"


@given(st.text(alphabet=st.sampled_from(list("$()params.s [*]0x\n"))), st.text())
def test_one_pass(text: str, value: str) -> None:
    """What was put in is never scanned again: a marker in the value survives whatever the value holds."""
    replacements = Replacements({"params.s": value + "$(params.s)"})
    assert replacements.text(text) == (value + "$(params.s)").join(text.split("$(params.s)"))


@given(st.text())
def test_nothing_known_nothing_changed(text: str) -> None:
    """Without replacements a text is its own."""
    assert Replacements().text(text) == text
    assert Replacements().value(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(NAME)", "value"),
        ("$$(NAME)", "$(NAME)"),
        ("a$$b", "a$b"),
        ("$(OTHER) $NAME ${NAME} $(", "$(OTHER) $NAME ${NAME} $("),
        ("$", "$"),
        ("$(NAME)$(NAME)$", "valuevalue$"),
    ],
)
def test_the_kubelets_expansion(text: str, expected: str) -> None:
    """`$(NAME)` takes the container's environment, `$$` is one dollar, what is unknown stays."""
    assert expand_environment(text, {"NAME": "value"}) == expected
