"""What the holder keeps of each volume, and the records by which the next holder knows what should be mounted."""

from __future__ import annotations

import logging
import os
import select
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from resultsfs import mountinfo, mountpoint
from resultsfs.errors import InvalidMessage, MountError
from resultsfs.holder.messages import Mount, Volume, decode, encode

if TYPE_CHECKING:
    from resultsfs.holder.channel import Channel

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Held:
    """One volume.

    `descriptor` is None while it is being mounted, and when it is `lost` (a predecessor's) or `dead` (aborted).
    `given`: a server has had it; `initialised`: INIT was answered; `ready`: by who serves it now. `serving` is the
    number that this one was told, 0: none.
    """

    volume: Volume
    descriptor: int | None = None
    given: bool = False
    initialised: bool = False
    ready: bool = False
    lost: bool = False
    dead: bool = False
    leaving: bool = False
    server: Channel | None = None
    serving: int = 0
    waiting: list[Channel] = field(default_factory=list)
    """Clients that wait until the mount answers."""

    @property
    def state(self) -> str:
        """As `listed` says it."""
        if self.dead or self.lost:
            return "dead" if self.dead else "lost"
        if not self.initialised:
            return "mounting"
        return "served" if self.ready else "waiting"

    def is_meant(self, serving: int) -> bool:
        """Whether a server that says this number speaks of now, and not of an earlier mount; also where none is said."""
        return serving in (0, self.serving) or self.serving == 0

    @property
    def may_be_over(self) -> bool:
        """False if the kernel says that it has not closed the connection."""
        if self.descriptor is None:
            return True
        poll = select.poll()
        poll.register(self.descriptor, 0)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


class Records:
    """One small file a volume, in a directory. Raises OSError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _path(self, volume_id: str) -> Path:
        return self._directory / f"{volume_id}.json"

    def save(self, volume: Volume) -> None:
        """Keep a volume's record."""
        path = self._path(volume.volume_id)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(encode(Mount(volume)))
        partial.replace(path)

    def drop(self, volume_id: str) -> None:
        """Forget a volume. Idempotent."""
        self._path(volume_id).unlink(missing_ok=True)

    def load(self) -> list[Volume]:
        """The volumes that a predecessor kept and that are still mounted; the others are forgotten."""
        found = []
        table = mountinfo.mounts()
        for path in sorted(self._directory.glob("[!.]*.json")):
            try:
                message = decode(path.read_bytes())
                if not isinstance(message, Mount):
                    raise InvalidMessage(f"a message of type {message.name}")
            except InvalidMessage as error:
                log.error("%s is no record of a volume and is left alone: %s", path, error)  # noqa: TRY400
                continue
            there = mountinfo.at(mountinfo.canonical(message.volume.mountpoint), table)
            if there is not None and there.ours:
                found.append(message.volume)
            else:
                log.info("volume %s is not mounted any more", message.volume.volume_id)
                path.unlink()
        return found


def mounted_at(path: str) -> mountinfo.Mount | None:
    """What is mounted at a path, if it is ours; the path itself is not touched."""
    found = mountinfo.at(mountinfo.canonical(path))
    return found if found is not None and found.ours else None


def mount(volume: Volume, *, over: bool = False) -> int:
    """Mount a volume; the descriptor. May wait for the disk. Raises MountError, NotSupported.

    `over`: on top of a mount of ours, which may be dead and is not looked at.
    """
    if over:
        return mountpoint.attach(volume.mountpoint, allow_other=volume.allow_other)
    if mounted_at(volume.mountpoint) is not None:
        raise MountError(f"{volume.mountpoint} is mounted already: unmount it first", 16)
    if not os.path.isdir(volume.mountpoint):
        raise MountError(f"{volume.mountpoint} is no directory: make it first", 2)
    return mountpoint.attach(volume.mountpoint, allow_other=volume.allow_other)


def unmount(path: str, *, foreign: bool = False) -> int:
    """Take off all mounts of ours at a path, dead or alive; how many. `foreign`: those of others too. Raises MountError."""
    count = 0
    try:
        while mountpoint.detach(path, foreign=foreign):
            count += 1
    except OSError as error:
        raise MountError(f"{path} cannot be unmounted: {error.strerror}", error.errno) from None
    return count


def belongs(descriptor: int, volume: Volume) -> bool:
    """Whether a descriptor is that of the volume's mount, as far as the kernel tells."""
    there = mounted_at(volume.mountpoint)
    if there is None:
        return False
    number = mountpoint.connection_of(descriptor)
    return number is None or there.device == f"0:{number}"
