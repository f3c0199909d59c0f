"""Publications: which results a collector reads inline, and which are spilled. Pure arithmetic.

Declared results with their sizes, JSON costs and types come in, a decision for each goes out. Nothing here
opens a file or knows a store; `message` says what a value costs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from resultsfs import message
from resultsfs.record import Keep, ResultType
from resultsfs.reference import LENGTH, WHOLE_ARRAY, Reference

REFERENCE_COST = LENGTH
"""JSON cost of a reference: plain ASCII, nothing to escape."""
_QUOTES = 4  # the two quotes of an element inside the skeleton, escaped once more in the message
WHOLE_ARRAY_COST = len("[]") + _QUOTES + LENGTH + len(WHOLE_ARRAY)


def too_many_elements(content: bytes, most: int) -> bool:
    """Whether an array or object has so many elements that no skeleton of it fits `most` bytes of a message.

    Told by counting quotes, for taking millions of elements apart costs seconds; may say no wrongly, never yes
    where a skeleton would fit.
    """
    strings = (content.count(b'"') - content.count(b'\\"')) // 2
    return strings * len('\\"\\",') > most


class Form(Enum):
    """What a collector reads for one result."""

    INLINE = "inline"
    """The content itself."""
    REFERENCE = "reference"
    """A reference to the content."""
    SKELETON = "skeleton"
    """An array or object of the same arity or keys, with references for the elements named."""
    WHOLE_ARRAY = "whole array"
    """An array of the one element `<reference>[*]`."""


@dataclass(frozen=True, slots=True)
class Elements:
    """A parsed array or object result: `values` in order, for an object with its `keys`."""

    values: tuple[str, ...]
    keys: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, content: bytes, kind: ResultType) -> Elements | None:
        """The elements of an array or object result; None when Tekton would refuse the content.

        Tekton unmarshals by the first byte, so leading white space is refused, as are elements that are no
        strings (`pkg/apis/pipeline/v1/param_types.go`).
        """
        if content[:1] != (b"[" if kind is ResultType.ARRAY else b"{"):
            return None
        try:
            parsed = json.loads(content.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return None
        # Go reads null into a string as the empty one
        values = ["" if value is None else value for value in (parsed.values() if isinstance(parsed, dict) else parsed)]
        if not all(isinstance(value, str) for value in values):
            return None
        # Go reads a lone surrogate escape as U+FFFD
        texts = tuple(value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for value in values)
        return cls(texts, tuple(parsed) if isinstance(parsed, dict) else None)

    def render(self, references: dict[int, Reference]) -> bytes:
        """The JSON text with references in place of the elements at those positions."""
        values = [str(references[at]) if at in references else value for at, value in enumerate(self.values)]
        tree = values if self.keys is None else dict(zip(self.keys, values, strict=True))
        return json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Candidate:
    """One result that a collector may read, or several that are one file: `also` are their other names.

    `size` in bytes; `cost` the JSON cost of the content, exact where it could fit a message and otherwise any
    number that cannot. `elements` are those of an array or object; None for a string, for content too large
    to be parsed, and for `malformed` content, which Tekton would refuse under one of the names at least and which is
    therefore never spilled. `chains`: Tekton Chains reads one of the names.
    """

    name: str
    size: int
    cost: int
    type: ResultType = ResultType.STRING
    elements: Elements | None = None
    malformed: bool = False
    keep: Keep | None = None
    chains: bool = False
    also: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All its names, under each of which the same is published."""
        return (self.name, *self.also)

    @property
    def may_collapse(self) -> bool:
        """Whether a whole-array reference may stand for the content."""
        return self.type is ResultType.ARRAY and not self.malformed and self.keep is None and self.size > LENGTH


@dataclass(frozen=True, slots=True)
class Decision:
    """What is published for one result; `spilled` are the positions of a skeleton's spilled elements."""

    form: Form
    spilled: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the publications of one collector, all in bytes.

    In termination-message mode `total` bounds the whole message without its fixed cost, in sidecar-logs mode
    `line` bounds each result's JSON line; the other is None.
    """

    threshold: int
    total: int | None = None
    line: int | None = None

    @classmethod
    def termination_message(cls, threshold: int, containers: int, reserve: int) -> Limits:
        """For a pod of that many containers and init containers; `reserve` is what others will add."""
        bound = min(message.LIMIT, message.kubelet_limit(containers))
        return cls(threshold, total=bound - message.FIXED_COST - message.EXIT_CODE_COST - reserve)

    @classmethod
    def sidecar_logs(cls, threshold: int, max_result_size: int) -> Limits:
        """For Tekton's `max-result-size`."""
        return cls(threshold, line=max_result_size)

    @property
    def inline(self) -> int:
        """Contents larger than this many bytes cannot be inline, whatever else is published."""
        return message.LIMIT if self.line is None else self.line


@dataclass(frozen=True, slots=True)
class Plan:
    """The decisions by (first) name, and the results whose publications break the limit all the same, each by itself.

    `over_total`: the whole message does; Tekton's own check or, for a pod of many containers, only the
    kubelet's cut would stop it. `costs`: bytes that each takes of the limit, with all its names.
    """

    decisions: dict[str, Decision]
    costs: dict[str, int]
    too_large: frozenset[str] = frozenset()
    over_total: bool = False


