"""The rights of root, one by one: what serving takes is kept, the rest is given up. `docs/transports.md` has the table."""

from __future__ import annotations

import ctypes
import os
import struct

from resultsfs.errors import NotSupported

NUMBERS = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "DAC_READ_SEARCH": 2,
    "FOWNER": 3,
    "FSETID": 4,
    "SETGID": 6,
    "SETUID": 7,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
    "SYS_RESOURCE": 24,
    "MKNOD": 27,
}
"""By name, as in linux/capability.h."""
NEEDED = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SYS_PTRACE")
"""What serving other users' files takes."""

_VERSION_3 = 0x20080522
_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 24, 47, 4
_LAST = 63


def permitted() -> int:
    """The capabilities that this process may use, a bit each."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith("CapPrm:"))


def names(capabilities: int) -> list[str]:
    """Their names; numbers for those without one here."""
    known = {number: name for name, number in NUMBERS.items()}
    return [known.get(number, str(number)) for number in range(_LAST + 1) if capabilities >> number & 1]


def keep(*wanted: str) -> list[str]:
    """Give up all capabilities but these, for good; the names of those that are left.

    Must be called while the process has one thread. Raises NotSupported when the kernel refuses.
    """
    before = permitted()
    kept = before & sum(1 << NUMBERS[name] for name in wanted)
    libc = ctypes.CDLL(None, use_errno=True)
    for number in range(_LAST + 1):
        if not kept >> number & 1:
            libc.prctl(
                _PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0
            )  # refused without SETPCAP: then it is bound already
    libc.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(_PR_CAP_AMBIENT_CLEAR_ALL), 0, 0, 0)
    header = struct.pack("=Ii", _VERSION_3, 0)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    data = struct.pack("=6I", low, low, 0, high, high, 0)
    if libc.capset(header, data) != 0:
        code = ctypes.get_errno()
        raise NotSupported(f"rights cannot be given up: {os.strerror(code)}", code)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return names(kept)
