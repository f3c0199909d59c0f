"""What becomes of results without resultsfs: the entrypoint, the kubelet and the controller of stock Tekton."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from resultsfs.local.plan import ResultDeclaration, StepPlan
from resultsfs.message import TOO_LONG
from resultsfs.record import Mode, ResultType, ResultValue

if TYPE_CHECKING:
    from tests.local.execution.conftest import Machine


def _bytes(count: int, name: str = "r") -> str:
    """A script that writes so many bytes to a result."""
    return f"head -c {count} /dev/zero | tr '\\0' a > /tekton/results/{name}"


def test_a_small_result_comes_as_it_is(machine: Machine) -> None:
    """Nothing is trimmed, and size and digest are those of the content."""
    outcome = machine.run("echo 'a <b>' > /tekton/results/r", results=("r", "absent"))
    (result,) = outcome.results
    assert (result.name, result.type, result.value, result.spilled) == ("r", ResultType.STRING, "a <b>\n", False)
    assert (result.size, result.sha256) == (6, hashlib.sha256(b"a <b>\n").hexdigest())


def test_a_result_over_4096_bytes_fails_with_tektons_words(machine: Machine) -> None:
    """5 KB: the step exits with 1 and nothing is passed on, though its process succeeded."""
    outcome = machine.run(_bytes(5000), results=("small", "r"))
    assert (outcome.status, outcome.message) == ("Failed", '"step-s0" exited with code 1')
    assert outcome.results == ()
    assert machine.said() == [TOO_LONG]


def test_the_largest_value_is_3999_bytes(machine: Machine) -> None:
    """With a one-letter name, as measured on a real entrypoint; one byte more fails."""
    assert machine.run(_bytes(3999), results=("r",)).results[0].size == 3999
    assert machine.run(_bytes(4000), results=("r",)).status == "Failed"


def test_the_second_write_over_the_limit_leaves_the_first(machine: Machine) -> None:
    """Results that fit only without the entry of the start are in the status of a step that failed."""
    outcome = machine.run(_bytes(4010), results=("r",))
    assert outcome.status == "Failed"
    assert [result.size for result in outcome.results] == [4010]
    assert machine.said() == [f"Error while writing message: {TOO_LONG}"]


def test_a_message_too_long_does_not_keep_the_next_step_from_running(machine: Machine) -> None:
    """Tekton releases the next step before it reads results; the TaskRun fails all the same, with continue too."""
    outcome = machine.run(
        StepPlan("a", script=_bytes(5000) + "; exit 3", on_error="continue"),
        "echo ran; rm /tekton/results/r",
        results=("r",),
    )
    assert machine.said("s1") == ["ran"]
    assert outcome.message == '"step-a" exited with code 1'


def test_twelve_steps_lose_results_in_silence(machine: Machine) -> None:
    """14 containers: the kubelet cuts at 877 bytes, and the TaskRun succeeds without the result."""
    steps = ["true"] * 11
    outcome = machine.run(_bytes(877), *steps, results=("r",))
    assert (outcome.status, outcome.reason, outcome.results) == ("Succeeded", "Succeeded", ())
    outcome = machine.run(_bytes(780), *steps, results=("r",))
    assert [result.size for result in outcome.results] == [780]


def test_a_cut_message_leaves_the_value_of_an_earlier_step(machine: Machine) -> None:
    """What is in status then is stale, and so are the size and digest that are told."""
    steps = ["true"] * 10
    outcome = machine.run("printf old > /tekton/results/r", _bytes(877), *steps, results=("r",))
    assert outcome.status == "Succeeded"
    assert [(result.value, result.size) for result in outcome.results] == [("old", 3)]


def test_the_last_step_wins_and_a_failed_one_counts(machine: Machine) -> None:
    """Each step emits all results that exist; those of a failing step are in status too."""
    outcome = machine.run(
        "printf 1 > /tekton/results/a; printf 1 > /tekton/results/b",
        "printf 2 > /tekton/results/b; exit 1",
        results=("a", "b"),
    )
    assert outcome.status == "Failed"
    assert {result.name: result.value for result in outcome.results} == {"a": "1", "b": "2"}


def test_bytes_that_are_not_utf8_become_replacement_characters(machine: Machine) -> None:
    """One U+FFFD for each byte; the size is that of the content."""
    outcome = machine.run(r"printf 'a\377\376\303\251\342\202' > /tekton/results/r", results=("r",))
    assert [(result.value, result.size) for result in outcome.results] == [("a\ufffd\ufffdé\ufffd\ufffd", 7)]


def test_a_result_that_cannot_be_read_fails_the_step_even_with_continue(machine: Machine) -> None:
    """A directory in a result's place: any error but ENOENT ends the container with 1."""
    outcome = machine.run(StepPlan("a", script="mkdir /tekton/results/r; exit 3", on_error="continue"), results=("r",))
    assert outcome.message == '"step-a" exited with code 1'
    assert machine.said("a") == ["Error executing command: read /tekton/results/r: is a directory"]


