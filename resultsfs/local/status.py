"""What Tekton's controller makes of a pod: the TaskRun's condition and its results.

Rules from tektoncd/pipeline `pkg/pod/status.go` and `pkg/reconciler/taskrun/{taskrun,validate_taskrun}.go`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from resultsfs import message
from resultsfs.events import Event
from resultsfs.local import duration
from resultsfs.local.plan import ResultDeclaration, ResultOutcome, TaskRunOutcome, TaskRunPlan
from resultsfs.local.podspec import SIDECAR, Content, PodReport, containers_of
from resultsfs.manifest import ManifestEntry
from resultsfs.record import Mode, ResultType, ResultValue
from resultsfs.typed import type_of, unmarshalled

_USER_ERROR = "[User error] "
_TIMEOUT_REASON = b'{"key":"Reason","value":"TimeoutExceeded","type":3}'


_Condition = tuple[Literal["Succeeded", "Failed"], str, str]


@dataclass(frozen=True, slots=True)
class _Emitted:
    """A result's text as it reached the controller, and the content its collector had read."""

    text: str
    content: Content


def outcome(
    plan: TaskRunPlan,
    report: PodReport,
    published: Mapping[str, ManifestEntry],
    max_result_size: int,
    events: Sequence[Event] = (),
) -> TaskRunOutcome:
    """How the TaskRun ends. `published` says of each result what a mount published; empty in stock mode."""
    if report.timed_out:
        within = duration.show(plan.timeout or 0)
        text = f'TaskRun "{plan.name}" failed to finish within "{within}"'
        return TaskRunOutcome("Failed", "TaskRunTimeout", text, events=tuple(events))
    limit = message.kubelet_limit(containers_of(plan))
    if plan.mode is Mode.SIDECAR_LOGS:
        emitted, refusal = _from_sidecar(plan.name, report, max_result_size)
        validated = refusal is None
    else:
        emitted, validated = _from_messages(report, limit)
        refusal = None
    values, mismatched, missing = _typed(plan.results, emitted)
    results = tuple(
        _result(declared, values[declared.name], emitted[declared.name].content, published.get(declared.name))
        for declared in plan.results
        if declared.name in values
    )
    condition = refusal or (_invalid(mismatched, missing) if validated else None) or _steps_condition(report, limit)
    return TaskRunOutcome(*condition, results=results, events=tuple(events))


def _steps_condition(report: PodReport, limit: int) -> _Condition:
    # a failed sidecar counts as the cause of what its steps did
    ranked = sorted(report.containers, key=lambda container: container.name != SIDECAR)
    failed = next((container for container in ranked if container.exit_code != 0), None)
    if failed is None:
        return "Succeeded", "Succeeded", "All Steps have completed executing"
    received = failed.message[:limit]
    if message.decode(received) is not None and _TIMEOUT_REASON in received:
        text = f'"{failed.name}" exited because the step exceeded the specified timeout limit'
    else:
        text = f'"{failed.name}" exited with code {failed.exit_code}'
    reason = "SidecarFailed" if failed.name == SIDECAR else "StepFailed"
    return "Failed", reason, text


def _from_messages(report: PodReport, limit: int) -> tuple[dict[str, _Emitted], bool]:
    """Results by name, the last step's winning; and whether all messages could be read.

    A message that the kubelet cut is lost as a whole, and with it Tekton's check of the types.
    """
    emitted: dict[str, _Emitted] = {}
    whole = True
    for container in report.containers:
        entries = message.decode(container.message[:limit]) if container.message else []
        if entries is None:
            whole = False
            continue
        for entry in entries:
            emitted[entry.name] = _Emitted(entry.value, container.read[entry.name])
    return emitted, whole


def _from_sidecar(
    taskrun: str, report: PodReport, max_result_size: int
) -> tuple[dict[str, _Emitted], _Condition | None]:
    """Results by name up to the first line that is too long, which fails the TaskRun."""
    emitted: dict[str, _Emitted] = {}
    for line in report.lines:
        if line.length > max_result_size:
            text = (
                f'{_USER_ERROR} TaskRun ""{taskrun}"" failed: {line.length} bytes results size exceeds configured '
                f"limit of {max_result_size} bytes"
            )
            return emitted, ("Failed", "TaskRunResultLargerThanAllowedLimit", text)
        emitted[line.name] = _Emitted(line.value, line.content)
    return emitted, None


def _typed(
    declared: Sequence[ResultDeclaration], emitted: Mapping[str, _Emitted]
) -> tuple[dict[str, ResultValue], dict[str, str], dict[str, list[str]]]:
    values: dict[str, ResultValue] = {}
    mismatched: dict[str, str] = {}
    missing: dict[str, list[str]] = {}
    for result in declared:
        if result.name not in emitted:
            continue
        text = emitted[result.name].text
        value = text if result.type is ResultType.STRING or not text else unmarshalled(text)
        found = type_of(value)
        if found is not result.type:
            mismatched[result.name] = (
                f'task result is expected to be "{result.type}" type but was initialized to a different type "{found}"'
            )
            continue
        values[result.name] = value
        if isinstance(value, dict):
            absent = [key for key in result.properties if key not in value]
            if absent:
                missing[result.name] = absent
    return values, mismatched, missing


def _invalid(mismatched: Mapping[str, str], missing: Mapping[str, list[str]]) -> _Condition | None:
    if mismatched:
        listed = ",".join(sorted(f' "{name}": {why}' for name, why in mismatched.items()))
        text = (
            "Provided results don't match declared results; may be invalid JSON or missing result declaration: "
            f"{listed}"
        )
    elif missing:
        listed = " ".join(f"{name}:[{' '.join(keys)}]" for name, keys in sorted(missing.items()))
        text = f"missing keys for these results which are required in TaskResult's properties map[{listed}]"
    else:
        return None
    return "Failed", "TaskRunValidationFailed", _USER_ERROR + text


def _result(
    declared: ResultDeclaration, value: ResultValue, content: Content, entry: ManifestEntry | None
) -> ResultOutcome:
    size, sha256 = (content.size, content.sha256) if entry is None else (entry.size, entry.sha256)
    spilled = entry is not None and entry.spilled
    return ResultOutcome(declared.name, declared.type, size, sha256, spilled, value)
