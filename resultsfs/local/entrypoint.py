"""One step's container: a process that plays Tekton's entrypoint, and the step beneath it.

Rules from tektoncd/pipeline `cmd/entrypoint/{main,runner}.go`, `pkg/entrypoint/entrypointer.go`. The processes:
the entrypoint, whose parent is the pod process (so that the mount knows it as a collector); its child, the
init of a PID namespace, with which everything that the step started ends; the step itself.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from resultsfs import namespaces
from resultsfs.errors import ResultsError
from resultsfs.local import collect
from resultsfs.local.plan import StepPlan
from resultsfs.local.podspec import (
    TEKTON,
    ContainerReport,
    Content,
    LogLine,
    PodDirectory,
    PodSpec,
    container_name,
)
from resultsfs.local.stepinit import become_init
from resultsfs.local.tee import Tee
from resultsfs.message import LIMIT
from resultsfs.record import Mode

PIDFD = b"P"
"""A packet to the runner that carries a pidfd: a process that must be gone before the pod's directory is."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the pod process hands its containers: their output, the runner's socket, the pidfd of the pod."""

    output: int
    runner: socket.socket
    pod: int


@dataclass(frozen=True, slots=True)
class _Ended:
    """How the step's process ended: with an exit code, at its timeout, or never started (`error` says why)."""

    exit_code: int = 0
    timed_out: bool = False
    error: str = ""


def announce(runner: socket.socket, pidfd: int) -> None:
    """Tell the runner of a process by its pidfd."""
    socket.send_fds(runner, [PIDFD], [pidfd])


def run_step(spec: PodSpec, index: int, around: Surroundings) -> ContainerReport:
    """Be the container of one step, in a freshly forked process. Raises ResultsError when the machine fails."""
    _begin(spec, around)
    step = spec.steps[index]
    init: int | None = None
    try:
        tee = Tee(step.stdout_path, step.stderr_path)
    except ResultsError as error:
        ended = _Ended(error=str(error))
    else:
        init, ended = _supervise(step, index, tee, around)
    try:
        return _finish(spec, index, ended)
    finally:
        if init is not None:
            # the container ends, and with its init every process that the step left
            os.kill(init, signal.SIGKILL)
            os.waitpid(init, 0)


def run_sidecar(spec: PodSpec, around: Surroundings) -> tuple[list[LogLine], int]:
    """Be the results sidecar, in a freshly forked process, when all steps have ended: its lines and exit code."""
    _begin(spec, around)
    lines: list[LogLine] = []
    for name in spec.results:
        try:
            line = collect.log_line(name, spec.max_result_size)
        except ResultsError as error:
            _say(f"error parsing results: error reading the results file {error}")
            return lines, 1
        if line is not None:
            lines.append(line)
    return lines, 0


def _begin(spec: PodSpec, around: Surroundings) -> None:
    namespaces.die_with_parent(lambda: namespaces.ended(around.pod))
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for stream in (1, 2):
        os.dup2(around.output, stream)
    os.close(around.output)
    namespaces.unshare(namespaces.NEW_MOUNTS)
    namespaces.change_root(str(PodDirectory(spec.directory).root))


def _say(text: str) -> None:
    """Print a line as the entrypoint does, on the container's output."""
    os.write(2, text.encode("utf-8", "surrogateescape") + b"\n")


def _supervise(step: StepPlan, index: int, tee: Tee, around: Surroundings) -> tuple[int, _Ended]:
    """Run the step to its end or its timeout; its init, which lives on, and how it ended."""
    deadline = None if step.timeout is None else time.monotonic() + step.timeout
    status, status_end = os.pipe()
    here = os.pidfd_open(os.getpid())
    namespaces.unshare(namespaces.NEW_PIDS)
    init = os.fork()
    if init == 0:
        try:
            os.close(status)
            become_init(step, index, tee, status_end, here)
        finally:
            os._exit(1)
    os.close(status_end)
    os.close(here)
    tee.started()
    pidfd = os.pidfd_open(init)
    announce(around.runner, pidfd)
    os.close(pidfd)
    answer = _watch(status, tee, deadline)
    os.close(status)
    tee.close()
    if answer is None:
        os.kill(init, signal.SIGKILL)
        os.waitid(os.P_PID, init, os.WEXITED | os.WNOWAIT)
        return init, _Ended(timed_out=True)
    if "error" in answer:
        return init, _Ended(error=str(answer["error"]))
    code = int(str(answer["returncode"]))
    if code == 0 and tee.error:
        return init, _Ended(error=tee.error)
    # Go calls every death by a signal -1
    return init, _Ended(exit_code=max(code, -1))


def _watch(status: int, tee: Tee, deadline: float | None) -> Mapping[str, object] | None:
    """Copy output until the step has ended and its copies too; what its init says, or None at the deadline."""
    answer = b""
    waiting = True
    with selectors.DefaultSelector() as selector:
        selector.register(status, selectors.EVENT_READ)
        tee.register(selector)
        while waiting or tee.open:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            for key, _ in selector.select(left):
                if key.fd != status:
                    tee.pump(key.fd, selector)
                    continue
                chunk = os.read(status, 1 << 16)
                answer += chunk
                if not chunk:
                    selector.unregister(status)
                    waiting = False
    # nothing said: its init was killed, and the step with it
    parsed: dict[str, object] = json.loads(answer or '{"returncode": -9}')
    return parsed


def _finish(spec: PodSpec, index: int, ended: _Ended) -> ContainerReport:
    """All that the entrypoint does after its process: note the exit code, read results, write the message."""
    step = spec.steps[index]
    failed = bool(ended.error or ended.timed_out or ended.exit_code)
    ignored = step.on_error == "continue" and ended.exit_code != 0
    if ignored or not failed:
        with open(f"{TEKTON}/run/{index}/status/exitCode", "w", encoding="ascii") as file:
            file.write(str(ended.exit_code))
    read, unreadable = _read_results(spec)
    message, too_long = collect.termination_message(
        read,
        reason="TimeoutExceeded" if ended.timed_out else None,
        exit_code=ended.exit_code if ignored else None,
    )
    said, exit_code = "", 0
    if too_long or unreadable:
        said, exit_code = too_long or f"Error executing command: {unreadable}", 1
    elif ended.timed_out:
        said, exit_code = "context deadline exceeded", 1
    elif ended.error:
        said, exit_code = f"Error executing command: {ended.error}", 1
    elif not ignored:
        exit_code = ended.exit_code & 0xFF
    if said:
        _say(said)
    contents: dict[str, Content] = {result.name: result.content for result in read}
    return ContainerReport(container_name(step, index), exit_code, message, contents, ignored or not failed)


def _read_results(spec: PodSpec) -> tuple[list[collect.Read], str]:
    """The results that there are, and why one could not be read, or "": then nothing is passed on."""
    if spec.mode is Mode.SIDECAR_LOGS:
        return [], ""
    read = []
    for name in spec.results:
        try:
            found = collect.read_result(name, LIMIT + 1)
        except ResultsError as error:
            return [], str(error)
        if found is not None:
            read.append(found)
    return read, ""
