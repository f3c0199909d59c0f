"""The init of a step's PID namespace: it starts the step, reaps what the step leaves, and dies with it all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from typing import NoReturn

from resultsfs import namespaces
from resultsfs.errors import MountError, ResultsError
from resultsfs.local.plan import StepPlan
from resultsfs.local.podspec import TEKTON, WORKSPACE
from resultsfs.local.tee import Tee


def become_init(step: StepPlan, index: int, tee: Tee, status: int, entrypoint: int) -> NoReturn:
    """Start the step and write one JSON object to the pipe `status` when it has ended, then reap for ever.

    The object has `returncode` (negative: a signal's number) or `error`, why it could not be started.
    `entrypoint` is the pidfd of the parent.
    """
    namespaces.die_with_parent(lambda: namespaces.ended(entrypoint))
    # a copy's file held here too would not count as closed when the entrypoint has closed it
    tee.close()
    result: dict[str, object]
    try:
        _mount_proc()
        process = _start(step, index, tee)
    except OSError as error:
        tee.started()
        result = {"error": _start_failure(error, _command(step, index)[0], environment(step.env).get("PATH"))}
    except ValueError as error:
        tee.started()
        result = {"error": str(error)}
    else:
        tee.started()
        result = {"returncode": _reap(process.pid)}
    os.write(status, json.dumps(result).encode())
    os.close(status)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            signal.pause()


def _mount_proc() -> None:
    """Show the step its own PID namespace.

    A container that masks parts of /proc forbids it. Then the step sees the machine's processes; /proc/self
    is right there too.
    """
    try:
        namespaces.mount("proc", "/proc", "proc", namespaces.MS_NOSUID | namespaces.MS_NODEV | namespaces.MS_NOEXEC)
    except MountError as error:
        if error.errno not in (errno.EPERM, errno.EACCES):
            raise


def _reap(pid: int) -> int:
    while True:
        ended, status = os.wait()
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


def _start(step: StepPlan, index: int, tee: Tee) -> subprocess.Popen[bytes]:
    directory = os.path.normpath(os.path.join(WORKSPACE, step.working_dir or ""))
    if directory.startswith((WORKSPACE + "/", TEKTON + "/")):
        os.makedirs(directory, exist_ok=True)
    return subprocess.Popen(
        _command(step, index),
        cwd=directory,
        env=environment(step.env),
        stdin=subprocess.DEVNULL,
        stdout=tee.stdout,
        stderr=tee.stderr,
        start_new_session=True,
    )


def _command(step: StepPlan, index: int) -> list[str]:
    if step.script is not None:
        return [script_path(index), *step.args]
    return [*step.command, *step.args]


def script_path(index: int) -> str:
    """Where the script of a step lies."""
    return f"{TEKTON}/scripts/script-{index}"


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """What a step finds in its environment: its own variables, and from the caller only PATH and LANG."""
    inherited = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {**inherited, "HOME": f"{TEKTON}/home", **own}


def _start_failure(error: OSError, command: str, path: str | None) -> str:
    if isinstance(error, ResultsError):
        return str(error)
    reason = os.strerror(error.errno or 0).lower()
    if error.filename not in (None, command):
        return f"chdir {error.filename}: {reason}"
    # execvp also says "permission denied" when it may not look into a directory of PATH; Go's LookPath does not
    if "/" not in command and shutil.which(command, path=path) is None:
        return f'exec: "{command}": executable file not found in $PATH'
    return f"fork/exec {command}: {reason}"
