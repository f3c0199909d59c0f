"""Execution of one TaskRun on this machine: starts its pod process, passes its output on, judges how it ended."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from types import TracebackType
from uuid import uuid4

import yaml

from resultsfs import namespaces, spool
from resultsfs.errors import NotSupported, ResultsError
from resultsfs.events import Event
from resultsfs.local import lines, scratch, status
from resultsfs.local.plan import Output, TaskRunOutcome, TaskRunPlan
from resultsfs.local.podspec import PodDirectory, PodReport, PodSpec, containers_of, failure
from resultsfs.record import VolumeRecord
from resultsfs.settings import to_mapping
from resultsfs.transport import AUTO

_PACKET = 128 << 10
_GRACE = 40.0
"""Seconds that a pod process which was asked to end gets; it gives its daemon 30 of them."""


class Cancellation:
    """Ends TaskRuns from another thread, or from a signal handler: `cancel` works once, for all that share it."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def cancel(self) -> None:
        """End the TaskRuns: each gives Failed, TaskRunCancelled."""
        os.eventfd_write(self._event, 1)

    def fileno(self) -> int:
        """A descriptor that is readable once `cancel` was called."""
        return self._event

    def __enter__(self) -> Cancellation:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._event)


def execute(
    plan: TaskRunPlan, output: Output, *, cancellation: Cancellation | None = None, transport: str = AUTO
) -> TaskRunOutcome:
    """Run a TaskRun's steps as processes of this machine; blocks until it has ended.

    Its processes, mounts and temporary directory are gone on return, also when `output` raises or on Ctrl-C.
    Raises NotSupported or MountError when this machine cannot run it, and never for what a step does.
    """
    _check(plan)
    record = _record(plan)
    with scratch.Directory() as directory:
        pod = PodDirectory(directory)
        _describe(plan, record, pod, transport)
        with _PodProcess(pod) as process:
            cancelled = not process.follow(output, cancellation)
        if cancelled:
            text = f'TaskRun "{plan.name}" was cancelled. '
            return TaskRunOutcome("Failed", "TaskRunCancelled", text, events=_events(pod))
        report = process.report()
        if report is None:
            text = f'the pod process of TaskRun "{plan.name}" ended with {process.returncode} before its steps had'
            return TaskRunOutcome("Failed", "Failed", text, events=_events(pod))
        if report.error is not None:
            raise failure(*report.error)
        events = _events(pod)
        if report.daemon_failure is not None:
            events = (*events, Event("ResultsMountFailed", report.daemon_failure))
        published = {} if plan.stock else spool.published(pod.spool)
        return status.outcome(plan, report, published, record.max_result_size, events)


def _check(plan: TaskRunPlan) -> None:
    if not plan.steps:
        raise NotSupported(f"TaskRun {plan.name}: it has no steps")
    for index, step in enumerate(plan.steps):
        if not step.script and not step.command:
            raise NotSupported(
                f"TaskRun {plan.name}: step {step.name or index} has neither script nor command, and what the image "
                f"{step.image or '(none)'} would run is not known here, for images are not run: give the step a command"
            )


def _record(plan: TaskRunPlan) -> VolumeRecord:
    pod_uid = uuid4()
    return VolumeRecord(
        volume_id=f"local-{pod_uid}",
        namespace=plan.namespace,
        taskrun=plan.name,
        pod_uid=pod_uid,
        run_uid=plan.run_uid,
        results=tuple(result.name for result in plan.results),
        run_kind=plan.run_kind,
        run_name=plan.run_name,
        containers=containers_of(plan),
        mode=plan.mode,
        kept=plan.kept,
        types={result.name: result.type for result in plan.results},
    )


def _describe(plan: TaskRunPlan, record: VolumeRecord, pod: PodDirectory, transport: str) -> None:
    """Write what the pod process and the daemon read."""
    spec = PodSpec(
        taskrun=plan.name,
        directory=pod.path,
        runner=os.getpid(),
        steps=tuple(dataclasses.replace(step, env=dict(step.env)) for step in plan.steps),
        results=record.results,
        workspaces={path: os.path.abspath(directory) for path, directory in plan.workspaces.items()},
        mode=plan.mode,
        stock=plan.stock,
        timeout=plan.timeout,
        max_result_size=record.max_result_size,
        transport=transport,
    )
    pod.spec.write_text(spec.to_json(), encoding="utf-8")
    pod.record.write_text(record.to_json(), encoding="utf-8")
    pod.settings.write_text(yaml.safe_dump(to_mapping(plan.settings)), encoding="utf-8")


