"""What a serving process needs of its own limits."""

from __future__ import annotations

import errno
import resource
import threading

from resultsfs.errors import TooManyOpenFiles

_DESCRIPTORS = 1 << 16
FEW = 64
"""Files that a volume may have open however many all volumes together have."""


def raise_descriptors() -> None:
    """Let this process hold as many descriptors as it may: each open file takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


class Descriptors:
    """The open files of all volumes of one process, against its own limit.

    A quarter of that is kept: for volumes with few open files, and for what the process itself opens.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0

    def counted(self, change: int) -> None:
        """Files were opened, or closed."""
        with self._lock:
            self._open += change

    def check(self, own: int) -> None:
        """Raise TooManyOpenFiles (ENFILE) when a volume that has `own` files open must not open another."""
        if own < FEW:
            return
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if self._open >= limit - limit // 4:
            raise TooManyOpenFiles(
                f"all volumes of this server have {self._open:,} files open, and the rest of its {limit:,} descriptors "
                f"(RLIMIT_NOFILE) is kept for volumes with fewer than {FEW}: close some, or raise that limit",
                errno.ENFILE,
            )
