"""Publications: the messages that collectors build from them fit, and what is kept stays."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resultsfs import message, publication
from resultsfs.publication import Candidate, Decision, Elements, Form, Limits, Plan, plan
from resultsfs.record import Keep, ResultType
from resultsfs.reference import LENGTH, Reference, find

RUN = UUID(int=7)
SHA = "ab" * 32

# what makes JSON grow: quotes, markup, control characters, broken UTF-8, line separators, wide characters
PATTERNS = (b"plain", b'"', b"<a>", b"\\\n", b"\x00", b"\xffab", "\u2028x".encode(), "\U0001f600".encode(), b'"q":"v"')
LENGTHS = (0, 1, 40, 87, 88, 200, 300, 700, 1200, 2500, 3999, 4000, 4096, 4097, 9000)


def contents() -> st.SearchStrategy[bytes]:
    """A pattern repeated to a length."""
    return st.builds(
        lambda pattern, length: (pattern * (length // len(pattern) + 1))[:length],
        st.sampled_from(PATTERNS),
        st.sampled_from(LENGTHS),
    )


@st.composite
def structures(draw: st.DrawFn) -> bytes:
    """JSON arrays and objects of strings."""
    values = [text.decode("utf-8", "replace") for text in draw(st.lists(contents(), max_size=8))]
    if draw(st.booleans()):
        return json.dumps(values, ensure_ascii=draw(st.booleans())).encode()
    return json.dumps({f"k{at}": value for at, value in enumerate(values)}).encode()


def candidate(name: str, content: bytes, **more: object) -> Candidate:
    """A candidate as a collection makes it from the content."""
    kind = {b"[": ResultType.ARRAY, b"{": ResultType.OBJECT}.get(content[:1], ResultType.STRING)
    elements = Elements.parse(content, kind) if kind is not ResultType.STRING else None
    if elements is None:
        kind = ResultType.STRING
    return Candidate(name, len(content), message.json_cost(content), kind, elements, **more)  # type: ignore[arg-type]


def published(content: bytes, found: Candidate, decision: Decision) -> bytes:
    """The bytes a collector reads for a decision."""
    if decision.form is Form.INLINE:
        return content
    if decision.form is Form.REFERENCE:
        return str(Reference.of(RUN, SHA)).encode()
    if decision.form is Form.WHOLE_ARRAY:
        return publication.whole_array(RUN, SHA)
    assert found.elements is not None
    return found.elements.render({at: Reference.of(RUN, SHA) for at in decision.spilled})


@st.composite
def result_sets(draw: st.DrawFn) -> list[tuple[Candidate, bytes]]:
    """Results with names of Tekton's form, contents of all kinds, some kept inline, some read by Chains, some with
    a second name."""
    names = draw(
        st.lists(st.from_regex(r"[A-Za-z0-9][-A-Za-z0-9_.]{0,30}[A-Za-z0-9]", fullmatch=True), unique=True, max_size=14)
    )
    keeps = st.sampled_from([None, None, None, None, Keep.SKELETON, Keep.INLINE])
    made = []
    for name in names:
        content = draw(st.one_of(contents(), structures()))
        also = (f"{name}.second",) if draw(st.integers(0, 4)) == 0 else ()
        made.append(
            (candidate(name, content, keep=draw(keeps), chains=draw(st.integers(0, 9)) == 0, also=also), content)
        )
    return made


def message_of(results: list[tuple[Candidate, bytes]], decided: Plan) -> bytes:
    """The real message, with the exit code that a failing step adds."""
    values = [
        (name, published(content, found, decided.decisions[found.name]))
        for found, content in results
        for name in found.names
    ]
    return message.encode(values, exit_code=1)


@settings(max_examples=2000, deadline=None)
@given(result_sets(), st.integers(1, 20), st.integers(LENGTH, 8000), st.integers(0, 200))
def test_real_message_fits_whenever_the_plan_says_so(
    results: list[tuple[Candidate, bytes]], containers: int, threshold: int, reserve: int
) -> None:
    """For any results and pod, the JSON built from the decided values is within Tekton's and the kubelet's limits."""
    limits = Limits.termination_message(threshold, containers, reserve)
    decided = plan([found for found, _ in results], limits)
    size = len(message_of(results, decided)) + reserve
    assert size <= sum(decided.costs.values()) + message.FIXED_COST + message.EXIT_CODE_COST + reserve
    if results and not decided.over_total:
        assert size <= min(message.LIMIT, message.kubelet_limit(containers))


@settings(max_examples=600, deadline=None)
@given(result_sets(), st.integers(1, 12))
def test_what_does_not_fit_could_not_be_made_to(results: list[tuple[Candidate, bytes]], containers: int) -> None:
    """A plan that does not fit has spilled everything that it may."""
    decided = plan([found for found, _ in results], Limits.termination_message(4096, containers, 0))
    if not decided.over_total:
        return
    for found, content in results:
        decision = decided.decisions[found.name]
        if found.keep is Keep.INLINE:
            assert decision.form is Form.INLINE
        elif found.elements is None:
            assert decision.form is Form.REFERENCE or found.size <= LENGTH
        elif found.may_collapse:
            assert message.json_cost(published(content, found, decision)) <= publication.WHOLE_ARRAY_COST


@settings(max_examples=600, deadline=None)
@given(result_sets(), st.integers(1, 12))
def test_kept_results_are_never_spilled(results: list[tuple[Candidate, bytes]], containers: int) -> None:
    """Inline stays inline, a matrix's result never becomes a whole-array reference."""
    decided = plan([found for found, _ in results], Limits.termination_message(LENGTH, containers, 0))
    for found, _ in results:
        decision = decided.decisions[found.name]
        if found.keep is Keep.INLINE:
            assert decision.form is Form.INLINE
        if found.keep is Keep.SKELETON:
            assert decision.form is not Form.WHOLE_ARRAY
        if found.size <= LENGTH:
            assert decision.form is Form.INLINE


