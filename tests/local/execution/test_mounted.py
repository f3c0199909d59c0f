"""Execution with /tekton/results on the mount: large results are spilled, and failures of the mount are told."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from resultsfs.errors import MountError
from resultsfs.local.plan import ResultDeclaration, StepPlan
from resultsfs.record import Mode, ResultType
from resultsfs.reference import Reference

if TYPE_CHECKING:
    from tests.local.execution.conftest import Machine

pytestmark = pytest.mark.mount

BIG = "head -c 300000 /dev/zero | tr '\\0' a"
DIGEST = hashlib.sha256(b"a" * 300_000).hexdigest()


def test_a_large_result_becomes_a_reference_that_a_later_taskrun_reads(machine: Machine) -> None:
    """Steps of the same TaskRun read the content itself; another TaskRun of the run opens the reference as a file."""
    first = machine.plan(
        f"{BIG} > /tekton/results/big; printf small > /tekton/results/small",
        "sha256sum < /tekton/results/big",
        results=("small", "big"),
        stock=False,
    )
    outcome = machine.execute(first)
    assert outcome.status == "Succeeded"
    small, big = outcome.results
    assert (small.value, small.spilled, small.size) == ("small", False, 5)
    assert (big.spilled, big.size, big.sha256) == (True, 300_000, DIGEST)
    assert isinstance(big.value, str)
    assert Reference.match(big.value)
    assert machine.said("s1") == [f"{DIGEST}  -"]
    second = machine.plan(StepPlan("use", command=("sha256sum", big.value)), stock=False, run_uid=first.run_uid)
    assert machine.execute(second).status == "Succeeded"
    assert machine.said("use") == [f"{DIGEST}  {big.value}"]


def test_twelve_steps_keep_every_result(machine: Machine) -> None:
    """What stock Tekton loses in silence arrives: messages fit the kubelet's share, and later ones carry only news."""
    steps = [f"head -c 500 /dev/zero | tr '\\0' {letter} > /tekton/results/{letter}" for letter in "abcdefghijkl"]
    outcome = machine.run(*steps, results=tuple("abcdefghijkl"), stock=False)
    assert outcome.status == "Succeeded"
    assert [(result.name, result.size) for result in outcome.results] == [(letter, 500) for letter in "abcdefghijkl"]


def test_an_array_becomes_a_skeleton_of_the_declared_type(machine: Machine) -> None:
    """Same arity, the large element a reference."""
    script = "{ printf '[\"x\",\"'; head -c 20000 /dev/zero | tr '\\0' a; printf '\"]'; } > /tekton/results/r"
    outcome = machine.run(script, results=(ResultDeclaration("r", ResultType.ARRAY),), stock=False)
    (result,) = outcome.results
    assert outcome.status == "Succeeded"
    assert isinstance(result.value, list)
    assert result.value[0] == "x"
    assert Reference.match(result.value[1])
    assert (result.spilled, result.size) == (True, 20_008)


def test_sidecar_logs_carry_references_too(machine: Machine) -> None:
    """One collector after all steps."""
    outcome = machine.run(f"{BIG} > /tekton/results/r", "true", results=("r",), mode=Mode.SIDECAR_LOGS, stock=False)
    assert outcome.status == "Succeeded"
    assert [(result.spilled, result.sha256) for result in outcome.results] == [(True, DIGEST)]


def test_stdout_config_into_a_result_is_spilled(machine: Machine) -> None:
    """The entrypoint writes it, and the file counts as closed when the entrypoint reads it."""
    outcome = machine.run(StepPlan("a", script=BIG, stdout_path="/tekton/results/r"), results=("r",), stock=False)
    assert [(result.spilled, result.sha256) for result in outcome.results] == [(True, DIGEST)]


def test_a_mount_that_cannot_start_is_an_error_with_its_reason(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon's words reach the caller, and no step has run."""
    monkeypatch.setenv("FUSE_LIBRARY_PATH", "/no/such/libfuse.so")
    with pytest.raises(MountError, match=r"(?s)/tekton/results cannot be mounted: .*/no/such/libfuse\.so"):
        machine.execute(machine.plan("echo never", stock=False), transport="fusepy")
    assert machine.lines == []


def test_a_daemon_that_dies_fails_its_results_and_is_told(machine: Machine) -> None:
    """kill -9 of all of the daemon in mid-step: the result cannot be read, and an event says why."""
    go = machine.directory / "ws"
    go.mkdir()
    os.mkfifo(go / "fifo")
    plan = machine.plan(
        f"{BIG} > /tekton/results/r; echo up; cat /workspace/ws/fifo",
        results=("r",),
        stock=False,
        workspaces={"/workspace/ws": go},
    )
    runner = machine.start(plan)
    kill(machine, b"resultsfs.holder", b"resultsfs.server")
    (go / "fifo").write_text("go")
    outcome = runner.outcome()
    assert (outcome.status, outcome.message) == ("Failed", '"step-s0" exited with code 1')
    assert [event.reason for event in outcome.events][-1] == "ResultsMountFailed"
    assert "ended with -9" in outcome.events[-1].message


@pytest.mark.parametrize("which", [b"resultsfs.server", b"resultsfs.holder"])
def test_half_a_daemon_is_enough(machine: Machine, which: bytes) -> None:
    """kill -9 of the process that serves, or of the one that mounted, in mid-step: the result arrives all the same."""
    go = machine.directory / "ws"
    go.mkdir()
    os.mkfifo(go / "fifo")
    script = (
        f"{BIG} > /tekton/results/r; echo up; cat /workspace/ws/fifo; sha256sum < /tekton/results/r | grep {DIGEST}"
    )
    plan = machine.plan(script, results=("r",), stock=False, workspaces={"/workspace/ws": go})
    runner = machine.start(plan, transport="native")
    kill(machine, which)
    (go / "fifo").write_text("go")
    outcome = runner.outcome()
    assert outcome.status == "Succeeded", outcome
    assert [(result.spilled, result.sha256) for result in outcome.results] == [(True, DIGEST)]
    assert ("ResultsMountFailed" in [event.reason for event in outcome.events]) == (which == b"resultsfs.holder")


def kill(machine: Machine, *modules: bytes) -> None:
    """Kill the processes of the pod's daemon that run these, the holder first, so that it starts no other server."""
    for module in modules:
        (found,) = [pid for pid in machine.processes() if module in _words(pid)]
        os.kill(found, signal.SIGKILL)


def _words(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b".single", b"").split(b"\0")
    except OSError:  # it has ended meanwhile
        return []


def test_a_killed_pod_process_takes_the_mount_with_it(machine: Machine) -> None:
    """kill -9 of the pod process: daemon and mount are gone when execute returns."""
    runner = machine.start(machine.plan("echo up; exec sleep 1000", stock=False))
    os.kill(machine.pod_process(), signal.SIGKILL)
    assert runner.outcome().status == "Failed"
