"""What is noted of a run that is gone: since when, and what its namespace wanted to become of its content.

A namespace's annotations are deleted with it, so that what they said is noted while they can be read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

UNKNOWN = 7 * 86_400.0
"""Seconds that content stays at least where its namespace was gone before anybody had read what it wanted."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A namespace's: `retain-after-delete` as it holds there, in seconds, and whether it is held."""

    retain: float
    held: bool = False


@dataclass(frozen=True, slots=True)
class Gone:
    """A run that is; `wish` None where its namespace was gone before it could be asked."""

    since: datetime
    wish: Wish | None

    def encoded(self) -> bytes:
        """As it is kept in the store."""
        tree: dict[str, object] = {"since": self.since.isoformat()}
        if self.wish is not None:
            tree |= {"retainAfterDelete": self.wish.retain, "held": self.wish.held}
        return json.dumps(tree).encode()


def parse(note: bytes | None) -> Gone | None:
    """What was noted, also by versions that noted the time alone; None where there is nothing that can be read."""
    if note is None:
        return None
    try:
        text = note.decode("ascii")
        if not text.startswith("{"):
            return Gone(_aware(text), None)
        tree = json.loads(text)
        since = _aware(tree["since"])
        if "held" not in tree:
            return Gone(since, None)
        return Gone(since, Wish(float(tree["retainAfterDelete"]), bool(tree["held"])))
    except (ValueError, KeyError, TypeError):
        return None  # half a note of a broken disk: time begins anew


def _aware(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(text)
    return found
