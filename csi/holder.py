"""The holder, as the driver asks it: one short connection a request, so that a new holder is found by itself."""

from __future__ import annotations

import errno
import http.client
import time
from typing import TypeVar
from urllib.parse import urlsplit

from csi.volumes import Published
from resultsfs.errors import HolderGone, InvalidMessage, InvalidSetting, MountError
from resultsfs.holder.channel import connect
from resultsfs.holder.messages import (
    End,
    Failed,
    List,
    Listed,
    Message,
    Mount,
    Mounted,
    Unmount,
    Unmounted,
    Volume,
)

M = TypeVar("M", bound=Message)

_PATIENCE = 5.0
"""Seconds for an answer that takes no work."""
_PAUSE = 0.05
_UNMOUNTING = 60.0
"""Seconds for unmounting: what is still unwritten is written."""
_HELD = frozenset({"mounting", "served", "waiting"})
"""States of a volume whose descriptor is there: it answers now, or will when a server comes."""


class Holder:
    """A `csi.holding.Holding`: the holder at a socket, and the health of the mounter at a URL (empty: not asked)."""

    def __init__(self, socket: str, mounter: str) -> None:
        self._socket = socket
        self._mounter = urlsplit(mounter)
        if mounter and (self._mounter.scheme != "http" or not self._mounter.hostname):
            raise InvalidSetting(
                f"the mounter's health is at {mounter!r}: expected a URL as http://127.0.0.1:9811/healthz"
            )

    def held(self) -> frozenset[str]:
        """Ids of the volumes whose descriptors the holder has. Raises ConnectionError, TimeoutError."""
        return frozenset(found.volume_id for found in self._list() if found.state in _HELD)

    def served(self) -> frozenset[str]:
        """Ids of the volumes that a mounter in good health serves. Raises ConnectionError, TimeoutError while the holder
        is away: the mounter serves on, but nobody knows what."""
        try:
            healthy = self._healthy()
        except ConnectionError:
            healthy = False
        if not healthy:
            return frozenset()
        return frozenset(found.volume_id for found in self._list() if found.state == "served")

    def mount(self, volume: Published, timeout: float, *, over: bool = False) -> None:
        """Mount, and wait until the mount answers. Raises ConnectionError, TimeoutError, MountError."""
        wanted = Volume(volume.record.volume_id, volume.target, volume.directory, volume.record.to_json())
        self._ask(Mount(wanted, timeout, over), Mounted, timeout + _PATIENCE)

    def unmount(self, volume_id: str, target: str) -> None:
        """Unmount and forget. Raises ConnectionError, TimeoutError, MountError."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                self._ask(Unmount(volume_id, target, foreign=True), Unmounted, _UNMOUNTING)
                return
            except MountError as error:
                if error.errno != errno.EAGAIN or time.monotonic() > until:  # EAGAIN: it is just being mounted
                    raise
            time.sleep(_PAUSE)

    def serving(self) -> bool:
        """Whether the holder answers, and the mounter says that it is in order. Raises ConnectionError, TimeoutError."""
        self._list()
        return self._healthy()

    def _healthy(self) -> bool:
        """Whether the mounter says that it is in order; True where it is not asked. Raises ConnectionError."""
        if not self._mounter.hostname:
            return True
        connection = http.client.HTTPConnection(self._mounter.hostname, self._mounter.port or 80, timeout=_PATIENCE)
        try:
            connection.request("GET", self._mounter.path or "/")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionError(f"the mounter does not answer at {self._mounter.geturl()}: {error}") from None
        finally:
            connection.close()

    def _list(self) -> list[Listed]:
        found: list[Listed] = []
        try:
            channel = connect(self._socket, _PATIENCE)
            try:
                channel.send(List())
                while True:
                    message = _answer(channel.receive(), (Listed, End))
                    if isinstance(message, End):
                        return found
                    assert isinstance(message, Listed)
                    found.append(message)
            finally:
                channel.close()
        except HolderGone as error:
            raise _gone(error) from None

    def _ask(self, question: Message, wanted: type[M], timeout: float) -> M:
        try:
            channel = connect(self._socket, timeout)
            try:
                channel.send(question)
                answer = _answer(channel.receive(), (wanted,))
                assert isinstance(answer, wanted)
                return answer
            finally:
                channel.close()
        except HolderGone as error:
            raise _gone(error) from None


def _answer(received: tuple[Message, int | None], wanted: tuple[type[Message], ...]) -> Message:
    message, _ = received
    if isinstance(message, Failed):
        if message.errno == errno.ETIMEDOUT:
            raise TimeoutError(message.error)
        raise MountError(message.error, message.errno)
    if not isinstance(message, wanted):
        raise InvalidMessage(f"the holder answers with {message.name}, where {wanted[0].name} is due")
    return message


def _gone(error: HolderGone) -> OSError:
    return TimeoutError(str(error)) if error.errno == errno.ETIMEDOUT else ConnectionError(str(error))