def _events(pod: PodDirectory) -> tuple[Event, ...]:
    if not pod.events.exists():
        return ()
    text = pod.events.read_text(encoding="utf-8")
    # a daemon that was killed may have left half a line
    whole = text[: text.rfind("\n") + 1]
    known = [field.name for field in dataclasses.fields(Event)]
    return tuple(Event(**{name: event[name] for name in known}) for event in map(json.loads, whole.splitlines()))


class _PodProcess:
    """The running pod process. On leaving, it and everything below it have ended."""

    def __init__(self, pod: PodDirectory) -> None:
        self._pod = pod
        self._pidfds: list[int] = []
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, open(pod.log, "wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "resultsfs.local.podmain", str(pod.path), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(theirs.fileno(),),
                    # a terminal's Ctrl-C is the runner's to handle
                    start_new_session=True,
                )
        except BaseException:
            self._socket.close()
            raise
        self._self = os.pidfd_open(self._process.pid)

    @property
    def returncode(self) -> int | None:
        """As subprocess has it: negative for a signal."""
        return self._process.returncode

    def __enter__(self) -> _PodProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._end()
        finally:
            self._socket.close()
            for pidfd in (self._self, *self._pidfds):
                os.close(pidfd)

    def follow(self, output: Output, cancellation: Cancellation | None) -> bool:
        """Pass output on until the pod process is gone; False, at once, when cancelled."""
        poll = select.poll()
        poll.register(self._self, select.POLLIN)
        poll.register(self._socket, select.POLLIN)
        if cancellation is not None:
            poll.register(cancellation.fileno(), select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if cancellation is not None and cancellation.fileno() in ready:
                return False
            # a step's end of the socket may outlive the pod process by a moment: its end is not waited for
            if not self._receive(output) and self._self in ready:
                return True

    def _receive(self, output: Output | None) -> bool:
        """Take one packet if there is one; whether there was."""
        try:
            packet, pidfds, flags, _ = socket.recv_fds(
                self._socket, _PACKET, 4, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        self._pidfds.extend(pidfds)
        if flags & socket.MSG_TRUNC:
            raise ResultsError("a packet of the pod process was cut: this is a fault of resultsfs")
        if packet.startswith(lines.LINE) and output is not None:
            step, _, line = packet[len(lines.LINE) :].partition(b"\0")
            output(step.decode(), line.decode("utf-8", "replace"))
        return bool(packet)

    def _end(self) -> None:
        """End the pod process, politely first, and wait until all that it had started is gone."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            poll = select.poll()
            poll.register(self._self, select.POLLIN)
            poll.register(self._socket, select.POLLIN)
            deadline = _Deadline(_GRACE)
            while not namespaces.ended(self._self) and deadline.left() > 0:
                poll.poll(deadline.left() * 1000)
                # its output must be taken off its hands, or it would wait for us
                while self._receive(None):
                    pass
            self._process.kill()
        self._process.wait()
        while self._receive(None):
            pass
        stuck = [pidfd for pidfd in self._pidfds if not namespaces.ended(pidfd, _GRACE)]
        if stuck:
            raise ResultsError(f"{len(stuck)} processes of the pod in {self._pod.path} do not end: see `ps`")

    def report(self) -> PodReport | None:
        """What the pod process reported; None when it was killed. Raises ResultsError when it broke."""
        if self._pod.report.exists():
            return PodReport.from_json(self._pod.report.read_text(encoding="utf-8"))
        if self.returncode is not None and self.returncode < 0:
            return None
        said = self._pod.log.read_text(encoding="utf-8", errors="replace").strip()
        raise ResultsError(f"the pod process ended with {self.returncode}: {said}")


class _Deadline:
    """So many seconds from now."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self._at - time.monotonic())
