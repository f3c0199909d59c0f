"""A holder replaced by another: sockets and descriptors go over, and neither servers nor clients notice."""

from __future__ import annotations

import errno
import logging
import os
import socket

from resultsfs.errors import HolderGone, InvalidMessage, MountError
from resultsfs.holder.channel import Channel, connect, listen
from resultsfs.holder.held import Held, Records
from resultsfs.holder.holder import Holder
from resultsfs.holder.loop import Loop
from resultsfs.holder.messages import End, Failed, HandOver, Hold, Passed, Taken

log = logging.getLogger(__name__)
_PATIENCE = 20.0  # seconds for the other holder to answer


def give(holder: Holder, channel: Channel) -> None:
    """Give everything to the holder at the other end, then end; go on as before if it does not take it.

    Raises MountError while something is being mounted or unmounted.
    """
    if any(held.leaving or (held.descriptor is None and not held.lost and not held.dead) for held in _all(holder)):
        raise MountError("a volume is being mounted or unmounted: ask again", errno.EAGAIN)
    channel.settle(_PATIENCE)
    try:
        channel.send(Passed("listener", 0), holder.listener.fileno())
        numbers: dict[Channel, int] = {}
        for other in holder.channels.values():
            if other is not channel and other.flush():
                numbers[other] = len(numbers) + 1
                channel.send(Passed("server" if other in holder.servers else "client", numbers[other]), other.fileno())
        for held in _all(holder):
            server = 0 if held.server is None else numbers.get(held.server, 0)
            channel.send(Hold(held.volume, held.initialised, held.given, server), held.descriptor)
        channel.send(End(len(holder.volumes)))
        message, _ = channel.receive()
        if not isinstance(message, Taken):
            raise InvalidMessage(f"{message.name} where taken was expected")
    except (HolderGone, InvalidMessage) as error:
        log.error("the hand-over failed, and this holder goes on: %s", error)  # noqa: TRY400
        channel.settle(0)
        holder.let_go(channel)
        return
    log.info("%d volumes were handed over to process %d", len(holder.volumes), channel.pid)
    holder.loop.stop()


def _all(holder: Holder) -> list[Held]:
    return list(holder.volumes.values())


def take(loop: Loop, path: str, records: Records) -> Holder:
    """A holder with everything that the one at a path has. Raises HolderGone, MountError when it gives nothing."""
    channel = connect(path, _PATIENCE)
    sockets: dict[int, Channel] = {}
    servers: list[Channel] = []
    found: list[tuple[Hold, int | None]] = []
    listener: socket.socket | None = None
    channel.send(HandOver())
    while True:
        message, descriptor = channel.receive()
        if isinstance(message, Passed) and descriptor is not None:
            received = socket.socket(fileno=descriptor)
            if message.kind == "listener":
                listener = received
                listener.setblocking(False)
            else:
                sockets[message.number] = Channel(received)
                if message.kind == "server":
                    servers.append(sockets[message.number])
        elif isinstance(message, Hold):
            found.append((message, descriptor))
        elif isinstance(message, Failed):
            raise MountError(f"the holder at {path} is not replaced: {message.error}", message.errno)
        elif isinstance(message, End):
            break
        else:
            raise InvalidMessage(f"{message.name} in a hand-over")
    if listener is None:
        raise InvalidMessage("a hand-over without a listening socket")
    holder = Holder(loop, listener, records)
    for hold, descriptor in found:
        server = sockets.get(hold.server)
        holder.take_up(hold, descriptor, server)
    channel.send(Taken())
    channel.close()
    holder.servers.extend(servers)
    for other in sockets.values():
        holder.adopt(other)
    holder.give()
    log.info("%d volumes were taken over from process %d", len(found), channel.pid)
    return holder


def open_at(path: str, *, replace: bool) -> tuple[socket.socket | None, str]:
    """A listening socket at a path; None where a holder listens that is to be replaced, and a word on what was found.

    Raises MountError when a holder listens that is not, OSError.
    """
    try:
        return listen(path), "fresh"
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    try:
        connect(path, _PATIENCE).close()
    except HolderGone:
        os.unlink(path)
        return listen(path), "left by another"
    if not replace:
        raise MountError(f"a holder listens at {path} already: --hand-over replaces it", errno.EADDRINUSE)
    return None, "to be replaced"
