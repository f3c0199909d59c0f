"""Volume records: what they hold, and that bad ones are refused by field."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resultsfs.errors import InvalidRecord
from resultsfs.record import Keep, Mode, ResultType, VolumeRecord

GOOD: dict[str, Any] = {
    "volume_id": "csi-0123",
    "namespace": "team-a",
    "taskrun": "build.1",
    "pod_uid": "00000000-0000-0000-0000-000000000001",
    "run_uid": "00000000-0000-0000-0000-000000000002",
    "results": ["report", "IMAGES"],
}

names = st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,8}[A-Za-z0-9])?", fullmatch=True)


@given(
    results=st.lists(names, unique=True, max_size=6),
    containers=st.integers(1, 40),
    mode=st.sampled_from(Mode),
    pod=st.uuids(),
    run=st.uuids(),
    data=st.data(),
)
def test_a_record_survives_its_json(
    results: list[str], containers: int, mode: Mode, pod: UUID, run: UUID, data: st.DataObject
) -> None:
    """`from_json` reads back exactly what `to_json` wrote."""
    some = st.dictionaries(st.sampled_from(results), st.sampled_from(Keep)) if results else st.just({})
    kinds = st.dictionaries(st.sampled_from(results), st.sampled_from(ResultType)) if results else st.just({})
    record = VolumeRecord(
        volume_id="v",
        namespace="n",
        taskrun="t",
        pod_uid=pod,
        run_uid=run,
        results=tuple(results),
        run_kind="PipelineRun",
        run_name="p",
        containers=containers,
        mode=mode,
        kept=data.draw(some),
        types=data.draw(kinds),
    )
    assert VolumeRecord.from_json(record.to_json()) == record


def test_defaults() -> None:
    """What is not said is one container, termination messages and Tekton's own result size."""
    record = VolumeRecord.from_json(json.dumps(GOOD))
    assert (record.containers, record.mode, record.max_result_size) == (1, Mode.TERMINATION_MESSAGE, 4096)
    assert (record.reserve, record.kept, record.types) == (0, {}, {})


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("volume_id", "../up", "letters, digits"),
        ("volume_id", 7, "no valid value"),
        ("namespace", "Team", "a Kubernetes name"),
        ("namespace", "a/b", "a Kubernetes name"),
        ("taskrun", "", "a Kubernetes name"),
        ("pod_uid", "1", "no valid value"),
        ("run_uid", None, "no valid value"),
        ("results", [".ref"], "a Tekton result name"),
        ("results", ["a/b"], "a Tekton result name"),
        ("results", ["a", "a"], "each name once"),
        ("results", 5, "no valid value"),
        ("containers", 0, "at least 1"),
        ("containers", True, "no valid value"),
        ("containers", "3", "no valid value"),
        ("mode", "logs", "no valid value"),
        ("max_result_size", 1_572_865, "1 to 1572864"),
        ("reserve", -1, "at least 0"),
        ("run_kind", "Job", "TaskRun or PipelineRun"),
        ("kept", {"other": "inline"}, "declared results"),
        ("kept", {"report": "always"}, "no valid value"),
        ("types", {"other": "array"}, "declared results"),
        ("types", {"report": "list"}, "no valid value"),
    ],
)
def test_a_bad_field_is_named(field: str, value: object, allowed: str) -> None:
    """The error names the field and what is allowed."""
    with pytest.raises(InvalidRecord) as caught:
        VolumeRecord.from_json(json.dumps(GOOD | {field: value}))
    assert field in str(caught.value) and allowed in str(caught.value)


@pytest.mark.parametrize("field", sorted(GOOD))
def test_a_missing_field_is_named(field: str) -> None:
    """A record without a field that must be there is refused by the field's name."""
    without = {key: value for key, value in GOOD.items() if key != field}
    with pytest.raises(InvalidRecord, match=field):
        VolumeRecord.from_json(json.dumps(without))


def test_an_unknown_field_is_named() -> None:
    """A field that nobody knows is refused, with those that are known."""
    with pytest.raises(InvalidRecord, match=r"unknown field 'store'.*namespace"):
        VolumeRecord.from_json(json.dumps(GOOD | {"store": "s3://stolen"}))


@pytest.mark.parametrize("text", ["", "[]", "null", '"x"', "{"])
def test_what_is_no_object_is_refused(text: str) -> None:
    """A record is one JSON object and nothing else."""
    with pytest.raises(InvalidRecord, match="volume record"):
        VolumeRecord.from_json(text)
