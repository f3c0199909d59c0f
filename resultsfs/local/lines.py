"""A container's output, cut into lines for the runner."""

from __future__ import annotations

import socket

LINE = b"L"
"""A packet to the runner: this, the step's name, a zero byte, one line without its newline."""
LONGEST = 16 << 10
"""Bytes of a line that are passed on in one piece, as container runtimes do; a longer line becomes several."""


class Lines:
    """Sends each complete line to the runner, and splits very long ones between characters."""

    def __init__(self, runner: socket.socket, step: str) -> None:
        self._runner = runner
        self._prefix = LINE + step.encode() + b"\0"
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        """Take more output."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._send(line)
        while len(self._rest) > LONGEST:
            self._rest = self._piece(self._rest)

    def finish(self) -> None:
        """Send what did not end with a newline."""
        if self._rest:
            self._send(self._rest)
            self._rest = b""

    def _send(self, line: bytes) -> None:
        while len(line) > LONGEST:
            line = self._piece(line)
        self._runner.send(self._prefix + line)

    def _piece(self, line: bytes) -> bytes:
        """Send the first piece of a line; what is left of it."""
        end = LONGEST
        while end > LONGEST - 4 and line[end] & 0xC0 == 0x80:
            end -= 1
        self._runner.send(self._prefix + line[:end])
        return line[end:]
