"""What the driver asks of the privileged side: whoever mounts, and keeps what the kernel answers to."""

from __future__ import annotations

from typing import Protocol

from csi.volumes import Published


class Holding(Protocol):
    """Mounts and unmounts. Raises ConnectionError while nobody is there, TimeoutError, other OSErrors."""

    def held(self) -> frozenset[str]:
        """Ids of the volumes whose mounts are held, so that they are served now or will be again."""
        ...

    def served(self) -> frozenset[str]:
        """Ids of the volumes that a server serves now; no error when there is none, only when nobody knows."""
        ...

    def mount(self, volume: Published, timeout: float, *, over: bool = False) -> None:
        """Mount a volume at its target, `over` a dead mount of its own; returns when the mount answers."""
        ...

    def unmount(self, volume_id: str, target: str) -> None:
        """Take off what is mounted at a target, dead or busy, and forget the volume; without a mount, only that."""
        ...

    def serving(self) -> bool:
        """Whether a server is there that serves what is held."""
        ...
