"""The kernel's writeback cache: small writes wait in the kernel and travel together, where files do not pass through.

A write has returned when the kernel has the bytes; the spool has them when close, fsync or `WriteBack` has returned.
So what a writer that is still open has written is fetched before a collector reads (see `Volume.settle`), and a write
that the spool refuses is told when the file is closed. Where room is short, writes go to the spool one by one, so that
each is refused on the spot.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

from resultsfs import mountinfo
from resultsfs.kernel import flush
from resultsfs.kernel.passthrough import EXACT_BELOW
from resultsfs.volume import Volume

OFF = "RESULTSFS_WRITEBACK"
"""`off` in the environment: writes go to the spool one by one."""
_POLL = 0.1  # seconds between looks at whether the mount is still served
T = TypeVar("T")


def reason_against(volume: Volume, mountpoint: str | None) -> str | None:
    """Why writes may not wait in the kernel; None when nothing speaks against it."""
    if os.environ.get(OFF) == "off":
        return f"switched off by {OFF}"
    if min(volume.settings.result_size_limit, volume.settings.volume_size_limit) < EXACT_BELOW:
        return "a limit below 1 GiB is to be exact"
    there = mountinfo.at(mountinfo.canonical(mountpoint)) if mountpoint is not None else None
    if there is None or not there.ours:
        return "the mount is not seen from here, so open files could not be fetched for a collector"
    return None


def has_room(volume: Volume) -> bool:
    """Whether limits and disk leave so much that the next writes will not be refused."""
    disk = os.fstatvfs(volume.spool.files)
    free = min(volume.settings.volume_size_limit - volume.nodes.total, disk.f_bavail * disk.f_frsize)
    return free >= EXACT_BELOW


class WriteBack:
    """Has the kernel write back open files of one mount.

    `find` tells a path below the mount from an inode number, on the thread that `post` runs things on.
    """

    def __init__(self, mountpoint: str, find: Callable[[int], str], post: Callable[[Callable[[], None]], None]) -> None:
        self._mountpoint = mountpoint
        self._find = find
        self._post = post
        self._closed = threading.Event()
        self.helpers: set[int] = set()
        """Pids of processes of ours, which are no collectors."""

    def __call__(self, inode: int) -> None:
        """Return when the spool has what had been written to a file when this was called.

        Raises OSError when the file has no name any more or cannot be opened, or the mount is no longer served.
        """
        path = self._asked(lambda: self._find(inode))
        command = [sys.executable, "-I", "-S", flush.__file__, self._mountpoint, str(inode)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/"
        )
        self.helpers.add(process.pid)  # before it is told what to open
        try:
            said = self._end_of(process, os.fsencode(path.lstrip("/")))
        finally:
            self.helpers.discard(process.pid)
        if process.returncode != 0:
            raise OSError(errno.EIO, said.decode(errors="replace").strip() or f"status {process.returncode}")

    def _asked(self, question: Callable[[], T]) -> T:
        """The answer from the loop's thread."""
        answers: list[T | OSError] = []
        done = threading.Event()

        def ask() -> None:
            try:
                answers.append(question())
            except OSError as error:
                answers.append(error)
            done.set()

        self._post(ask)
        while not done.wait(_POLL):
            self._check()
        if isinstance(answers[0], OSError):
            raise answers[0]
        return answers[0]

    def _end_of(self, process: subprocess.Popen[bytes], path: bytes) -> bytes:
        given: bytes | None = path
        while True:
            try:
                return process.communicate(given, timeout=_POLL)[1]
            except subprocess.TimeoutExpired:
                given = None
                try:
                    self._check()
                except OSError:
                    # whoever serves the mount next lets it end, or the mount's own end does
                    process.kill()
                    threading.Thread(target=process.communicate, name="ending", daemon=True).start()
                    raise

    def _check(self) -> None:
        if self._closed.is_set():
            raise OSError(errno.ENOTCONN, "the mount is no longer served")

    def close(self) -> None:
        """The mount is no longer served: let whoever waits go."""
        self._closed.set()
