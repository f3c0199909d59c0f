"""Weighing a collection: what its files cost, of which types they are, and which are spilled."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from resultsfs import message, publication
from resultsfs.collected import Collected
from resultsfs.publication import Elements, Form, Plan
from resultsfs.record import Keep, ResultType
from resultsfs.units import format_size

if TYPE_CHECKING:
    from resultsfs.volume import Volume


def plan(volume: Volume, items: Sequence[Collected]) -> Plan:
    """The decisions by what is known of the files so far."""
    return publication.plan([item.candidate for item in items], volume.limits())


def learn_types(volume: Volume, items: Sequence[Collected], found: Plan) -> Plan:
    """The plan once the type of each content is known that begins like JSON and that a plan spills. Asks the host."""
    ask = functools.cache(volume.types)  # once a collection, also where there is no answer
    asked: set[str] = set()
    # a type that is learned changes the plan, and a new plan may spill what nobody asked about yet
    while doubtful := [item for item in items if item.name not in asked and _doubtful(item, found)]:
        asked.update(item.name for item in doubtful)
        learned = [_learn_type(volume, item, ask) for item in doubtful]
        if any(learned):
            found = plan(volume, items)
    return found


def _doubtful(item: Collected, found: Plan) -> bool:
    return found.decisions[item.name].form is not Form.INLINE or item.name in found.too_large


def _learn_type(volume: Volume, item: Collected, ask: Callable[[], Mapping[str, ResultType] | None]) -> bool:
    """Ask for a spilled result's type if its content begins like JSON; True when that changes anything."""
    first = item.content[:1] if item.content is not None else item.file.head(1)
    if first not in (b"[", b"{") or item.candidate.keep is Keep.INLINE:
        return False
    known = ask()
    if known is None:
        volume.report(
            "ResultTypeUnknown",
            item.name,
            f"the declared type of {item.label} is not known; its content is treated as a string",
        )
        return False
    types = {name: known.get(name, ResultType.STRING) for name in item.names}
    declared = types[item.name]
    if len(set(types.values())) > 1:
        return _tell_apart(volume, item, types)
    if declared is ResultType.STRING:
        return False
    limit = volume.settings.skeleton_size_limit
    if item.content is None and item.size <= limit:
        # nobody keeps the file from growing meanwhile
        head = item.file.head(limit + 1)
        if len(head) <= limit:
            item.content, item.size, item.digest = head, len(head), hashlib.sha256(head).hexdigest()
        else:
            item.size, item.digest = max(item.file.size(), len(head)), None
    if item.content is None or publication.too_many_elements(item.content, volume.limits().inline):
        item.candidate = replace(item.candidate, type=declared)
        if declared is ResultType.OBJECT:
            volume.report(
                "ResultTooLarge",
                item.name,
                f"object {item.label} of {format_size(item.size)} is larger than skeleton-size-limit "
                f"({format_size(limit)}) or has too many keys, and can only be published inline",
            )
        return True
    elements = Elements.parse(item.content, declared)
    item.candidate = replace(
        item.candidate,
        size=item.size,
        cost=message.json_cost(item.content),
        type=declared,
        elements=elements,
        malformed=elements is None,
    )
    if elements is None:
        volume.report(
            "ResultMalformed",
            item.name,
            f"{item.label} of {format_size(item.size)} is declared as {declared} but its content is not a JSON "
            f"{declared} of strings; it is not spilled",
        )
    return True


def _tell_apart(volume: Volume, item: Collected, types: dict[str, ResultType]) -> bool:
    """One file under names of different types: what stands for it under one would be wrong under another."""
    declared = ", ".join(f"{name!r} as {kind}" for name, kind in types.items())
    kind = next(kind for kind in types.values() if kind is not ResultType.STRING)
    item.candidate = replace(item.candidate, type=kind, malformed=True)
    volume.report(
        "ResultTypesDiffer",
        item.name,
        f"{item.label} of {format_size(item.size)} cannot be spilled, for it is declared as different types: {declared}; "
        "declare one type, or write a file for each",
    )
    return True
