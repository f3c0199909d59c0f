"""Passthrough: the kernel reads and writes a spool file itself, at the disk's speed (Linux 6.9, FUSE 7.40).

Whether a mount uses it is decided once: what can be known before INIT, for the kernel gives passthrough or its
writeback cache and not both, and then by trying. It takes CAP_SYS_ADMIN (the holder's will do), a spool on a plain
local filesystem, and change times that tell any two writes apart (since 6.13 on ext4, xfs, btrfs and tmpfs), for these
are how a content that changes while it is hashed is noticed when writes do not pass by.
"""

from __future__ import annotations

import os

from resultsfs.backing import Backing
from resultsfs.settings import Settings
from resultsfs.syscalls import filesystem_type

EXACT_BELOW = 1 << 30
"""Bytes: with a smaller limit writes pass by the daemon, so that the limit is exact."""
OFF = "RESULTSFS_PASSTHROUGH"
"""`off` in the environment: content goes through the daemon."""
_ROUNDS = 20
_exact: dict[int, bool] = {}  # by device: whether its change times tell any two writes apart
_STACKED = (0x794C7630, 0xF15F, 0x65735546)  # overlayfs, ecryptfs, FUSE


def reason_against(backing: Backing, directory: str, settings: Settings) -> str | None:
    """Why a mount whose spool has that directory is not to ask for passthrough; None when nothing speaks against it."""
    if os.environ.get(OFF) == "off":
        return f"switched off by {OFF}"
    if min(settings.result_size_limit, settings.volume_size_limit) < EXACT_BELOW:
        return "a limit below 1 GiB is to be exact"
    if not backing.permitted:
        return "it takes CAP_SYS_ADMIN"
    try:
        probe = _probe(directory)
    except OSError as error:
        return f"no file for a trial: {error.strerror}"
    try:
        if filesystem_type(probe) in _STACKED:
            return "the spool does not lie on a plain local filesystem"
        device = os.fstat(probe).st_dev
        if device not in _exact:
            _exact[device] = _times_tell_writes_apart(probe)
        if not _exact[device]:
            return "the spool's disk has no change times that tell any two writes apart"
    finally:
        os.close(probe)
    return None


def refusal(backing: Backing, directory: str) -> str | None:
    """Why the kernel, asked for passthrough, does not do it; None when it does."""
    try:
        trial(backing, directory)
    except OSError as error:
        return f"the kernel refuses it: {error.strerror}"
    return None


def trial(backing: Backing, directory: str) -> int:
    """Register a file without a name, and let go of it; its id. Raises OSError."""
    probe = _probe(directory)
    try:
        number = backing.open(probe)
        backing.close(number)
    finally:
        os.close(probe)
    return number


def _probe(directory: str) -> int:
    return os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)


def _times_tell_writes_apart(probe: int) -> bool:
    before = -1
    for _ in range(_ROUNDS):
        os.pwrite(probe, b"x", 0)
        now = os.fstat(probe).st_ctime_ns
        if now == before:
            return False
        before = now
    return True
