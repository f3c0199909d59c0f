"""The server's connection to its holder, made again whenever it is lost."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from resultsfs.errors import HolderGone, InvalidMessage
from resultsfs.holder.channel import Channel, DescriptorLost, connect
from resultsfs.holder.messages import Attach, Hold, Message, Numbers, Volume
from resultsfs.kernel.loop import Loop

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LAST_PAUSE = 0.02, 0.5  # seconds between attempts to connect
_PATIENCE = 10.0  # seconds for a holder to take a message


@dataclass(frozen=True, slots=True)
class Kept:
    """What a holder must keep of a volume that is served; `descriptor` is the receiver's to close."""

    volume: Volume
    descriptor: int
    initialised: bool


class Link:
    """Told a holder what is served (`kept`, on any thread), then hears from it: `heard` and the others are called on
    the loop's thread. `alone` is called with each attempt to connect that fails.
    """

    def __init__(
        self,
        path: str,
        loop: Loop,
        kept: Callable[[], Iterable[Kept]],
        heard: Callable[[Message, int | None], None],
        connected: Callable[[], None],
        alone: Callable[[], None],
    ) -> None:
        self._path = path
        self._loop = loop
        self._kept = kept
        self._heard = heard
        self._connected = connected
        self._alone = alone
        self._channel: Channel | None = None
        self._closed = threading.Event()

    def start(self) -> None:
        """Connect, in the background."""
        threading.Thread(target=self._connect, name="connecting", daemon=True).start()

    def _connect(self) -> None:
        pause, told = _FIRST_PAUSE, False
        while not self._closed.is_set():
            channel = None
            try:
                channel = connect(self._path, _PATIENCE)
                self._introduce(channel)
            except OSError as error:  # HolderGone and InvalidMessage are such, and there may be no descriptor left
                if channel is not None:
                    channel.close()
                if not told:
                    log.warning("%s; what is served is served on", error)
                    told = True
                self._loop.post(self._alone)
                self._closed.wait(pause)
                pause = min(pause * 2, _LAST_PAUSE)
            else:
                self._loop.post(partial(self._begin, channel))
                return

    def _introduce(self, channel: Channel) -> None:
        channel.send(Numbers())
        for kept in self._kept():
            try:
                channel.send(Hold(kept.volume, kept.initialised), kept.descriptor)
            finally:
                os.close(kept.descriptor)
        channel.send(Attach())

    def _begin(self, channel: Channel) -> None:
        if self._closed.is_set():
            channel.close()
            return
        log.info("attached to the holder at %s (pid %d)", self._path, channel.pid)
        self._channel = channel
        self._loop.watch(channel.fileno(), self._readable)
        self._connected()

    def _readable(self) -> None:
        assert self._channel is not None
        try:
            message, descriptor = self._channel.receive()
        except DescriptorLost as error:
            log.error("%s", error)  # noqa: TRY400
            self._heard(error.told, None)
        except InvalidMessage as error:
            log.error("what the holder says is not understood: %s", error)  # noqa: TRY400
        except HolderGone as error:
            self._lose(error)
        else:
            self._heard(message, descriptor)

    def _lose(self, error: HolderGone) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            self._loop.unwatch(channel.fileno())
            channel.close()
        if not self._closed.is_set():
            log.warning("%s; what is served is served on", error)
            self.start()

    def send(self, message: Message) -> None:
        """Tell the holder, if there is one; a new one is told by `kept`. On the loop's thread."""
        if self._channel is None:
            return
        try:
            self._channel.send(message)
        except HolderGone as error:
            self._lose(error)

    def pause(self) -> None:
        """Take nothing more from the holder. On the loop's thread; idempotent."""
        if self._channel is not None:
            self._loop.unwatch(self._channel.fileno())

    @property
    def up(self) -> bool:
        """Whether there is a holder."""
        return self._channel is not None

    def close(self) -> None:
        """End the connection: what was served is free for another server. Idempotent."""
        self._closed.set()
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
