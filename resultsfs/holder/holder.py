"""The holder itself: what it does upon each message."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from resultsfs.backing import Passthrough, may_back
from resultsfs.errors import InvalidMessage, MountError, ResultsError
from resultsfs.holder import held as volumes
from resultsfs.holder.channel import Channel
from resultsfs.holder.connections import Connections
from resultsfs.holder.held import Held, Records
from resultsfs.holder.loop import Loop
from resultsfs.holder.messages import (
    Attach,
    Backed,
    BackingClose,
    BackingOpen,
    Drop,
    End,
    Ended,
    Failed,
    HandOver,
    Hold,
    List,
    Listed,
    Mount,
    Mounted,
    Numbers,
    Ready,
    Refused,
    Serve,
    Unmount,
    Unmounted,
    Volume,
    encode,
)

log = logging.getLogger(__name__)

_LOOK = 5.0  # seconds between looks at mounts that nobody serves
_AGAIN = 2.0  # seconds until a server is asked again to take over what it could not


class Holder(Connections):
    """Keeps volumes. All happens on the loop's thread, but for mounting and unmounting themselves.

    `changed` is called after a volume came, got ready or went.
    """

    def __init__(self, loop: Loop, listener: socket.socket, records: Records) -> None:
        super().__init__(loop, listener)
        self.records = records
        self.volumes: dict[str, Held] = {}
        self.servers: list[Channel] = []
        """Servers that attached, the first of which gets what is to be served."""
        self._numbered: set[Channel] = set()  # servers that repeat the numbers of servings
        self._numbers = itertools.count(time.time_ns())  # above those of a holder that handed over
        self.changed: Callable[[], None] = lambda: None
        self.failure: str | None = None
        """Why the first volume that failed did."""
        self.hand_over: Callable[[Channel], None] | None = None
        """Gives everything to a new holder; None where that is not offered."""
        self._may_back = may_back()
        self.handlers = {
            Mount: self._mount,
            Unmount: self._unmount,
            List: self._list,
            Hold: self._hold,
            Numbers: lambda channel, _, __: self._numbered.add(channel),
            Attach: self._attach,
            Ready: self._ready,
            Ended: self._ended,
            Refused: self._refused,
            BackingOpen: self._backing_open,
            BackingClose: self._backing_close,
            HandOver: self._hand_over,
        }
        for volume in records.load():
            self.volumes[volume.volume_id] = Held(volume, given=True, initialised=True, lost=True)
            log.info("volume %s is mounted at %s; its descriptor is awaited", volume.volume_id, volume.mountpoint)
        loop.after(_LOOK, self._look)

    def let_go(self, channel: Channel) -> None:
        """A connection is gone: what it served goes to the next server."""
        if channel.closed:
            return
        super().let_go(channel)
        for held in self.volumes.values():
            held.waiting = [waiting for waiting in held.waiting if waiting is not channel]
        served = [held for held in self.volumes.values() if held.server is channel]
        if channel in self.servers:
            self.servers.remove(channel)
        self._numbered.discard(channel)
        if served:
            log.warning("the server of %d volumes (pid %d) is gone", len(served), channel.pid)
        for held in served:
            held.server, held.ready = None, False
        self.give()

    # -- what clients ask ---------------------------------------------------------------------------------

    def _mount(self, channel: Channel, message: Mount, _: int | None) -> None:
        held = self.mount(message.volume, over=message.over)
        if held.ready:
            self.answer(channel, Mounted(held.volume.volume_id))
            return
        held.waiting.append(channel)
        self.loop.after(message.timeout, lambda: self._late(held, channel, message.timeout))

    def mount(self, volume: Volume, *, over: bool = False) -> Held:
        """Begin to mount a volume, if it is not; `over` a mount that is lost or dead. Raises MountError, OSError."""
        held = self.volumes.get(volume.volume_id)
        if held is not None and over and (held.lost or held.dead) and not held.leaving:
            self._leave(held)
            held.close()
            held = None
        if held is None:
            encode(Hold(volume, initialised=False, given=False, server=1 << 31))  # the largest that it travels in
            self.records.save(volume)
            held = self.volumes[volume.volume_id] = Held(volume)
            self._aside(lambda: volumes.mount(volume, over=over), self._mounted, held)
        elif (held.volume.mountpoint, held.volume.spool) != (volume.mountpoint, volume.spool):
            raise MountError(
                f"volume {volume.volume_id} is mounted at {held.volume.mountpoint} already, with the spool "
                f"{held.volume.spool}: unmount it first",
                errno.EEXIST,
            )
        elif held.leaving or held.lost or held.dead:
            state = "being unmounted" if held.leaving else held.state
            raise MountError(f"volume {volume.volume_id} is {state}: unmount it first", errno.EBUSY)
        return held

    def _mounted(self, held: Held, descriptor: int | None, error: ResultsError | None) -> None:
        if error is not None or descriptor is None:
            self.failure = self.failure or str(error)
            self._forget(held, error)
            return
        self._keep(held, descriptor)
        self.give()

    def _keep(self, held: Held, descriptor: int) -> None:
        held.descriptor, held.lost = descriptor, False
        self.changed()

    def _late(self, held: Held, channel: Channel, timeout: float) -> None:
        if channel not in held.waiting:
            return
        held.waiting.remove(channel)
        why = "no server is attached" if held.server is None else f"its server (pid {held.server.pid}) does not answer"
        text = f"{held.volume.mountpoint} did not answer within {timeout:g} s: {why}"
        self.answer(channel, Failed(text, errno.ETIMEDOUT))
        if not held.waiting and not held.initialised and held.descriptor is not None:
            self.take_off(held)

    def _unmount(self, channel: Channel, message: Unmount, _: int | None) -> None:
        held = self.volumes.get(message.volume_id) or next(
            (held for held in self.volumes.values() if held.volume.mountpoint == message.mountpoint), None
        )
        if held is not None:
            if held.state == "mounting" and held.descriptor is None and not held.leaving:
                raise MountError(f"volume {held.volume.volume_id} is being mounted: ask again", errno.EAGAIN)
            self.take_off(held, channel, foreign=message.foreign)
        elif message.mountpoint:
            self._aside(lambda: volumes.unmount(message.mountpoint, foreign=message.foreign), self._unmounted, channel)
        elif message.volume_id:
            self.answer(channel, Unmounted(0))
        else:
            raise InvalidMessage("unmount: neither volume_id nor mountpoint is given")

    def take_off(self, held: Held, channel: Channel | None = None, *, foreign: bool = False) -> None:
        """Unmount a volume and forget it; tell a client when that is done."""
        held.leaving = True
        if held.server is None:
            held.close()  # nobody serves what is still unwritten: let nobody wait for it

        def done(_: Held, count: int | None, error: ResultsError | None) -> None:
            if error is None:
                self._forget(held, MountError(f"{held.volume.mountpoint} was unmounted", errno.ECANCELED))
            held.leaving = False
            held.dead = held.dead or (held.descriptor is None and not held.lost)  # still there, and nobody can serve it
            if channel is not None:
                self._unmounted(channel, count, error)
            elif error is not None:
                log.error("%s", error)

        self._aside(lambda: volumes.unmount(held.volume.mountpoint, foreign=foreign), done, held)

    def _unmounted(self, channel: Channel, count: int | None, error: ResultsError | None) -> None:
        if error is not None or count is None:
            self.answer(channel, Failed(str(error), (error and error.errno) or errno.EIO))
        else:
            self.answer(channel, Unmounted(count))

    def _list(self, channel: Channel, _: List, __: int | None) -> None:
        for held in self.volumes.values():
            volume, server = held.volume, held.server.pid if held.server is not None else 0
            self.answer(channel, Listed(volume.volume_id, volume.mountpoint, volume.spool, held.state, server))
        self.answer(channel, End(len(self.volumes)))

    # -- what servers say ---------------------------------------------------------------------------------

    def _attach(self, channel: Channel, _: Attach, __: int | None) -> None:
        if channel not in self.servers:
            self.servers.append(channel)
            log.info("a server (pid %d) is attached%s", channel.pid, "" if len(self.servers) == 1 else ", and waits")
        self.give()

    def give(self) -> None:
        """Hand what nobody serves to the first server."""
        for held in list(self.volumes.values()):
            if not self.servers:
                return
            if held.descriptor is not None and held.server is None and not held.leaving:
                take_over, held.given, held.server = held.given, True, self.servers[0]
                held.serving = next(self._numbers) if held.server in self._numbered else 0
                serve = Serve(held.volume, take_over, self._may_back, held.serving)
                self.answer(held.server, serve, held.descriptor)

    def _of(self, channel: Channel, message: Ready | Refused) -> Held | None:
        """The volume of which a server speaks; None if it speaks of an earlier mount of it."""
        held = self.volumes.get(message.volume_id)
        if held is None or held.server is not channel:
            raise MountError(f"volume {message.volume_id} is not this server's", errno.ENOENT)
        return held if held.is_meant(message.serving) else None

    def _ready(self, channel: Channel, message: Ready, _: int | None) -> None:
        held = self._of(channel, message)
        if held is None:
            return
        held.ready = held.initialised = True
        waiting, held.waiting = held.waiting, []
        for client in waiting:
            self.answer(client, Mounted(held.volume.volume_id))
        self.changed()

    def _refused(self, channel: Channel, message: Refused, _: int | None) -> None:
        held = self._of(channel, message)
        if held is None:
            return
        log.error("volume %s cannot be served: %s", message.volume_id, message.error)
        self.failure = self.failure or message.error
        self._fail(held, message.error, message.errno)
        if not held.initialised:
            held.server = None
            self.take_off(held)
        elif message.errno == errno.ECONNABORTED:  # nobody ever can: let nobody wait for it
            held.server, held.dead = None, True
            held.close()
        else:
            self.loop.after(_AGAIN, lambda: self._again(held, channel))
        self.changed()

    def _again(self, held: Held, channel: Channel) -> None:
        if held.server is channel and not held.ready:
            held.server = None
            self.give()

    def _hold(self, channel: Channel, message: Hold, descriptor: int | None) -> None:
        volume = message.volume
        if descriptor is None:
            raise InvalidMessage(f"hold: no descriptor came with volume {volume.volume_id}")
        if not volumes.belongs(descriptor, volume):
            raise MountError(f"{volume.mountpoint} is not the mount of the descriptor to hold", errno.ENOENT)
        held = self.volumes.get(volume.volume_id)
        if held is None:
            self.records.save(volume)
            held = self.volumes[volume.volume_id] = Held(volume, lost=True)
        if held.server not in (None, channel):
            raise MountError(f"volume {volume.volume_id} is served by another", errno.EBUSY)
        held.server, held.serving, held.given = channel, 0, True
        held.initialised = held.ready = message.initialised
        log.info("volume %s is served by pid %d", volume.volume_id, channel.pid)
        if held.descriptor is None:
            self._keep(held, os.dup(descriptor))

    def take_up(self, hold: Hold, descriptor: int | None, server: Channel | None) -> None:
        """A volume as another holder had it; the descriptor is this one's from now on."""
        held = self.volumes.get(hold.volume.volume_id) or Held(hold.volume)
        held.initialised, held.given, held.server = hold.initialised, hold.given, server
        held.lost, held.ready = descriptor is None, server is not None and hold.initialised
        self.volumes[hold.volume.volume_id] = held
        self.records.save(hold.volume)
        if descriptor is not None:
            self._keep(held, descriptor)

    def _backing(self, volume_id: str) -> Passthrough:
        held = self.volumes.get(volume_id)
        if held is None or held.descriptor is None:
            raise MountError(f"volume {volume_id} is not held", errno.ENOENT)
        return Passthrough(held.descriptor)

    def _backing_open(self, channel: Channel, message: BackingOpen, descriptor: int | None) -> None:
        if descriptor is None:
            raise InvalidMessage("backing-open: no descriptor came along")
        backing = self._backing(message.volume_id)
        number = backing.open(descriptor)
        self.answer(channel, Backed(number))
        if channel.closed:  # nobody knows of it
            backing.close(number)

    def _backing_close(self, channel: Channel, message: BackingClose, _: int | None) -> None:
        try:
            self._backing(message.volume_id).close(message.backing_id)
        except OSError as error:
            if error.errno != errno.ENOENT:  # it is gone already
                log.warning("backing id %d of volume %s: %s", message.backing_id, message.volume_id, error.strerror)

    def _hand_over(self, channel: Channel, message: HandOver, _: int | None) -> None:
        if self.hand_over is None:
            raise MountError("this holder belongs to one mount, and is not replaced", errno.ENOTSUP)
        self.hand_over(channel)

    # -- ends ---------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """See whether the kernel has closed a connection that no server tells about.

        Descriptors are not watched, for each request of a client would wake the holder too.
        """
        self.loop.after(_LOOK, self._look)
        for held in list(self.volumes.values()):
            if held.descriptor is not None and held.may_be_over:
                self._over(held)

    def _ended(self, channel: Channel, message: Ended, _: int | None) -> None:
        held = self.volumes.get(message.volume_id)
        if held is None or held.server is not channel or not held.is_meant(message.serving):
            return
        if 0 in (message.serving, held.serving) and not held.ready and not held.may_be_over:
            return  # no number tells, but this mount is alive: an earlier one has ended
        held.server, held.ready = None, False  # it has let go by itself
        self._over(held)

    def _over(self, held: Held) -> None:
        """The kernel has closed the connection: the mount was taken off, or aborted."""
        if held.leaving:
            held.close()
        elif volumes.mounted_at(held.volume.mountpoint) is None:
            self._forget(held, MountError(f"{held.volume.mountpoint} was unmounted", errno.ECANCELED))
        else:
            log.error("%s was aborted: it answers nothing any more", held.volume.mountpoint)
            self._leave(held)
            held.dead = True
            held.close()
            self._fail(held, f"{held.volume.mountpoint} was aborted before it answered", errno.ECONNABORTED)
            self.changed()

    def _leave(self, held: Held) -> None:
        server, held.server, held.ready = held.server, None, False
        if server is not None:
            self.answer(server, Drop(held.volume.volume_id, held.serving))

    def _forget(self, held: Held, why: ResultsError | None) -> None:
        if self.volumes.get(held.volume.volume_id) is not held:
            return
        del self.volumes[held.volume.volume_id]
        self.records.drop(held.volume.volume_id)
        self._leave(held)
        held.close()
        log.info("volume %s is gone: %s", held.volume.volume_id, why)
        self._fail(held, str(why), (why and why.errno) or errno.EIO)
        self.changed()

    def _fail(self, held: Held, why: str, code: int) -> None:
        """Tell those who wait for a mount that it will not answer."""
        waiting, held.waiting = held.waiting, []
        for client in waiting:
            self.answer(client, Failed(why, code))

    def _aside(
        self, work: Callable[[], int], done: Callable[[Any, int | None, ResultsError | None], None], about: object
    ) -> None:
        """Do what may wait on a thread of its own, and what follows on the loop's."""

        def run() -> None:
            outcome: int | None = None
            failure: ResultsError | None = None
            try:
                outcome = work()
            except ResultsError as error:
                failure = error
            except OSError as error:
                failure = MountError(str(error), error.errno)
            self.loop.post(lambda: done(about, outcome, failure))

        threading.Thread(target=run, name="mounting", daemon=True).start()
