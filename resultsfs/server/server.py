"""Serves any number of volumes in one event loop, as a holder hands them over."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from resultsfs.errors import ResultsError
from resultsfs.holder.held import mounted_at
from resultsfs.holder.messages import (
    Drop,
    Ended,
    Failed,
    Message,
    Numbers,
    Ready,
    Refused,
    Serve,
    Volume,
)
from resultsfs.kernel.files import FileRequests
from resultsfs.kernel.loop import Loop
from resultsfs.kernel.request import caller
from resultsfs.kernel.session import Session
from resultsfs.record import VolumeRecord
from resultsfs.server.backing import BackingLink
from resultsfs.server.link import Kept, Link
from resultsfs.server.provider import Provider
from resultsfs.service import Service, Shared
from resultsfs.workers import Workers

log = logging.getLogger(__name__)

_OPENING = 4
"""Volumes that are opened at the same time: each reads its spool."""
_START = 30.0
"""Seconds for which a server that serves one volume waits for its holder."""

_NO_ROOM = "its server may open no more files: raise RLIMIT_NOFILE, or wait until some are closed"

_LOOK, _PATIENCE = 0.05, 20.0
"""Seconds between looks at what still waits when a server is to stop, and for how long in all."""


@dataclass(slots=True, eq=False)
class Served:
    """One volume; `session` and `service` are None while it is opened. `ready`: its mount answers. `serving` is the
    holder's number, 0: none. `then` begins the next serving of the volume, which waits for the end of this one.
    """

    volume: Volume
    descriptor: int
    serving: int = 0
    session: Session | None = None
    service: Service | None = None
    ready: bool = False
    opened: bool = False
    dropped: bool = False
    ended: bool = False
    then: Callable[[], None] | None = None


class Server:
    """Volumes of a holder. `caches` is a directory for content read through `.ref`; all else that a volume needs comes
    from the provider. With `single` it ends when its volume has and there is no holder; with `backs` files are
    registered for passthrough here, by this process's own right, instead of by the holder.
    """

    def __init__(
        self, holder: str, provider: Provider, caches: Path, *, single: bool = False, backs: bool = False
    ) -> None:
        self.loop = Loop(endless=True, gone=self._gone)
        self._provider = provider
        self._single = single
        self._backs = backs
        self.shared = Shared(caches, provider.common.upload_workers, provider.observer, provider.disk)
        self._opening = Workers(_OPENING, "opening")
        self._lock = threading.Lock()
        self._volumes: dict[str, Served] = {}
        self._begun = time.monotonic()
        self._was_used = False
        self._backing = BackingLink(holder)
        self._link = Link(holder, self.loop, self._kept, self._heard, self._connected, self._alone)

    def stop(self) -> None:
        """End `run` and leave the mounts to another server: nothing more is read, and what waits is asked for again.

        Where the kernel cannot ask again (before 6.9), what waits is served first. From anywhere, also a signal's
        handler, which may have interrupted who holds the loop's lock.
        """
        threading.Thread(target=self._leave, name="leaving", daemon=True).start()

    def _leave(self) -> None:
        deadline, left = time.monotonic() + _PATIENCE, threading.Event()
        while not left.is_set() and time.monotonic() < deadline:
            self.loop.post(lambda: self._leave_all(left))
            left.wait(_LOOK)
        if not left.is_set():
            log.warning("what waits has not been answered within %g s, and is given up", _PATIENCE)
        self.loop.post(self.loop.stop)

    def _leave_all(self, left: threading.Event) -> None:
        self._link.pause()
        with self._lock:
            sessions = [served.session for served in self._volumes.values()]
        for session in sessions:
            if session is not None and not session.closed:
                self.loop.leave(session)
        if all(session is None or session.closed for session in sessions):
            left.set()

    def run(self) -> None:
        """Serve until stopped."""
        self._link.start()
        try:
            self.loop.run()
        finally:
            self.close()

    def close(self, timeout: float = 1.0) -> None:
        """Let go of all volumes, waiting about `timeout` seconds for what still runs; nothing is unmounted."""
        deadline = time.monotonic() + timeout

        def left() -> float:
            return max(0.0, deadline - time.monotonic())

        with self._lock:
            volumes = list(self._volumes.values())
            self._volumes.clear()
        for served in volumes:
            if served.service is not None:
                served.service.volume.close()
        for served in volumes:
            if served.service is not None:
                served.service.close(left())
        self._opening.close(left())
        self.shared.close(left())
        self._backing.close()
        self._link.close()

    @property
    def served(self) -> int:
        """How many volumes are served here."""
        return sum(served.ready for served in list(self._volumes.values()))

    @property
    def connected(self) -> bool:
        """Whether there is a holder."""
        return self._link.up

    # -- the holder ---------------------------------------------------------------------------------------

    def _kept(self) -> list[Kept]:
        with self._lock:
            served = [served for served in self._volumes.values() if not served.dropped]
            return [Kept(one.volume, os.dup(one.descriptor), one.ready) for one in served]

    def _connected(self) -> None:
        self._backing.connected()
        with self._lock:
            for served in self._volumes.values():
                served.serving = 0  # another holder's number, and this one may know none
            ready = [served.volume.volume_id for served in self._volumes.values() if served.ready]
        for volume_id in ready:  # what became so while there was nobody to tell
            self._link.send(Ready(volume_id))

    def _alone(self) -> None:
        if self._single and not self._volumes and (self._was_used or time.monotonic() - self._begun > _START):
            self.loop.stop()

    def _heard(self, message: Message, descriptor: int | None) -> None:
        if isinstance(message, Serve):
            if descriptor is not None:
                self._serve(message, descriptor)
            else:  # asked again, or unmounted; the connection must not end for it: others would be given what is served
                self._link.send(Refused(message.volume.volume_id, _NO_ROOM, errno.EMFILE, message.serving))
            return
        if descriptor is not None:
            os.close(descriptor)
        if isinstance(message, Drop):
            served = self._volumes.get(message.volume_id)
            if served is not None and (message.serving in (0, served.serving) or served.serving == 0):
                self._drop(served)
        elif isinstance(message, Failed) and f"type {Numbers.name!r}" in message.error:
            log.info("the holder is an older one, and does not number servings")
        elif isinstance(message, Failed):
            log.error("the holder says: %s", message.error)
        else:
            log.error("%s is nothing that a server can be told", message.name)

    # -- volumes ------------------------------------------------------------------------------------------

    def _serve(self, message: Serve, descriptor: int) -> None:
        volume_id = message.volume.volume_id
        served = Served(message.volume, descriptor, message.serving)
        with self._lock:
            before, self._volumes[volume_id] = self._volumes.get(volume_id), served
        self._was_used = True
        if before is None:
            self._begin(served, message)
        else:  # its mount is gone, or the holder would not give another; both would be at work on one spool
            before.then = lambda: self._begin(served, message)
            self._drop(before)

    def _begin(self, served: Served, message: Serve) -> None:
        if served.dropped:
            os.close(served.descriptor)
            self._forget(served)
        else:
            self._opening.submit(lambda: self._open(served, message))

    def _open(self, served: Served, message: Serve) -> None:
        volume, failure = served.volume, None
        try:
            record = VolumeRecord.from_json(volume.record)
            settings = self._provider.settings(volume, record)
            identify = self._provider.identify(volume, record)
            spool = Path(volume.spool)
            host = self._provider.host(record, spool)
            served.service = Service(record, spool, settings, identify, caller, self.shared, host)
            served.session = Session(
                served.descriptor,
                FileRequests(served.service.filesystem, identify, record.results),
                self.loop.post,
                lambda: self.loop.post(lambda: self._ready(served, message.take_over)),
                backing=None if self._backs else self._backing.of(volume.volume_id, permitted=message.may_back),
                mountpoint=volume.mountpoint if mounted_at(volume.mountpoint) is not None else None,
                take_over=message.take_over,
            )
        except ResultsError as error:
            failure = Refused(volume.volume_id, str(error), error.errno or errno.EIO)
        except OSError as error:
            failure = Refused(volume.volume_id, f"spool {volume.spool}: {error}", error.errno or errno.EIO)
        except Exception as error:
            log.exception("volume %s cannot be opened", volume.volume_id)
            failure = Refused(volume.volume_id, f"spool {volume.spool}: {error!r}", errno.EIO)
        self.loop.post(lambda: self._opened(served, failure))

    def _opened(self, served: Served, failure: Refused | None) -> None:
        served.opened = True
        if failure is not None:
            log.error("volume %s cannot be served: %s", served.volume.volume_id, failure.error)
            os.close(served.descriptor)
            self._forget(served)
            if not served.dropped:
                self._link.send(replace(failure, serving=served.serving))
        elif served.dropped:
            self._drop(served)
        elif served.session is not None and not served.session.closed:  # which it is when this server was told to stop
            self.loop.add(served.session)

    def _ready(self, served: Served, take_over: bool) -> None:
        if served.ended:
            return
        served.ready = True
        how = "takes over" if take_over else "serves"
        # before it is said: who hears that asks the holder
        self._link.send(Ready(served.volume.volume_id, served.serving))
        if take_over:
            self._provider.taken_over(served.volume.volume_id)
        log.info("%s volume %s at %s", how, served.volume.volume_id, served.volume.mountpoint)

    def _drop(self, served: Served) -> None:
        """Stop serving a volume, on the loop's thread."""
        served.dropped = True
        if not served.opened:
            return  # it is being opened, or waits to be; `_opened` or `_begin` comes back to it
        if served.session is not None:
            self.loop.remove(served.session)
            served.session.close()
        self._forget(served)

    def _gone(self, session: Session) -> None:
        for served in list(self._volumes.values()):
            if served.session is session:
                self._forget(served)
                self._link.send(Ended(served.volume.volume_id, served.serving))

    def _forget(self, served: Served) -> None:
        volume_id, service = served.volume.volume_id, served.service
        if served.ended:
            return
        served.ended = True
        with self._lock:
            if self._volumes.get(volume_id) is served:
                del self._volumes[volume_id]

        def end() -> None:
            try:
                if service is not None:
                    service.close()
                self._provider.ended(volume_id)
                log.info("volume %s is served no more", volume_id)
            finally:
                if served.then is not None:
                    self.loop.post(served.then)

        self._opening.submit(end)
        if not self._link.up:
            self._alone()