class _Item:
    """A candidate while it is being decided: what is spilled so far, and what that costs and saves."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.form = Form.INLINE
        self.spilled: set[int] = set()
        self.cost = candidate.cost
        self.size = candidate.size
        self._moves: list[tuple[int, int, int]] | None = None  # (JSON saving, bytes saved, position), best last
        self._render_cost = self._render_size = 0

    @property
    def decision(self) -> Decision:
        return Decision(self.form, frozenset(self.spilled))

    def moves(self) -> list[tuple[int, int, int]]:
        """The spills that are left, the one that saves most last; position -1 is the whole content."""
        if self._moves is None:
            elements = self.candidate.elements
            saves = []
            if self.candidate.type is ResultType.STRING:
                if self.candidate.size > LENGTH:
                    saves.append((self.candidate.cost - REFERENCE_COST, self.candidate.size - LENGTH, -1))
            elif elements is not None:
                for at, value in enumerate(elements.values):
                    quoted = json.dumps(value, ensure_ascii=False).encode()
                    in_json = message.json_cost(quoted) - REFERENCE_COST - _QUOTES
                    if len(value.encode()) > LENGTH:
                        saves.append((in_json, len(quoted) - LENGTH - 2, at))
                rendered = elements.render({})
                self._render_cost, self._render_size = message.json_cost(rendered), len(rendered)
            self._moves = sorted(saves)
        return self._moves

    def saving(self) -> int:
        """What the best spill that is left saves in the message."""
        moves = self.moves()
        return moves[-1][0] * len(self.candidate.names) if moves else 0

    def spill(self) -> None:
        """Carry out the best spill that is left."""
        cost, size, at = self.moves().pop()
        if at < 0:
            self.form, self.cost, self.size = Form.REFERENCE, REFERENCE_COST, LENGTH
            return
        if self.form is Form.INLINE:
            self.form, self.cost, self.size = Form.SKELETON, self._render_cost, self._render_size
        self.spilled.add(at)
        self.cost -= cost
        self.size -= size

    def collapse_saving(self) -> int:
        """What standing in as a whole-array reference saves, 0 where that is not allowed."""
        if self.form is Form.WHOLE_ARRAY or not self.candidate.may_collapse:
            return 0
        return max(0, self.cost - WHOLE_ARRAY_COST) * len(self.candidate.names)

    def collapse(self) -> None:
        self.form, self.spilled, self.cost = Form.WHOLE_ARRAY, set(), WHOLE_ARRAY_COST
        self._moves = []


def plan(candidates: Iterable[Candidate], limits: Limits) -> Plan:
    """Decide all results of one collector together.

    First the threshold; then, while the limit is exceeded, the spill that saves most; then whole-array
    references; then names that Chains reads. Results kept inline are never spilled.
    """
    items = [_Item(candidate) for candidate in candidates]
    for item in items:
        if item.candidate.keep is not Keep.INLINE and not item.candidate.chains:
            while item.size > limits.threshold and item.moves():
                item.spill()
            unparsed = item.candidate.elements is None and item.candidate.size > limits.threshold
            if unparsed and item.collapse_saving():  # an array too large to make a skeleton of
                item.collapse()
    if limits.line is not None:
        for item in items:
            names = len(item.candidate.names)
            _reduce([item], limits.line * names, _line(item) * names)
        return _plan(items, {item.candidate.name: _line(item) for item in items}, limits.line)
    assert limits.total is not None
    _reduce(items, limits.total, _total(items))
    over = bool(items) and _total(items) > limits.total
    return _plan(items, {item.candidate.name: _total([item]) for item in items}, limits.total, over)


def _plan(items: Sequence[_Item], costs: dict[str, int], bound: int, over: bool = False) -> Plan:
    too_large = frozenset(name for name, cost in costs.items() if cost > bound)
    return Plan({item.candidate.name: item.decision for item in items}, costs, too_large, over)


def _total(items: Sequence[_Item]) -> int:
    return sum(message.entry_cost(name, item.cost) for item in items for name in item.candidate.names)


def _line(item: _Item) -> int:
    """The longest of its lines: each name has one."""
    return max(message.sidecar_line_cost(name, item.cost) for name in item.candidate.names)


def _reduce(items: Sequence[_Item], bound: int, cost: int) -> None:
    ordinary = [item for item in items if item.candidate.keep is not Keep.INLINE and not item.candidate.chains]
    chains = [item for item in items if item.candidate.keep is not Keep.INLINE and item.candidate.chains]
    for group in (ordinary, chains):
        for saving, spill in ((_Item.saving, _Item.spill), (_Item.collapse_saving, _Item.collapse)):
            while cost > bound and group:
                best = max(group, key=saving)
                if saving(best) <= 0:
                    break
                before = best.cost
                spill(best)
                cost += (best.cost - before) * len(best.candidate.names)


def whole_array(run: UUID, sha256: str) -> bytes:
    """The publication that stands for a whole array."""
    return json.dumps([str(Reference.of(run, sha256)) + WHOLE_ARRAY], separators=(",", ":")).encode()


def filler(length: int) -> bytes:
    """Printable bytes that do not compress: what makes a message fail Tekton's own check, compressed or not.

    Appended to a value that would fit Tekton's 4096 bytes and be cut silently by the kubelet; the entrypoint
    refuses the whole message, so the value never goes anywhere.
    """
    blocks = (hashlib.sha256(str(at).encode()).hexdigest() for at in range(length // 64 + 1))
    return "".join(blocks)[:length].encode()
