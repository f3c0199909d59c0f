"""The Events of a collection's plan: what does not fit, why not, and the way out; and what Tekton Chains will miss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resultsfs import message
from resultsfs.collected import Collected
from resultsfs.publication import REFERENCE_COST, Form, Plan
from resultsfs.record import Keep, Mode, ResultType
from resultsfs.units import format_size

if TYPE_CHECKING:
    from resultsfs.volume import Volume

_NAMED = 3  # how many of the largest results an Event about all of them names


def explain(volume: Volume, items: Sequence[Collected], plan: Plan) -> None:
    """Report why what was decided does not fit, if so, and the spilled names that Chains reads."""
    limits = volume.limits()
    allowed = limits.line if limits.line is not None else limits.total
    for item in items:
        if item.name in plan.too_large:
            volume.report(
                "ResultTooLarge",
                item.name,
                f"{item.label} ({format_size(item.size)}) does not fit {_bound(volume)}: {plan.costs[item.name]} bytes of "
                f"{allowed}; {_why(item)}",
            )
        if item.decision.form is not Form.INLINE and item.candidate.chains:
            volume.report(
                "ChainsResultSpilled",
                item.name,
                f"{item.label} ({format_size(item.size)}) is one that Tekton Chains reads, and was spilled because the "
                f"results together do not fit {_bound(volume)}",
            )
    if plan.over_total and not plan.too_large:
        _explain_all(volume, items, plan, allowed)


def _bound(volume: Volume) -> str:
    if volume.record.mode is Mode.SIDECAR_LOGS:
        return "Tekton's max-result-size"
    count = volume.containers
    return f"the termination message of a pod with {count} container{'s' if count != 1 else ''}"


def _why(item: Collected) -> str:
    """Why a result is as large as it is by itself, and what would make it smaller."""
    candidate = item.candidate
    count = "" if candidate.elements is None else f"{len(candidate.elements.values)} "
    if candidate.keep is Keep.INLINE:
        return (
            "it stays inline because it is used where nothing can resolve a reference: "
            "have it smaller, or use a smaller result there"
        )
    if candidate.malformed:
        return "it stays inline because content and declaration do not agree, as another Event says"
    if candidate.type is ResultType.OBJECT:
        return (
            f"an object keeps its {count}keys, and each value that is spilled takes {REFERENCE_COST} bytes: "
            "have fewer keys, or a string result that holds the JSON"
        )
    if candidate.type is ResultType.ARRAY:
        return (
            f"a matrix or an index needs its {count}elements, and each that is spilled takes {REFERENCE_COST} bytes: "
            "have fewer elements"
        )
    if item.decision.form is Form.INLINE:
        return f"it stays inline because it is not longer than a reference of {REFERENCE_COST} bytes"
    return f"not even its reference of {REFERENCE_COST} bytes fits"


def _explain_all(volume: Volume, items: Sequence[Collected], plan: Plan, allowed: int | None) -> None:
    """Each would fit, all together do not."""
    largest = sorted(items, key=lambda item: plan.costs[item.name], reverse=True)[:_NAMED]
    named = ", ".join(f"{' and '.join(map(repr, item.names))} with {plan.costs[item.name]}" for item in largest)
    fewer = "fewer containers in the pod, " if message.kubelet_limit(volume.containers) < message.LIMIT else ""
    volume.report(
        "ResultsTooLarge",
        None,
        f"{sum(len(item.names) for item in items)} results of one step do not fit {_bound(volume)} together: "
        f"{sum(plan.costs.values())} bytes of {allowed}, with all spilled that may be; the largest are {named} bytes. "
        f"Have fewer results in a step, {fewer}or Tekton's results-from: sidecar-logs",
    )