@settings(max_examples=400, deadline=None)
@given(structures(), st.integers(LENGTH, 4000))
def test_skeleton_has_same_shape(content: bytes, threshold: int) -> None:
    """A skeleton has the same arity or keys; every element is the original or a reference."""
    found = candidate("r", content)
    decision = plan([found], Limits.sidecar_logs(threshold, 1 << 20)).decisions["r"]
    if decision.form is not Form.SKELETON:
        return
    assert found.elements is not None
    rendered = json.loads(published(content, found, decision))
    values = list(rendered.values()) if isinstance(rendered, dict) else rendered
    assert len(values) == len(found.elements.values)
    assert found.elements.keys == (tuple(rendered) if isinstance(rendered, dict) else None)
    for at, (value, original) in enumerate(zip(values, found.elements.values, strict=True)):
        assert value == original if at not in decision.spilled else Reference.match(value) is not None
        assert at not in decision.spilled or len(original.encode()) > LENGTH


@settings(max_examples=400, deadline=None)
@given(result_sets(), st.integers(200, 5000))
def test_sidecar_lines_fit_or_are_named(results: list[tuple[Candidate, bytes]], most: int) -> None:
    """In sidecar-logs mode each result's JSON line is within max-result-size, or the plan names the result."""
    decided = plan([found for found, _ in results], Limits.sidecar_logs(4096, most))
    for found, content in results:
        value = message.json_cost(published(content, found, decided.decisions[found.name]))
        fits = all(message.sidecar_line_cost(name, value) <= most for name in found.names)
        assert fits or found.name in decided.too_large


def test_small_results_are_left_alone() -> None:
    """What fits stock Tekton is published as it is."""
    decided = plan([candidate("a", b"x" * 1900), candidate("b", b"y" * 1900)], Limits.termination_message(4096, 3, 0))
    assert {decision.form for decision in decided.decisions.values()} == {Form.INLINE}


def test_threshold_spills_what_is_larger_and_nothing_else() -> None:
    """4096 bytes are not larger than 4096; but they do not fit the message, so the budget spills them."""
    sidecar = Limits.sidecar_logs(4096, 100_000)
    assert plan([candidate("a", b"x" * 4096)], sidecar).decisions["a"].form is Form.INLINE
    assert plan([candidate("a", b"x" * 4097)], sidecar).decisions["a"].form is Form.REFERENCE


