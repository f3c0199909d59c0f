"""Whether a server that is killed had a request in hand: asked by the next one where the kernel cannot ask again.

Before Linux 6.9 a request that was read and not answered is lost with its server, and its sender would wait for ever.
So `session/in-hand` says 1 from before a request is read until it and all that wait are answered. What a killed server
has written stays; it may say 1 when the answer was just given, never 0 when one was due.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)
_NAME = "in-hand"


class InHand:
    """The note of one mount's server. Used by one thread. Making it raises OSError."""

    def __init__(self, directory: Path) -> None:
        self._file = os.open(directory / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._busy = False
        os.pwrite(self._file, b"0", 0)

    def note(self, *, busy: bool) -> None:
        """Something may be in hand from now on, or nothing is any more."""
        if busy == self._busy or self._file < 0:
            return
        self._busy = busy
        try:
            os.pwrite(self._file, b"1" if busy else b"0", 0)
        except OSError as error:  # a disk that writes elsewhere, and is full
            log.error("no server could take this mount over: %s", error.strerror)  # noqa: TRY400
            with suppress(OSError):
                os.ftruncate(self._file, 0)
            self.close()

    def close(self) -> None:
        """Close the file, which stays. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def left_in_hand(directory: Path) -> bool:
    """Whether a predecessor may have left a request unanswered. Raises OSError."""
    try:
        return (directory / _NAME).read_bytes() != b"0"
    except FileNotFoundError:  # INIT was not done with: its answer is given again
        return False
