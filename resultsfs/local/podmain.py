"""The pod process of one TaskRun: mount namespace, the mount's daemon, the steps one after the other.

Started by `resultsfs.local.pod` as `python -m resultsfs.local.podmain DIRECTORY SOCKET`. It has one thread and
serves nothing itself. What it mounts and starts ends with it, however it ends.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from resultsfs import namespaces
from resultsfs.errors import ResultsError
from resultsfs.local import entrypoint, rootfs
from resultsfs.local.daemon import Daemon
from resultsfs.local.lines import Lines
from resultsfs.local.podspec import (
    SIDECAR,
    ContainerReport,
    Content,
    LogLine,
    PodDirectory,
    PodReport,
    PodSpec,
    container_from,
    container_name,
    encode,
    failure,
)
from resultsfs.record import Mode

_CHUNK = 1 << 16


class _Stopped(Exception):
    """The runner asked the pod to end (SIGTERM)."""


class _TimedOut(Exception):
    """The TaskRun's timeout has passed."""


def main() -> None:
    """Run the pod described in the directory of the first argument; the runner listens on the descriptor of the second."""
    pod = PodDirectory(Path(sys.argv[1]))
    runner = socket.socket(fileno=int(sys.argv[2]))
    spec = PodSpec.from_json(pod.spec.read_text(encoding="utf-8"))
    namespaces.die_with_parent(lambda: os.getppid() != spec.runner)
    # what arrives is a byte in a pipe, looked at while waiting: no exception strikes between fork and bookkeeping
    stop, stop_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(stop_end)
    signal.signal(signal.SIGTERM, lambda signum, frame: None)
    report = _Pod(pod, spec, runner, stop).run()
    temporary = pod.report.with_suffix(".new")
    temporary.write_text(report.to_json(), encoding="utf-8")
    temporary.rename(pod.report)


class _Pod:
    """One TaskRun's pod. `run` does it all."""

    def __init__(self, pod: PodDirectory, spec: PodSpec, runner: socket.socket, stop: int) -> None:
        self._pod = pod
        self._spec = spec
        self._runner = runner
        self._stop = stop
        self._deadline = None if spec.timeout is None else time.monotonic() + spec.timeout
        self._daemon: Daemon | None = None
        self._self = os.pidfd_open(os.getpid())
        self._containers: list[ContainerReport] = []
        self._lines: list[LogLine] = []

    def run(self) -> PodReport:
        """Run all steps; what became of them. Steps' processes and the mount are gone afterwards."""
        timed_out = False
        error: tuple[str, str] | None = None
        try:
            self._start()
            self._steps()
        except _TimedOut:
            timed_out = True
        except _Stopped:
            error = "MountError", f'TaskRun "{self._spec.taskrun}" was stopped'
        except ResultsError as reason:
            error = type(reason).__name__, str(reason)
        except OSError as reason:
            error = ResultsError.__name__, str(reason)
        finally:
            failure_of_daemon = self._daemon.stop() if self._daemon is not None else None
        return PodReport(tuple(self._containers), tuple(self._lines), timed_out, error, failure_of_daemon)

    def _start(self) -> None:
        namespaces.enter_mount_namespace()
        os.chdir("/")
        rootfs.prepare(self._pod, self._spec)
        if not self._spec.stock:
            self._daemon = Daemon(self._pod, self._spec.transport)
            entrypoint.announce(self._runner, self._daemon.pidfd)
            entrypoint.announce(self._runner, self._daemon.alive)
            self._daemon.wait_ready(self._deadline, self._stop)
            self._check()
        rootfs.build(self._pod, self._spec)

    def _steps(self) -> None:
        for index, step in enumerate(self._spec.steps):
            name = container_name(step, index)
            status, answer = self._container(step.name or name.removeprefix("step-"), index)
            if answer is None:
                # as a container whose entrypoint was killed: no message, and the next steps never start
                self._containers.append(ContainerReport(name, status or 255, b"", {}, False))
                return self._sidecar()
            report = container_from(answer)
            self._containers.append(report)
            if not report.released:
                break
        return self._sidecar()

    def _sidecar(self) -> None:
        if self._spec.mode is not Mode.SIDECAR_LOGS or not self._spec.results:
            return
        status, answer = self._container("sidecar", None)
        self._lines = [LogLine(**line | {"content": Content(**line["content"])}) for line in answer or []]
        if status:
            self._containers.append(ContainerReport(SIDECAR, status, b"", {}, False))

    def _container(self, name: str, index: int | None) -> tuple[int, Any]:
        """Run a step, or the results sidecar, to its end: its process's exit code, and what it reported or None."""
        self._check()
        output, output_end = os.pipe()
        report = os.memfd_create("report", os.MFD_CLOEXEC)
        around = entrypoint.Surroundings(output_end, self._runner, self._self)
        child = os.fork()
        if child == 0:
            os.close(output)
            _become(self._spec, index, around, report)
        os.close(output_end)
        try:
            status = self._watch(child, output, Lines(self._runner, name))
            with open(report, "rb", closefd=False) as file:
                file.seek(0)
                written = file.read()
        finally:
            os.close(output)
            os.close(report)
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            # as a container runtime tells of a signal
            code = 128 - code
        if not written:
            return code, None
        answer = json.loads(written)
        if isinstance(answer, dict) and "error" in answer:
            raise failure(*answer["error"])
        return code, answer

    def _watch(self, child: int, output: int, lines: Lines) -> int:
        """Pass output on until the container has ended; its wait status. The container is gone in every case."""
        pidfd = os.pidfd_open(child)
        try:
            entrypoint.announce(self._runner, pidfd)
            with selectors.DefaultSelector() as selector:
                selector.register(pidfd, selectors.EVENT_READ)
                selector.register(output, selectors.EVENT_READ)
                selector.register(self._stop, selectors.EVENT_READ)
                while not namespaces.ended(pidfd):
                    self._check()
                    left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
                    for key, _ in selector.select(left):
                        if key.fd == output and not _forward(output, lines):
                            selector.unregister(output)
            _, status = os.waitpid(child, 0)
        except BaseException:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        finally:
            os.close(pidfd)
            os.set_blocking(output, False)
            while _forward(output, lines):
                pass
            lines.finish()
        return status

    def _check(self) -> None:
        if namespaces.ended(self._stop):
            raise _Stopped
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise _TimedOut


def _forward(output: int, lines: Lines) -> bool:
    """Pass on what is there; whether there may be more."""
    try:
        chunk = os.read(output, _CHUNK)
    except BlockingIOError:
        return False
    lines.feed(chunk)
    return bool(chunk)


def _become(spec: PodSpec, index: int | None, around: entrypoint.Surroundings, report: int) -> NoReturn:
    """Be a container in the freshly forked process, and never return into the pod's own code."""
    code = 1
    try:
        with open(report, "wb", closefd=False) as file:
            try:
                if index is None:
                    found, code = entrypoint.run_sidecar(spec, around)
                    file.write(encode(found))
                else:
                    file.write(encode(entrypoint.run_step(spec, index, around)))
                    code = 0
            except ResultsError as error:
                file.write(encode({"error": [type(error).__name__, str(error)]}))
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
