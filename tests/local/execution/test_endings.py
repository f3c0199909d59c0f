"""However a TaskRun ends, its processes, mounts and files end with it (the `machine` fixture proves the last)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from resultsfs.errors import NotSupported
from resultsfs.local.pod import Cancellation

if TYPE_CHECKING:
    from tests.local.execution.conftest import Machine

LOCK = ".resultsfs-lock"
BUSY = "setsid sleep 1000 & echo up; sleep 1000"

RUNNER = """
import sys
from uuid import UUID
from resultsfs.local.plan import StepPlan, TaskRunPlan
from resultsfs.local.pod import execute
from resultsfs.settings import Settings
plan = TaskRunPlan("run", "default", UUID(int=1), "TaskRun", "run", (StepPlan("s0", script=sys.argv[1]),), Settings(), stock=True)
print(execute(plan, lambda step, line: print(line, flush=True)).message)
"""


def test_a_killed_pod_process_takes_all_with_it(machine: Machine) -> None:
    """kill -9: steps, their daemons and the mounts are gone when execute returns, and the TaskRun has failed."""
    runner = machine.start(machine.plan(BUSY))
    os.kill(machine.pod_process(), signal.SIGKILL)
    outcome = runner.outcome()
    assert outcome.status == "Failed"
    assert outcome.message == 'the pod process of TaskRun "run" ended with -9 before its steps had'


def test_a_cancelled_taskrun_ends_with_tektons_words(machine: Machine) -> None:
    """Cancelling from another thread ends a TaskRun that says nothing more."""
    with Cancellation() as cancellation:
        runner = machine.start(machine.plan(BUSY), cancellation=cancellation)
        cancellation.cancel()
        outcome = runner.outcome()
    assert (outcome.status, outcome.reason, outcome.message) == (
        "Failed",
        "TaskRunCancelled",
        'TaskRun "run" was cancelled. ',
    )


def test_an_output_that_raises_ends_the_taskrun(machine: Machine) -> None:
    """The exception reaches the caller, with nothing left behind, also from a step that floods its output."""

    def refuse(step: str, line: str) -> None:
        raise KeyError(line)

    with pytest.raises(KeyError):
        machine.execute(machine.plan("setsid sleep 1000 & yes"), refuse)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_a_runner_that_is_ended_leaves_no_process(machine: Machine, signal_number: signal.Signals) -> None:
    """Ctrl-C cleans up; kill -9 of the runner ends every process and mount too, and the next run removes its directory."""
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert runner.stdout is not None
    assert runner.stdout.readline() == b"up\n"
    assert machine.processes()
    runner.send_signal(signal_number)
    said = runner.communicate()[1]
    machine.wait_until_gone()
    if signal_number == signal.SIGINT:
        assert b"KeyboardInterrupt" in said
    else:
        (left,) = machine.pods.iterdir()
        # as a removal that was cut short, and a step that took its own rights away, would have it
        (left / "pod.json").unlink()
        (left / "workspace").chmod(0)
        assert machine.run("true").status == "Succeeded"
        assert not left.exists()


def test_only_abandoned_directories_of_ours_are_removed(machine: Machine, tmp_path: Path) -> None:
    """A running TaskRun's directory, links, files, and directories that the runner did not make stay as they are."""
    elsewhere, stranger = tmp_path / "elsewhere", machine.pods / "resultsfs-stranger"
    named, file, link = (machine.pods / f"resultsfs-{name}" for name in ("named", "file", "link"))
    for directory in (elsewhere, stranger, named):
        directory.mkdir()
        (directory / "kept").touch()
    (elsewhere / LOCK).touch()
    # a lock file that is a link is none
    (named / LOCK).symlink_to(elsewhere / LOCK)
    file.touch()
    link.symlink_to(elsewhere)
    kept = {stranger, named, file, link}
    with Cancellation() as cancellation:
        runner = machine.start(machine.plan(BUSY), cancellation=cancellation)
        (alive,) = set(machine.pods.iterdir()) - kept
        assert machine.run("true").status == "Succeeded"
        assert set(machine.pods.iterdir()) == {*kept, alive}
        cancellation.cancel()
        assert runner.outcome().reason == "TaskRunCancelled"
    for directory in (elsewhere, stranger, named):
        assert {entry.name for entry in directory.iterdir()} - {LOCK} == {"kept"}
        shutil.rmtree(directory)
    file.unlink()
    link.unlink()


def test_without_the_right_to_new_namespaces_the_message_says_what_to_do(machine: Machine) -> None:
    """The kernel's refusal becomes NotSupported with the way out, and nothing has run."""
    if os.geteuid() != 0:
        pytest.skip("an ordinary user cannot take rights away from root")
    refused = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable, "-c", RUNNER, "echo never"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.stdout == ""
    assert f"{NotSupported.__name__}: this machine does not allow new namespaces" in refused.stderr
    assert "--privileged" in refused.stderr
