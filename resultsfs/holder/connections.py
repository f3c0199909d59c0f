"""The holder's connections: who is let in, messages in, answers out."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
from collections.abc import Callable
from typing import Any

from resultsfs.errors import HolderGone, InvalidMessage, ResultsError
from resultsfs.holder.channel import Channel, peer
from resultsfs.holder.loop import Loop
from resultsfs.holder.messages import Failed, Message

log = logging.getLogger(__name__)

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE = 1.0  # seconds until connections are accepted again when there was no room for one

Handler = Callable[[Channel, Any, int | None], None]
"""Acts upon a message from a connection; the descriptor that came along, if one did, is closed afterwards."""


class Connections:
    """Those of one listening socket. What goes wrong in a handler is told to who asked."""

    def __init__(self, loop: Loop, listener: socket.socket) -> None:
        self.loop = loop
        self.listener = listener
        self.channels: dict[int, Channel] = {}
        self.handlers: dict[type[Message], Handler] = {}
        self._listen()

    def _listen(self) -> None:
        self.loop.watch(self.listener.fileno(), select.EPOLLIN, lambda _: self._accept())

    def _accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            log.error("a connection waits: %s", error.strerror)  # noqa: TRY400
            self.loop.unwatch(self.listener.fileno())
            self.loop.after(_PAUSE, self._listen)
            return
        pid, uid = peer(connection)
        if uid not in (0, os.geteuid()):
            log.warning("process %d of user %d was turned away", pid, uid)
            connection.close()
            return
        self.adopt(Channel(connection))

    def adopt(self, channel: Channel) -> None:
        """Listen to a connection."""
        channel.settle(0)
        self.channels[channel.fileno()] = channel
        self.loop.watch(channel.fileno(), select.EPOLLIN, lambda events: self._heard(channel, events))

    def _heard(self, channel: Channel, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush(channel)
        while not channel.closed:
            try:
                message, descriptor = channel.receive()
            except BlockingIOError:
                return
            except InvalidMessage as error:
                self.answer(channel, Failed(str(error), error.errno or errno.EBADMSG))
                continue
            except HolderGone:
                self.let_go(channel)
                return
            try:
                self._take(channel, message, descriptor)
            finally:
                if descriptor is not None:
                    os.close(descriptor)

    def _take(self, channel: Channel, message: Message, descriptor: int | None) -> None:
        handler = self.handlers.get(type(message))
        try:
            if handler is None:
                raise InvalidMessage(f"{message.name} is nothing that a holder can be told")
            handler(channel, message, descriptor)
        except (ResultsError, OSError) as error:
            text = str(error) if isinstance(error, ResultsError) else f"{message.name}: {error.strerror}"
            self.answer(channel, Failed(text, error.errno or errno.EIO))

    def answer(self, channel: Channel, message: Message, descriptor: int | None = None) -> None:
        """Tell a connection something; nothing happens if it is gone."""
        if channel.closed:
            return
        try:
            channel.queue(message, descriptor)
            self._flush(channel)
        except HolderGone:
            self.let_go(channel)

    def _flush(self, channel: Channel) -> None:
        try:
            events = select.EPOLLIN if channel.flush() else select.EPOLLIN | select.EPOLLOUT
        except HolderGone:
            self.let_go(channel)
            return
        self.loop.watch(channel.fileno(), events, lambda events: self._heard(channel, events))

    def let_go(self, channel: Channel) -> None:
        """A connection is gone. Idempotent."""
        if not channel.closed:
            self.loop.unwatch(channel.fileno())
            del self.channels[channel.fileno()]
            channel.close()
