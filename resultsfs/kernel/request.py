"""Requests of the kernel, answers to them, and who is asking."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from resultsfs.kernel.layout import Buffer, Malformed
from resultsfs.kernel.protocol import IN_HEADER, RESEND
from resultsfs.tree import Caller


class Wait(Enum):
    """What a request may have to wait for; each kind has threads of its own, so that none starves another."""

    COLLECTION = "collection"
    REFERENCE = "reference"
    DISK = "disk"


@dataclass(slots=True)
class Later:
    """An answer that has to wait: `work` is done on another thread, `finish` turns its outcome into the answer
    on the session's own; `undo` takes back an outcome that nobody waits for any more.
    """

    wait: Wait
    work: Callable[[], Any]
    finish: Callable[[Any], Buffer]
    undo: Callable[[Any], None] | None = None


@dataclass(slots=True)
class Request:
    """One request. `body` is what follows the header, in a buffer that the next request overwrites."""

    opcode: int
    unique: int
    nodeid: int
    caller: Caller
    body: memoryview

    @property
    def resent(self) -> bool:
        """Whether a server that died may have carried it out already."""
        return bool(self.unique & RESEND)


_BODY = IN_HEADER.size


def parse(message: memoryview) -> Request:
    """The request in a message. Raises Malformed."""
    length, opcode, unique, nodeid, uid, gid, pid, extlen, _ = IN_HEADER.values(message)
    end = len(message)
    if length != end:
        raise Malformed(f"{end} bytes that call themselves {length}")
    if extlen:  # 7.38, in words of 8 bytes; what it holds was not asked for
        end -= extlen * 8
        if end < _BODY:
            raise Malformed(f"an extension of {extlen * 8} bytes in {length}")
    return Request(opcode, unique, nodeid, Caller(uid, gid, pid), message[_BODY:end])


_current = threading.local()
_NOBODY = Caller(0, 0, 0)


def serving(caller: Caller) -> None:
    """This thread now serves a request of that caller."""
    _current.caller = caller


def caller() -> Caller:
    """Who sent the request that this thread is serving."""
    found: Caller = getattr(_current, "caller", _NOBODY)
    return found
