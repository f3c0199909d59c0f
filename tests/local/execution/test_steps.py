"""Steps as processes: what they see, what they say, how they end."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from resultsfs.errors import MountError, NotSupported
from resultsfs.local.plan import StepPlan, TaskRunOutcome

if TYPE_CHECKING:
    from tests.local.execution.conftest import Machine


def test_a_script_without_shebang_stops_at_its_first_failure(machine: Machine) -> None:
    """The default preamble is /bin/sh with set -e, and the failing exit code is the step's."""
    outcome = machine.run("echo one\nfalse\necho two\n")
    assert machine.said() == ["one"]
    assert (outcome.status, outcome.reason) == ("Failed", "StepFailed")
    assert outcome.message == '"step-s0" exited with code 1'


def test_a_script_with_shebang_runs_by_its_interpreter_and_gets_args(machine: Machine) -> None:
    """A shebang chooses the interpreter, and the step's args are the script's."""
    outcome = machine.run(StepPlan("py", script='#!/bin/sh -x\necho "<$1> <$2>"', args=("a b", "c")))
    assert outcome.status == "Succeeded"
    assert outcome.message == "All Steps have completed executing"
    assert "<a b> <c>" in machine.said("py")


def test_a_command_finds_its_environment_and_nothing_else(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """PATH and LANG come from the caller, HOME is Tekton's, the step's own variables win, secrets stay outside."""
    monkeypatch.setenv("SECRET", "do not pass")
    monkeypatch.setenv("LANG", "C.UTF-8")
    machine.run(StepPlan("env", command=("env",), env={"MINE": "1", "LANG": "C"}))
    said = dict(line.split("=", 1) for line in machine.said("env"))
    assert said == {"PATH": os.environ["PATH"], "LANG": "C", "HOME": "/tekton/home", "MINE": "1"}


def test_working_directories_are_made_below_workspace(machine: Machine) -> None:
    """The default is /workspace; a relative one lies in it and is created; a missing one elsewhere fails the step."""
    outcome = machine.run(
        StepPlan("a", command=("pwd",)),
        StepPlan("b", command=("pwd",), working_dir="deep/er"),
        StepPlan("c", command=("pwd",), working_dir="/nowhere/at/all"),
    )
    assert machine.said("a") == ["/workspace"]
    assert machine.said("b") == ["/workspace/deep/er"]
    assert machine.said("c") == ["Error executing command: chdir /nowhere/at/all: no such file or directory"]
    assert outcome.message == '"step-c" exited with code 1'


def test_a_step_sees_tektons_directories_and_its_own_processes_only(machine: Machine) -> None:
    """/tekton and /workspace are there, the pod's directory is hidden, and ps shows only the step."""
    outcome = machine.run(
        "ls /tekton; test -d /tekton/results; test -w /workspace; cd /proc; echo pids [0-9]*",
        f'test -z "$(ls {machine.pods}/*/ 2>/dev/null)"',
    )
    assert outcome.status == "Succeeded"
    assert {"home", "results", "scripts", "steps"} <= set(machine.said())
    assert machine.said()[-1].startswith("pids 1 2")
    assert str(os.getpid()) not in machine.said()[-1].split()


def test_workspaces_are_directories_of_this_machine(machine: Machine) -> None:
    """A workspace is bound at its path, nested ones too, also at a new top-level path."""
    places = {"/workspace/source": "a", "/workspace/source/in": "b", "/brandnew/place": "c"}
    directories = {}
    for path, name in places.items():
        directories[path] = machine.directory / name
        directories[path].mkdir()
    outcome = machine.run("".join(f"echo {path} > {path}/out\n" for path in places), workspaces=directories)
    assert outcome.status == "Succeeded"
    for path, directory in directories.items():
        assert (directory / "out").read_text() == f"{path}\n"


@pytest.mark.parametrize(
    ("path", "source", "said"),
    [
        ("/usr/no-such-place", ".", "/usr/no-such-place"),
        ("/workspace/a", "missing", "missing is no directory"),
        ("relative", ".", "must be an absolute path"),
    ],
)
def test_a_workspace_that_cannot_be_bound_is_refused(machine: Machine, path: str, source: str, said: str) -> None:
    """Nothing is created on the machine's disks for a mountPath, and the message names the path."""
    with pytest.raises(MountError, match=said):
        machine.run("true", workspaces={path: machine.directory / source})
    assert not Path("/usr/no-such-place").exists()


def test_a_step_without_script_and_command_is_refused(machine: Machine) -> None:
    """Images are not run, so a step that leans on its image's entrypoint is an error that says so."""
    with pytest.raises(NotSupported, match=r"step a has neither script nor command.*busybox.*give the step a command"):
        machine.run(StepPlan("a", args=("x",), image="busybox"))


def test_output_arrives_while_the_step_runs(machine: Machine) -> None:
    """A step that waits for an answer to its own output gets it: lines are not held back to the end."""
    answer = machine.directory / "ws"
    answer.mkdir()
    os.mkfifo(answer / "fifo")

    def reply(step: str, line: str) -> None:
        machine.lines.append((step, line))
        if line == "question":
            (answer / "fifo").write_text("answer\n")

    plan = machine.plan(
        "echo question; read got < /workspace/ws/fifo; echo $got >&2", workspaces={"/workspace/ws": answer}
    )
    assert machine.execute(plan, reply).status == "Succeeded"
    assert machine.said() == ["question", "answer"]


def test_long_lines_come_in_pieces_and_nothing_is_lost(machine: Machine) -> None:
    """A line of 100,000 three-byte characters is cut between characters, and a last line needs no newline."""
    machine.run("head -c 100000 /dev/zero | sed 's/\\x0/€/g'; echo; printf end")
    *pieces, end = machine.said()
    assert end == "end"
    assert "".join(pieces) == "€" * 100_000
    assert max(len(piece.encode()) for piece in pieces) <= 16384


def test_a_failing_step_ends_the_taskrun_and_its_code_is_told(machine: Machine) -> None:
    """Later steps are skipped, and a death by signal is 255, as Tekton's entrypoint exits."""
    outcome = machine.run("exit 7", "echo never")
    assert outcome.message == '"step-s0" exited with code 7'
    assert machine.said("s1") == []
    assert machine.run("kill -9 $$").message == '"step-s0" exited with code 255'


def test_on_error_continue_goes_on_and_leaves_the_exit_code(machine: Machine) -> None:
    """The TaskRun succeeds, and a later step reads the code at the paths that Tekton gives it."""
    outcome = machine.run(
        StepPlan("a", script="echo -n v > /tekton/results/r; exit 3", on_error="continue"),
        StepPlan("b", script="cat /tekton/steps/step-a/exitCode /tekton/steps/0/exitCode"),
        results=("r",),
    )
    assert outcome.status == "Succeeded"
    assert machine.said("b") == ["33"]
    assert [result.value for result in outcome.results] == ["v"]


def test_a_command_that_cannot_start_fails_even_with_continue(machine: Machine) -> None:
    """Tekton ignores exit codes, not failures to start."""
    outcome = machine.run(StepPlan("a", command=("no-such-command",), on_error="continue"), "echo never")
    assert outcome.message == '"step-a" exited with code 1'
    assert machine.said("a") == ['Error executing command: exec: "no-such-command": executable file not found in $PATH']
    assert machine.said("s1") == []


def test_a_step_timeout_kills_what_the_step_started_and_keeps_results(machine: Machine) -> None:
    """Grandchildren in sessions of their own end too; results written before are collected."""
    outcome = machine.run(
        StepPlan("a", script="echo -n v > /tekton/results/r; setsid sleep 1000 & sleep 1000", timeout=8.0),
        results=("r",),
    )
    assert outcome.reason == "StepFailed"
    assert outcome.message == '"step-a" exited because the step exceeded the specified timeout limit'
    assert [result.value for result in outcome.results] == ["v"]


def test_the_taskruns_timeout_ends_everything(machine: Machine) -> None:
    """The message is Tekton's, and there are no results."""
    outcome = machine.run("echo -n v > /tekton/results/r; setsid sleep 1000 & sleep 1000", results=("r",), timeout=2.5)
    assert (outcome.status, outcome.reason) == ("Failed", "TaskRunTimeout")
    assert outcome.message == 'TaskRun "run" failed to finish within "2.5s"'
    assert outcome.results == ()


def test_background_processes_end_with_their_step(machine: Machine) -> None:
    """A daemon that a step leaves is gone when the next one starts, as with its container in Tekton."""
    outcome = machine.run(
        "setsid sh -c 'echo up > /workspace/up; exec sleep 1000' >/dev/null 2>&1 &\nuntil test -s /workspace/up; do :; done",
        "ps -e -o comm= | grep -c sleep || true",
    )
    assert outcome.status == "Succeeded"
    assert machine.said("s1") == ["0"]


def test_stdout_config_appends_to_files_and_results(machine: Machine) -> None:
    """Both streams go to the output and to their files, which are appended to and whose directories are made."""
    outcome = machine.run(
        StepPlan("a", script="echo out; echo err >&2", stdout_path="/tekton/results/r", stderr_path="/workspace/x/err"),
        StepPlan("b", script="printf more; cat /workspace/x/err", stdout_path="/tekton/results/r"),
        results=("r",),
    )
    assert sorted(machine.said("a")) == ["err", "out"]
    assert machine.said("b") == ["moreerr"]
    assert [result.value for result in outcome.results] == ["out\nmoreerr\n"]


def test_stdout_config_that_cannot_be_written_fails_the_step(machine: Machine) -> None:
    """A path that is a directory fails before the step runs; a full device fails it after."""
    outcome = machine.run(StepPlan("a", script="echo never", stdout_path="/workspace"))
    assert machine.said("a") == ["Error executing command: error opening /workspace: Is a directory"]
    assert outcome.message == '"step-a" exited with code 1'
    outcome = machine.run(StepPlan("b", script="echo x", stdout_path="/dev/full"))
    assert machine.said("b")[-1] == "Error executing command: write /dev/full: no space left on device"
    assert outcome.message == '"step-b" exited with code 1'


def test_two_taskruns_at_once_see_only_their_own_results(machine: Machine) -> None:
    """Both write the same name, then wait for each other, and each reads back its own."""
    meeting = machine.directory / "meeting"
    meeting.mkdir()
    outcomes: dict[str, TaskRunOutcome] = {}

    def run(me: str, other: str) -> None:
        script = (
            f"echo -n {me} > /tekton/results/r; touch /workspace/m/{me}\n"
            f"until test -e /workspace/m/{other}; do sleep 0.01; done\ncat /tekton/results/r; ls /tekton/results"
        )
        plan = machine.plan(
            StepPlan(me, script=script), results=("r",), workspaces={"/workspace/m": meeting}, timeout=60.0
        )
        outcomes[me] = machine.execute(plan)

    threads = [threading.Thread(target=run, args=pair) for pair in (("one", "two"), ("two", "one"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for me in ("one", "two"):
        assert machine.said(me) == [f"{me}r"]
        assert [result.value for result in outcomes[me].results] == [me]


def test_a_directory_that_a_step_locked_is_removed(machine: Machine) -> None:
    """Directories without any rights do not keep the pod's directory from going."""
    assert machine.run("mkdir -p /workspace/a/b && chmod 0 /workspace/a/b /workspace/a").status == "Succeeded"


def test_a_tree_too_deep_for_any_path_is_removed(machine: Machine) -> None:
    """Three thousand directories one in the other do not keep the pod's directory from going."""
    script = 'cd /workspace && exec python3 -c \'import os\nfor _ in range(3000): os.mkdir("d"); os.chdir("d")\''
    assert machine.run(script).status == "Succeeded"
