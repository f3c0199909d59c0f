"""File operations on attributes: stat, mode, owner, times, extended attributes."""

from __future__ import annotations

import errno
import os
import stat
from hashlib import blake2b

from resultsfs import paths
from resultsfs.collector import is_dying
from resultsfs.handles import FileHandle
from resultsfs.hidden import is_hidden_name
from resultsfs.record import Mode
from resultsfs.refs import is_ref_path
from resultsfs.syscalls import Time, name_to_handle, utimensat
from resultsfs.tree import SET_ID, Concealed, Tree, refusal


class Attributes(Tree):
    """The operations on attributes."""

    def getattr(self, path: str | None, fh: int | None = None) -> os.stat_result:
        """Attributes of a path, or of an open file (whose path is None when its directory is gone)."""
        handle = self._handles.get(fh) if fh is not None else None
        if isinstance(handle, FileHandle):
            return self._visible_links(path, os.fstat(handle.descriptor))
        if path is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        if path == "/":  # asked for with each walk of a path
            return os.fstat(self._root)
        if is_ref_path(path):
            pid = self._caller().pid
            return self._references.getattr(path, lambda: is_dying(pid))
        with self._at(path) as (directory, name):
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        kind = stat.S_IFMT(found.st_mode)
        if kind in (stat.S_IFIFO, stat.S_IFSOCK) or (kind == stat.S_IFDIR and self._kills_sidecar(path)):
            self._refuse_special(path)
        return self._visible_links(path, found)

    def inode(self, path: str) -> int:
        """The inode number behind a path. Raises OSError."""
        with self._at(path) as (directory, name):
            return os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino

    def lookup(self, path: str) -> tuple[os.stat_result, int]:
        """Attributes of a path, with a generation: 64 bits that no other file with this inode number has.

        It is made of the disk's own file handle, or 0 where the disk has none; below `.ref`, of the name.
        """
        found = self.getattr(path)
        if is_ref_path(path):
            return found, _digest(path.encode())
        with self._at(path) as (directory, name):
            return found, _generation(name_to_handle(directory, name))

    def generation(self, fh: int) -> int:
        """The generation of an open file. Raises OSError EBADF."""
        handle = self._handles.get(fh)
        if not isinstance(handle, FileHandle):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return _generation(name_to_handle(handle.descriptor, ""))

    def _visible_links(self, path: str | None, found: os.stat_result) -> os.stat_result:
        """Attributes without the hidden names among the links; libfuse itself takes one off a hidden file."""
        hidden = self._hidden.links(found.st_ino)
        if path is None or is_hidden_name(path.rpartition("/")[2]):
            hidden -= 1
        if hidden <= 0:
            return found
        values = list(found)
        values[stat.ST_NLINK] = found.st_nlink - hidden
        return os.stat_result(values, _details(found))

    def _kills_sidecar(self, path: str) -> bool:
        """Any error but ENOENT ends sidecarlogresults; the entrypoint fails the step visibly, as without us."""
        record = self._volume.record
        return record.mode is Mode.SIDECAR_LOGS and path[1:] in record.results

    def _refuse_special(self, path: str) -> None:
        """A collector that opened a FIFO would hang; it finds nothing, and an Event says why."""
        if self._identify(self._caller().pid) is not None:
            name = path[1:]
            self._volume.report("ResultNotAFile", name, f"result {name!r} is no regular file and is not collected")
            raise Concealed(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def chmod(self, path: str, mode: int) -> None:
        """Set permission bits; the kernel has checked that the caller may."""
        with self._at(path, write=True) as (directory, name), paths.pinned(directory, name) as pinned:
            os.chmod(pinned, mode & 0o7777)
            found = os.stat(pinned)
            if stat.S_ISREG(found.st_mode):
                self._nodes.get(found).setid_since = found.st_ctime_ns

    def chown(self, path: str, uid: int, gid: int, *, restore: bool = True) -> None:
        """Set owner and group. Set-id bits are put back where the kernel itself drops those that should go."""
        with self._at(path, write=True) as (directory, name), paths.pinned(directory, name) as pinned:
            before = os.stat(name, dir_fd=directory, follow_symlinks=False)
            os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
            if restore and stat.S_ISREG(before.st_mode) and before.st_mode & SET_ID:
                os.chmod(pinned, stat.S_IMODE(before.st_mode))

    def drop_set_id(self, path: str) -> None:
        """As the kernel does it when someone without rights over a file changes its content."""
        with self._at(path, write=True) as (directory, name), paths.pinned(directory, name) as pinned:
            found = os.stat(pinned)
            drop = self._set_id_to_drop(found)
            if stat.S_ISREG(found.st_mode) and found.st_mode & drop:
                os.chmod(pinned, stat.S_IMODE(found.st_mode) & ~drop)
                self._nodes.get(os.stat(pinned))

    def utimens(self, path: str, atime: Time, mtime: Time) -> None:
        """Set access and modification time."""
        with self._at(path, write=True) as (directory, name):
            utimensat(directory, name, atime, mtime)

    # -- extended attributes ------------------------------------------------------------------------------

    def getxattr(self, path: str, name: str) -> bytes:
        """A `user.` attribute; of other kinds there are none."""
        if not name.startswith("user.") or is_ref_path(path):
            raise refusal(errno.ENODATA, path)
        with self._at(path) as (directory, last), paths.pinned(directory, last) as pinned:
            return os.getxattr(pinned, name)

    def listxattr(self, path: str) -> list[str]:
        """The names of the `user.` attributes."""
        if is_ref_path(path):
            return []
        with self._at(path) as (directory, last), paths.pinned(directory, last) as pinned:
            return [name for name in os.listxattr(pinned) if name.startswith("user.")]

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        """Set a `user.` attribute; EOPNOTSUPP for other kinds."""
        _only_user(path, name)
        with self._at(path, write=True) as (directory, last), paths.pinned(directory, last) as pinned:
            os.setxattr(pinned, name, value, flags)

    def removexattr(self, path: str, name: str) -> None:
        """Remove a `user.` attribute; EOPNOTSUPP for other kinds."""
        _only_user(path, name)
        with self._at(path, write=True) as (directory, last), paths.pinned(directory, last) as pinned:
            os.removexattr(pinned, name)


def _generation(identity: bytes | None) -> int:
    return 0 if identity is None else _digest(identity)


def _digest(identity: bytes) -> int:
    return int.from_bytes(blake2b(identity, digest_size=8).digest(), "big")


def _only_user(path: str, name: str) -> None:
    if not name.startswith("user."):
        raise refusal(errno.EOPNOTSUPP, path)


def _details(found: os.stat_result) -> dict[str, int]:
    names = ("st_atime_ns", "st_mtime_ns", "st_ctime_ns", "st_blocks", "st_blksize", "st_rdev")
    return {name: getattr(found, name) for name in names}
