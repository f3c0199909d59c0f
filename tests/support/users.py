"""Acting as another user, as far as files go."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_libc = ctypes.CDLL(None, use_errno=True)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="acts as several users: needs root")


@contextmanager
def acting_as(uid: int, gid: int | None = None) -> Iterator[None]:
    """This thread's file operations are those of `uid` and `gid`, without root's rights (setfsuid(2))."""
    _set(gid if gid is not None else uid, uid)
    try:
        yield
    finally:
        _set(0, 0)


def _set(gid: int, uid: int) -> None:
    # the group first: afterwards the right to change it is gone, and comes back only with uid 0
    if uid == 0:
        _libc.setfsuid(0)
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)
    if (_libc.setfsuid(-1), _libc.setfsgid(-1)) != (uid, gid):
        raise AssertionError(f"cannot act as uid {uid} gid {gid}")
