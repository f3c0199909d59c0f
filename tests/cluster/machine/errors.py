"""What goes wrong with a cluster."""

from __future__ import annotations


class ClusterError(RuntimeError):
    """Something that the message names and says how to get out of."""


class NoGo(ClusterError):
    """What needs Go cannot be had: it is not on PATH."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"no Go on PATH: {what}. Install Go 1.24 or later (https://go.dev/dl), or put its directory on PATH"
        )
