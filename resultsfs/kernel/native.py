"""The native transport: speaks the FUSE protocol on `/dev/fuse` itself, with no library in between. Linux 5.4 on."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Collection
from types import FrameType

from resultsfs import allocator
from resultsfs import mountpoint as mountpoints
from resultsfs.collector import Identify
from resultsfs.filesystem import ResultsFilesystem
from resultsfs.kernel.files import FileRequests
from resultsfs.kernel.loop import Loop
from resultsfs.kernel.request import caller
from resultsfs.kernel.session import Session
from resultsfs.limits import raise_descriptors

log = logging.getLogger(__name__)

__all__ = ["caller", "serve"]


def serve(
    filesystem: ResultsFilesystem,
    identify: Identify,
    results: Collection[str],
    mountpoint: str,
    ready: Callable[[], None],
    *,
    allow_other: bool,
) -> None:
    """Mount and serve until unmounted or told to end (SIGTERM, SIGINT, SIGHUP); must be the main thread.

    `ready` is called when the mount answers. Raises NotSupported when mounting fails, with what to do.
    """
    os.umask(0)
    raise_descriptors()
    allocator.share()
    loop = Loop()
    descriptor = mountpoints.attach(mountpoint, allow_other=allow_other)
    requests = FileRequests(filesystem, identify, results)
    loop.add(Session(descriptor, requests, loop.post, ready, mountpoint=mountpoint))

    def detach() -> None:
        try:
            mountpoints.detach(mountpoint)
        except OSError:
            log.exception("%s was not unmounted", mountpoint)
        loop.post(loop.stop)

    def end(number: int, frame: FrameType | None) -> None:
        # on a thread of its own: unmounting writes back what is left, which this thread must serve
        threading.Thread(target=detach, name="unmounting", daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    loop.run()
