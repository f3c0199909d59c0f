"""What a serving process needs of its own limits."""

from __future__ import annotations

import resource

_DESCRIPTORS = 1 << 16


def raise_descriptors() -> None:
    """Let this process hold as many descriptors as it may: each open file takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
