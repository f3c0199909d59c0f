"""What goes wrong with a cluster."""

from __future__ import annotations


class ClusterError(RuntimeError):
    """Something that the message names and says how to get out of."""
