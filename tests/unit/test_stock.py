"""What plain Tekton would have done: the verdict agrees with the entrypoint's and the kubelet's own rules."""

from __future__ import annotations

import hashlib
import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resultsfs import message
from resultsfs.errors import StoreUnavailable
from resultsfs.local.collect import Read, termination_message
from resultsfs.local.plan import ResultDeclaration, ResultOutcome, StepPlan, TaskRunPlan
from resultsfs.local.podspec import Content, containers_of
from resultsfs.local.stock import Fate, verdict
from resultsfs.record import Mode, ResultType, ResultValue
from resultsfs.reference import Reference
from resultsfs.settings import Settings

RUN = UUID(int=1)


def plan(steps: int = 1, mode: Mode = Mode.TERMINATION_MESSAGE) -> TaskRunPlan:
    """A TaskRun with so many steps."""
    return TaskRunPlan(
        name="run",
        namespace="default",
        run_uid=RUN,
        run_kind="TaskRun",
        run_name="run",
        steps=tuple(StepPlan(f"s{number}", command=("true",)) for number in range(steps)),
        settings=Settings(),
        results=(ResultDeclaration("any"),),
        mode=mode,
    )


def outcome(name: str, content: bytes, *, spilled: bool) -> ResultOutcome:
    """A string result with that content."""
    digest = hashlib.sha256(content).hexdigest()
    value = str(Reference.of(RUN, digest)) if spilled else content.decode("utf-8", "replace")
    return ResultOutcome(name, ResultType.STRING, len(content), digest, spilled, value)


def unasked(result: ResultOutcome) -> ResultValue:
    """For verdicts that must not read the store."""
    raise AssertionError(f"{result.name} was asked for")


texts = st.one_of(
    st.text(max_size=300).map(str.encode),
    st.builds(lambda unit, count: unit.encode() * count, st.text(min_size=1, max_size=4), st.integers(0, 3000)),
)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,12}", fullmatch=True), st.tuples(texts, st.booleans()), min_size=1, max_size=5
    ),
    st.integers(1, 12),
)
def test_the_verdict_is_the_entrypoints(results: dict[str, tuple[bytes, bool]], steps: int) -> None:
    """It fails exactly where the entrypoint would refuse the message, and is cut where the kubelet would cut it."""
    contents = {name: content for name, (content, _) in results.items()}
    outcomes = [outcome(name, content, spilled=spilled) for name, (content, spilled) in results.items()]
    found = verdict(plan(steps), outcomes, lambda result: contents[result.name].decode())
    assert found is not None and found.container == f"step-s{steps - 1}"
    read = [Read(name, content, Content(len(content), "")) for name, content in contents.items()]
    written, refused = termination_message(read, reason=None, exit_code=None)
    if any(byte in content for content in contents.values() for byte in b"\b\f"):
        assert found.size >= len(written) or refused  # Go before 1.22 writes those longer: the verdict is the worse one
        return
    if refused:
        assert (found.fate, found.said) == (Fate.FAILS, message.TOO_LONG)
        return
    cut = len(written) > message.kubelet_limit(containers_of(plan(steps)))
    assert found.fate is (Fate.CUT if cut else Fate.FITS)
    assert found.exact and found.size == len(written)


def test_no_results_no_verdict() -> None:
    """Without results there is nothing to compare."""
    assert verdict(plan(), [], unasked) is None


def test_large_content_is_not_read() -> None:
    """What cannot fit whatever it holds is judged by its size alone, as the least that it costs."""
    found = verdict(plan(), [outcome("a", b"x" * 100_000, spilled=True)], unasked)
    assert found is not None
    assert (found.fate, found.exact) == (Fate.FAILS, False) and found.size > 100_000


def test_the_stores_errors_are_not_hidden() -> None:
    """When small content cannot be read, nothing is made up."""

    def away(result: ResultOutcome) -> ResultValue:
        raise StoreUnavailable("away")

    with pytest.raises(StoreUnavailable):
        verdict(plan(), [outcome("a", b"x" * 200, spilled=True)], away)


def test_broken_bytes_cost_six() -> None:
    """Bytes that reached status as U+FFFD are counted as what the entrypoint writes for them."""
    content = b"\xff" * 600
    found = verdict(plan(), [outcome("a", content, spilled=False)], unasked)
    assert found is not None
    assert found.size == len(message.encode([("a", content)]))


def test_an_arrays_spaces_count() -> None:
    """A JSON value that was written with spaces is counted as it was written."""
    value = ["a", "b"]
    content = json.dumps(value, indent=8).encode().replace(b"\n", b" ")
    result = ResultOutcome("a", ResultType.ARRAY, len(content), hashlib.sha256(content).hexdigest(), False, value)
    found = verdict(plan(), [result], unasked)
    assert found is not None
    assert found.size == len(message.encode([("a", content)]))


@pytest.mark.parametrize(("size", "fate"), [(4000, Fate.FITS), (4096, Fate.FAILS)])
def test_the_sidecars_limit_is_a_lines(size: int, fate: Fate) -> None:
    """With sidecar-logs each result has Tekton's max-result-size for its own line, and the longest is named."""
    results = [outcome("long", b"x" * size, spilled=False), outcome("short", b"x" * 3000, spilled=False)]
    found = verdict(plan(mode=Mode.SIDECAR_LOGS), results, unasked)
    assert found is not None
    assert (found.fate, found.result) == (fate, "long")
    assert ("TaskRunResultLargerThanAllowedLimit" in found.reason) is (fate is Fate.FAILS)
