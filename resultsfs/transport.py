"""The ways to the kernel, and which one serves a mount when nobody says (docs/transports.md)."""

from __future__ import annotations

import os

from resultsfs.mountpoint import DEVICE

AUTO, FUSEPY, NATIVE = TRANSPORTS = ("auto", "fusepy", "native")
"""The native session, libfuse, or whichever can run here."""

_OLDEST = (5, 4)  # the first kernel whose FUSE is 7.31


def chosen(wanted: str) -> str:
    """The transport to use: the one that is wanted; for `auto` the native session where it can run, else fusepy."""
    if wanted != AUTO:
        return wanted
    return NATIVE if native_can_run() else FUSEPY


def native_can_run() -> bool:
    """Whether this is Linux 5.4 or later, and /dev/fuse can be opened; the right to mount shows when mounting."""
    system = os.uname()
    numbers = system.release.split("-")[0].split(".")[:2]
    if system.sysname != "Linux" or tuple(int(number) for number in numbers if number.isdecimal()) < _OLDEST:
        return False
    return os.access(DEVICE, os.R_OK | os.W_OK)
