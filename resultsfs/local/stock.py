"""What plain Tekton would have done with results of the same sizes. Pure arithmetic over `message`.

Every step's entrypoint emits all results that exist, so the last step's message carries them all: it is the
largest, and if it is refused, the TaskRun fails there at the latest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from resultsfs import message
from resultsfs.local.plan import ResultOutcome, TaskRunPlan
from resultsfs.local.podspec import SIDECAR, container_name, containers_of
from resultsfs.record import Mode, ResultValue

_WORTH_READING = 64 << 10
"""Bytes of content up to which its exact cost is computed; beyond, it is too large whatever it holds."""

Original = Callable[[ResultOutcome], ResultValue]
"""A result's value as the step wrote it, with content in place of references."""


class Fate(StrEnum):
    """How it would have ended."""

    FITS = "fits"
    """As with resultsfs."""
    FAILS = "fails"
    """Tekton refuses the message (or the sidecar's line), and the TaskRun fails."""
    CUT = "cut"
    """The kubelet cuts the message without Tekton's knowing: Succeeded, with results missing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Plain Tekton's part for one TaskRun. `size` in bytes, of the message or the longest line of the sidecar.

    `exact` is False where the size is only the least that it could have been. `reason` and `said` are what
    the TaskRun's condition and the container's log would have held; `result` the line's, with a sidecar.
    """

    fate: Fate
    container: str
    size: int
    exact: bool
    limit: int
    result: str = ""
    reason: str = ""
    said: str = ""


def verdict(plan: TaskRunPlan, results: Sequence[ResultOutcome], original: Original) -> Verdict | None:
    """What plain Tekton would have made of these results; None where there are none.

    `original` is asked only for small spilled results; it may raise what the store raises.
    """
    if not results:
        return None
    costs = {result.name: _cost(result, original) for result in results}
    exact = all(known for _, known in costs.values())
    if plan.mode is Mode.SIDECAR_LOGS:
        return _by_sidecar(plan, {name: cost for name, (cost, _) in costs.items()}, exact)
    last = container_name(plan.steps[-1], len(plan.steps) - 1)
    size = message.FIXED_COST + sum(message.entry_cost(name, cost) for name, (cost, _) in costs.items())
    if size > message.LIMIT:
        reason = f'"{last}" exited with code 1'
        return Verdict(Fate.FAILS, last, size, exact, message.LIMIT, "", reason, message.TOO_LONG)
    cut = message.kubelet_limit(containers_of(plan))
    fate = Fate.CUT if size > cut else Fate.FITS
    return Verdict(fate, last, size, exact, min(cut, message.LIMIT))


def _by_sidecar(plan: TaskRunPlan, costs: dict[str, int], exact: bool) -> Verdict:
    limit = message.LIMIT  # max-result-size's default
    lines = {name: message.sidecar_line_cost(name, cost) for name, cost in costs.items()}
    longest = max(lines, key=lambda name: lines[name])
    size = lines[longest]
    if size <= limit:
        return Verdict(Fate.FITS, SIDECAR, size, exact, limit, longest)
    reason = (
        f'TaskRunResultLargerThanAllowedLimit: TaskRun ""{plan.name}"" failed: {size} bytes results size exceeds '
        f"configured limit of {limit} bytes"
    )
    return Verdict(Fate.FAILS, SIDECAR, size, exact, limit, longest, reason)


def _cost(result: ResultOutcome, original: Original) -> tuple[int, bool]:
    """Bytes of the original content in a JSON string, and whether that is exact; else it is the least."""
    if result.size > _WORTH_READING:
        return result.size, False
    value = original(result) if result.spilled else result.value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    content = text.encode()
    if hashlib.sha256(content).hexdigest() == result.sha256:
        return message.json_cost(content), True
    # bytes that were not UTF-8 reached status as U+FFFD, three bytes for what cost six; and a JSON value may
    # have been written with spaces
    broken = text.count("\ufffd") if isinstance(value, str) else 0
    spaces = 0 if isinstance(value, str) else max(0, result.size - len(content))
    return message.json_cost(content) + 3 * broken + spaces, False
