"""What passes between the runner and a TaskRun's pod process: the pod's description in, its report out."""

from __future__ import annotations

import base64
import json
import posixpath
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resultsfs import errors
from resultsfs.errors import ResultsError
from resultsfs.local.plan import StepPlan, TaskRunPlan
from resultsfs.record import Mode

WORKSPACE = "/workspace"
TEKTON = "/tekton"
RESULTS = "/tekton/results"
SIDECAR = "sidecar-tekton-log-results"


class PodDirectory:
    """The files of one pod, in a directory that lives as long as its TaskRun.

    `results` is what steps see as /tekton/results, `tekton` and `workspace` likewise, `root` their root.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec = path / "pod.json"
        self.report = path / "report.json"
        self.record = path / "record.json"
        self.settings = path / "settings.yaml"
        self.log = path / "pod.log"
        self.daemon_log = path / "daemon.log"
        self.spool = path / "spool"
        self.events = self.spool / "events.jsonl"
        self.results = path / "results"
        self.tekton = path / "tekton"
        self.workspace = path / "workspace"
        self.root = path / "root"


@dataclass(frozen=True, slots=True)
class PodSpec:
    """What the pod process needs to know. `runner` is the pid of its parent, `timeout` in seconds."""

    taskrun: str
    directory: Path
    runner: int
    steps: tuple[StepPlan, ...]
    results: tuple[str, ...]
    workspaces: Mapping[str, str]
    mode: Mode
    stock: bool
    timeout: float | None
    max_result_size: int
    transport: str

    def to_json(self) -> str:
        """One JSON object that `from_json` reads back."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> PodSpec:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        steps = tuple(_step(step) for step in values["steps"])
        mode, directory = Mode(values["mode"]), Path(values["directory"])
        return cls(
            **values | {"steps": steps, "results": tuple(values["results"]), "mode": mode, "directory": directory}
        )


def _step(values: dict[str, Any]) -> StepPlan:
    return StepPlan(**values | {"command": tuple(values["command"]), "args": tuple(values["args"])})


@dataclass(frozen=True, slots=True)
class Content:
    """What a collector read of one result: its size in bytes and SHA-256 in hex."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ContainerReport:
    """How one container ended: its exit code, its termination message and what it read of each result.

    `released` says whether the next step may start: Tekton decides that before results are read.
    """

    name: str
    exit_code: int
    message: bytes
    read: Mapping[str, Content]
    released: bool


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line that the results sidecar printed: a result, with the length of its whole JSON line in bytes.

    `value` is cut where the line is over the limit, for nothing of it is used then.
    """

    name: str
    value: str
    length: int
    content: Content


@dataclass(frozen=True, slots=True)
class PodReport:
    """How the pod ended. `error` is set where the machine, not a step, failed: its class's name and message."""

    containers: tuple[ContainerReport, ...] = ()
    lines: tuple[LogLine, ...] = ()
    timed_out: bool = False
    error: tuple[str, str] | None = None
    daemon_failure: str | None = None

    def to_json(self) -> str:
        """One JSON object that `from_json` reads back."""
        return json.dumps(asdict(self), default=_encode)

    @classmethod
    def from_json(cls, text: str) -> PodReport:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        values["containers"] = tuple(container_from(container) for container in values["containers"])
        values["lines"] = tuple(LogLine(**line | {"content": Content(**line["content"])}) for line in values["lines"])
        values["error"] = tuple(values["error"]) if values["error"] else None
        return cls(**values)


def failure(name: str, text: str) -> ResultsError:
    """The error of a class of `resultsfs.errors`, as it crossed from one process to another."""
    kind = getattr(errors, name, ResultsError)
    return kind(text) if isinstance(kind, type) and issubclass(kind, ResultsError) else ResultsError(text)


def container_from(values: dict[str, Any]) -> ContainerReport:
    """One container's report from its JSON object."""
    read = {name: Content(**content) for name, content in values["read"].items()}
    return ContainerReport(**values | {"message": base64.b64decode(values["message"]), "read": read})


def encode(value: object) -> bytes:
    """A container's report, or the sidecar's lines, as its process hands them to the pod process."""
    return json.dumps(value, default=_encode).encode()


def _encode(value: bytes | ContainerReport | LogLine) -> object:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else asdict(value)


def container_name(step: StepPlan, index: int) -> str:
    """The name of a step's container (pkg/pod/pod.go, StepName)."""
    return f"step-{step.name}" if step.name else f"step-unnamed-{index}"


def containers_of(plan: TaskRunPlan) -> int:
    """How many containers and init containers the TaskRun's pod would have (tektoncd/pipeline pkg/pod/pod.go).

    Init containers: `prepare` always, `place-scripts` if a step has a script, `working-dir-initializer` if a
    working directory is relative or below /workspace. Sidecar-logs adds the results sidecar.
    """
    count = len(plan.steps) + 1
    count += any(step.script for step in plan.steps)
    count += any(_initialised(step.working_dir) for step in plan.steps if step.working_dir)
    count += plan.mode is Mode.SIDECAR_LOGS and bool(plan.results)
    return count


def _initialised(working_dir: str) -> bool:
    clean = posixpath.normpath(working_dir)
    return not clean.startswith("/") or clean.startswith(WORKSPACE + "/")
