"""What a volume tells whoever counts: a node's metrics."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Told from many threads; must not block and must not raise. Sizes in bytes, times in seconds."""

    def published(self, size: int, *, spilled: bool) -> None:
        """A collector has read one result's publication to its end; `size` is the content's."""
        ...

    def uploaded(self, size: int, seconds: float) -> None:
        """A content has become durable in the store, all tries together in that time."""
        ...

    def opened(self, *, cached: bool) -> None:
        """Content by reference was opened: it was on this node already, or has to be fetched."""
        ...

    def failed(self, cause: str) -> None:
        """Something went wrong: the name of the error (`StoreUnavailable`, `VolumeFull`, …)."""
        ...

    def retried(self) -> None:
        """A request to the store is tried again."""
        ...


class Unobserved:
    """Nobody counts."""

    def published(self, size: int, *, spilled: bool) -> None:
        """Nothing."""

    def uploaded(self, size: int, seconds: float) -> None:
        """Nothing."""

    def opened(self, *, cached: bool) -> None:
        """Nothing."""

    def failed(self, cause: str) -> None:
        """Nothing."""

    def retried(self) -> None:
        """Nothing."""
