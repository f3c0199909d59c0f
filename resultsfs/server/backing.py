"""Backing files by the holder, which has the right to register them (CAP_SYS_ADMIN) where a server has not."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import deque

from resultsfs.errors import HolderGone, InvalidMessage
from resultsfs.holder.channel import Channel, connect
from resultsfs.holder.messages import Backed, BackingClose, BackingOpen, Failed

log = logging.getLogger(__name__)

_PATIENCE = 1.0  # seconds for the holder to answer: an open waits for it, and with it the loop
_PAUSE, _LONG_PAUSE = 1.0, 30.0  # seconds for which nobody is asked: a holder that is gone, one that does not answer


class BackingLink:
    """A connection to the holder for nothing else, of all volumes of a server. Made when needed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._not_before = 0.0
        self._unclosed: deque[BackingClose] = deque()

    def of(self, volume_id: str, *, permitted: bool) -> AskedBacking:
        """The backing files of one volume; `permitted` as the holder said."""
        return AskedBacking(self, volume_id, permitted)

    def _connected(self) -> Channel:
        if self._channel is None:
            if time.monotonic() < self._not_before:
                raise HolderGone("the holder was gone a moment ago")
            self._not_before = time.monotonic() + _PAUSE
            channel = connect(self._path, _PATIENCE)
            self._channel = channel
        return self._channel

    def _tell(self) -> None:
        """Let go of what is to be let go of, as far as there is a holder."""
        try:
            channel = self._connected()
            while self._unclosed:
                channel.send(self._unclosed[0])
                self._unclosed.popleft()
        except HolderGone:
            self._lost()

    def _lost(self, pause: float = _PAUSE) -> None:
        if self._channel is not None:
            self._not_before = time.monotonic() + pause
            self._channel.close()
            self._channel = None

    def open(self, volume_id: str, file: int) -> int:
        """Register an open file. Raises OSError: what the kernel said, or HolderGone, upon which others go without."""
        with self._lock:
            try:
                channel = self._connected()
                channel.send(BackingOpen(volume_id), file)
                answer, _ = channel.receive()
            except (HolderGone, InvalidMessage) as error:
                self._lost(_LONG_PAUSE if error.errno == errno.ETIMEDOUT else _PAUSE)
                raise
        if isinstance(answer, Backed):
            return answer.backing_id
        if isinstance(answer, Failed):
            raise OSError(answer.errno, answer.error)
        raise InvalidMessage(f"{answer.name} is no answer to backing-open")

    def close_backing(self, volume_id: str, backing_id: int) -> None:
        """Let go of a backing id, as soon as there is a holder."""
        with self._lock:
            self._unclosed.append(BackingClose(volume_id, backing_id))
            self._tell()

    def connected(self) -> None:
        """There is a holder: tell it at once what nobody could be told."""
        with self._lock:
            if self._unclosed:
                self._not_before = 0.0
                self._tell()

    def close(self) -> None:
        """End the connection. Idempotent."""
        with self._lock:
            self._lost()


class AskedBacking:
    """The backing files of one volume, by asking the holder."""

    def __init__(self, link: BackingLink, volume_id: str, permitted: bool) -> None:
        self._link = link
        self._volume_id = volume_id
        self._permitted = permitted

    @property
    def permitted(self) -> bool:
        """Whether the holder has the right to."""
        return self._permitted

    def open(self, file: int) -> int:
        """Register an open file; its backing id. Raises OSError."""
        return self._link.open(self._volume_id, file)

    def close(self, backing_id: int) -> None:
        """Let go of a backing id."""
        self._link.close_backing(self._volume_id, backing_id)