MISMATCH = (
    "[User error] Provided results don't match declared results; may be invalid JSON or missing result declaration:  "
    '"r": task result is expected to be "{}" type but was initialized to a different type "{}"'
)


@pytest.mark.parametrize(
    ("declared", "content", "value", "message"),
    [
        (ResultDeclaration("r"), '["a"]', '["a"]', ""),
        (ResultDeclaration("r", ResultType.ARRAY), '["a","b"]', ["a", "b"], ""),
        (ResultDeclaration("r", ResultType.ARRAY), '["a",null]\n', ["a", ""], ""),
        (ResultDeclaration("r", ResultType.ARRAY), "[1,2]", None, MISMATCH.format("array", "string")),
        (ResultDeclaration("r", ResultType.ARRAY), ' ["a"]', None, MISMATCH.format("array", "string")),
        (ResultDeclaration("r", ResultType.ARRAY), '{"a":"b"}', None, MISMATCH.format("array", "object")),
        (ResultDeclaration("r", ResultType.OBJECT, ("a",)), '{"a":"b","c":"\\ud800"}', {"a": "b", "c": "\ufffd"}, ""),
        (ResultDeclaration("r", ResultType.OBJECT), "bare", None, MISMATCH.format("object", "string")),
        (
            ResultDeclaration("r", ResultType.OBJECT, ("a", "b", "c")),
            '{"a":"x"}',
            {"a": "x"},
            "[User error] missing keys for these results which are required in TaskResult's properties map[r:[b c]]",
        ),
    ],
)
def test_values_have_the_declared_type(
    machine: Machine, declared: ResultDeclaration, content: str, value: ResultValue | None, message: str
) -> None:
    """Unmarshalled as Tekton does it; what does not match fails validation with Tekton's words."""
    step = StepPlan("a", command=("sh", "-c", 'printf %s "$1" > /tekton/results/r', "sh", content))
    outcome = machine.run(step, results=(declared,))
    if message:
        assert (outcome.status, outcome.reason, outcome.message) == ("Failed", "TaskRunValidationFailed", message)
    else:
        assert outcome.status == "Succeeded"
    assert [result.value for result in outcome.results] == ([] if value is None else [value])


def test_sidecar_logs_bound_each_line(machine: Machine) -> None:
    """A line of exactly 4096 bytes passes, twelve steps lose nothing, and one byte more fails the TaskRun."""
    most = 4096 - len('{"name":"r","value":"","type":"task"}')
    steps = ["true"] * 11
    outcome = machine.run(_bytes(most), *steps, results=("r",), mode=Mode.SIDECAR_LOGS)
    assert [result.size for result in outcome.results] == [most]
    outcome = machine.run("printf 1 > /tekton/results/a", _bytes(most + 1), results=("a", "r"), mode=Mode.SIDECAR_LOGS)
    assert (outcome.status, outcome.reason) == ("Failed", "TaskRunResultLargerThanAllowedLimit")
    assert outcome.message == (
        '[User error]  TaskRun ""run"" failed: 4097 bytes results size exceeds configured limit of 4096 bytes'
    )
    assert [result.value for result in outcome.results] == ["1"]


def test_sidecar_logs_count_characters_as_json_does_across_chunks(machine: Machine) -> None:
    """Two million three-byte characters, which no read of a power of two ends between, and six bytes for a broken one."""
    outcome = machine.run(
        "head -c 2000000 /dev/zero | sed 's/\\x0/€/g' > /tekton/results/r; printf '\\377' >> /tekton/results/r",
        results=("r",),
        mode=Mode.SIDECAR_LOGS,
    )
    length = 6_000_000 + 6 + len('{"name":"r","value":"","type":"task"}')
    assert f"failed: {length} bytes" in outcome.message


def test_sidecar_logs_fail_by_an_unreadable_result(machine: Machine) -> None:
    """A directory ends the sidecar, and the TaskRun's reason says whose fault it was, also when a step failed."""
    outcome = machine.run("mkdir /tekton/results/r; exit 2", results=("r",), mode=Mode.SIDECAR_LOGS)
    assert (outcome.reason, outcome.message) == ("SidecarFailed", '"sidecar-tekton-log-results" exited with code 1')
