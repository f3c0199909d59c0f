"""Knobs: what a pod's volume may say, and that everything else is refused by its key."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resultsfs.errors import InvalidKnob
from resultsfs.knobs import Knobs
from resultsfs.record import Keep, Mode

RUN = "11111111-2222-3333-4444-555555555555"
GOOD = {"results": "report,IMAGES", "taskrun": "build-1", "run-uid": RUN}

names = st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,8}[A-Za-z0-9])?", fullmatch=True)


@given(
    results=st.lists(names, unique=True, max_size=6),
    run=st.uuids(),
    containers=st.integers(1, 1000),
    mode=st.sampled_from(Mode),
    size=st.integers(1, 1_572_864),
    threshold=st.none() | st.integers(87, 1_572_864),
    reserve=st.integers(0, 4096),
    run_name=st.sampled_from(["", "a-run"]),
    data=st.data(),
)
def test_knobs_survive_their_texts(
    results: list[str],
    run: uuid.UUID,
    containers: int,
    mode: Mode,
    size: int,
    threshold: int | None,
    reserve: int,
    run_name: str,
    data: st.DataObject,
) -> None:
    """`from_mapping` reads back exactly what `to_mapping` wrote."""
    kept = data.draw(st.dictionaries(st.sampled_from(results), st.sampled_from(Keep)) if results else st.just({}))
    knobs = Knobs(
        tuple(results), "a-task", run, "PipelineRun", run_name, containers, mode, size, threshold, reserve, kept
    )
    assert Knobs.from_mapping(knobs.to_mapping()) == knobs


def test_defaults() -> None:
    """What is not said is one container, termination messages, Tekton's own sizes and nothing kept inline."""
    knobs = Knobs.from_mapping(GOOD)
    assert knobs == Knobs(("report", "IMAGES"), "build-1", uuid.UUID(RUN))
    assert knobs.to_mapping() == GOOD


def test_sizes_are_read_as_in_settings() -> None:
    """Sizes may have units; of both kinds of keeping, inline is the stronger."""
    more = {"result-size-threshold": "1KiB", "mode": "sidecar-logs", "max-result-size": "1MiB"}
    knobs = Knobs.from_mapping(GOOD | more | {"keep-inline": "report", "keep-skeleton": "report,IMAGES"})
    assert (knobs.threshold, knobs.max_result_size) == (1024, 1 << 20)
    assert knobs.kept == {"report": Keep.INLINE, "IMAGES": Keep.SKELETON}


@pytest.mark.parametrize(
    ("key", "text", "allowed"),
    [
        ("results", "a,,b", "names of results"),
        ("results", "a, b", "names of results"),
        ("results", "a,a", "each once"),
        ("results", ".ref", "names of results"),
        ("results", "../../etc/passwd", "names of results"),
        ("taskrun", "", "name of the pod's TaskRun"),
        ("taskrun", "a/b", "name of the pod's TaskRun"),
        ("run-uid", "1", "UID"),
        ("run-uid", "{" + RUN + "}", "UID"),
        ("run-kind", "Pod", "TaskRun or PipelineRun"),
        ("run-name", "Run", "name of the run"),
        ("containers", "0", "from 1"),
        ("containers", "1001", "to 1000"),
        ("containers", "1e3", "from 1"),
        ("containers", "1_0", "from 1"),
        ("containers", "-1", "from 1"),
        ("containers", "٣", "from 1"),
        ("mode", "logs", "termination-message or sidecar-logs"),
        ("max-result-size", "2MiB", "to 1572864"),
        ("max-result-size", "0", "from 1"),
        ("result-size-threshold", "86", "from 87"),
        ("result-size-threshold", "big", "from 87"),
        ("reserve", "4097", "to 4096"),
        ("keep-inline", "other", "declared results"),
        ("keep-skeleton", "other", "declared results"),
    ],
)
def test_a_bad_value_is_named(key: str, text: str, allowed: str) -> None:
    """The error names the key, the value and what is allowed."""
    with pytest.raises(InvalidKnob) as caught:
        Knobs.from_mapping(GOOD | {key: text})
    message = str(caught.value)
    assert key in message and allowed in message and (repr(text) in message or text in message)


@pytest.mark.parametrize("key", ["store", "s3-endpoint", "Results", "namespace", "csi.storage.k8s.io/pod.uid", ""])
def test_an_unknown_key_is_named(key: str) -> None:
    """What nobody knows is refused, the store and the namespace above all."""
    with pytest.raises(InvalidKnob, match=r"unknown attribute.*known are containers") as caught:
        Knobs.from_mapping(GOOD | {key: "x"})
    assert repr(key) in str(caught.value)


@pytest.mark.parametrize("key", sorted(GOOD))
def test_a_missing_key_is_named(key: str) -> None:
    """Results, TaskRun and run must be said."""
    with pytest.raises(InvalidKnob, match=f"{key}.*is missing"):
        Knobs.from_mapping({other: text for other, text in GOOD.items() if other != key})