def test_budget_spills_what_saves_most_and_no_more() -> None:
    """Of three results that do not fit together only the most expensive one goes, by JSON cost and not by size."""
    results = [candidate("a", b"x" * 1500), candidate("b", b"<" * 900), candidate("c", b"z" * 1000)]
    decided = plan(results, Limits.termination_message(4096, 1, 0))
    assert {name: decision.form for name, decision in decided.decisions.items()} == {
        "a": Form.INLINE,
        "b": Form.REFERENCE,
        "c": Form.INLINE,
    }


def test_chains_names_go_last() -> None:
    """A name that Chains reads is spared by the threshold, and by the budget while anything else can go."""
    chains = candidate("IMAGES", b"i" * 3000, chains=True)
    decided = plan([chains, candidate("b", b"y" * 1500)], Limits.termination_message(1000, 1, 0))
    assert decided.decisions["IMAGES"].form is Form.INLINE
    assert decided.decisions["b"].form is Form.REFERENCE
    alone = plan([candidate("IMAGES", b"i" * 4572, chains=True)], Limits.termination_message(4096, 1, 0))
    assert alone.decisions["IMAGES"].form is Form.REFERENCE


def test_array_too_wide_for_a_skeleton_becomes_one_reference() -> None:
    """A thousand short elements cannot be shortened one by one: the whole array is referred to."""
    content = json.dumps(["x" * 20] * 1000).encode()
    found = candidate("a", content)
    assert plan([found], Limits.termination_message(4096, 1, 0)).decisions["a"].form is Form.WHOLE_ARRAY
    value = publication.whole_array(RUN, SHA).decode()
    assert len(value) == publication.WHOLE_ARRAY_COST - 2
    assert [occurrence.whole_array for occurrence in find(value)] == [True]


def test_object_too_wide_for_a_skeleton_is_named() -> None:
    """An object whose keys alone do not fit stays inline and is reported as too large."""
    found = candidate("o", json.dumps({f"key-{at}": "v" for at in range(1000)}).encode())
    decided = plan([found], Limits.termination_message(4096, 1, 0))
    assert decided.decisions["o"].form is Form.INLINE
    assert decided.too_large == {"o"}
    assert decided.over_total


def test_array_that_was_not_parsed_is_referred_to_whole() -> None:
    """An array beyond the size up to which skeletons are made becomes a whole-array reference by the threshold."""
    found = Candidate("a", 1 << 30, 1 << 30, ResultType.ARRAY)
    assert plan([found], Limits.termination_message(4096, 1, 0)).decisions["a"].form is Form.WHOLE_ARRAY
    broken = Candidate("a", 1 << 20, 1 << 20, ResultType.ARRAY, malformed=True)
    assert plan([broken], Limits.termination_message(4096, 1, 0)).too_large == {"a"}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b' ["a"]', "array"),
        (b"[1]", "array"),
        (b'["a"', "array"),
        (b'{"a":1}', "object"),
        (b'["a"]', "object"),
        (b"", "array"),
    ],
)
def test_what_tekton_refuses_is_no_array_or_object(content: bytes, kind: str) -> None:
    """White space in front, other element types and broken JSON are not taken for arrays or objects."""
    assert Elements.parse(content, ResultType(kind)) is None


def test_lone_surrogates_are_read_as_go_reads_them() -> None:
    """An escape for half a surrogate pair is U+FFFD, a whole pair one character."""
    parsed = Elements.parse(b'["\\ud800x", "\\ud83d\\ude00"]', ResultType.ARRAY)
    assert parsed is not None
    assert parsed.values == ("\ufffdx", "\U0001f600")


def test_filler_makes_any_message_too_long_even_compressed() -> None:
    """The filler is as long as asked, printable, and does not compress below Tekton's limit."""
    import base64
    import zlib

    filler = publication.filler(message.LIMIT)
    assert len(filler) == message.LIMIT
    assert filler.isalnum()
    packed = base64.b64encode(zlib.compress(message.encode([("a", filler)]), 9))
    assert len(packed) > 2 * message.LIMIT // 3
