"""The tree of a volume's files, and what all file operations share: paths, callers, owners, errors."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from resultsfs.collector import Identify, groups
from resultsfs.errors import TooManyOpenFiles, VolumeFull
from resultsfs.handles import Handles
from resultsfs.hidden import Hidden, is_hidden_name
from resultsfs.limits import Descriptors
from resultsfs.paths import Place, parent_of
from resultsfs.refs import References, is_ref_path
from resultsfs.volume import Volume

SET_ID = stat.S_ISUID | stat.S_ISGID


class Caller(NamedTuple):
    """Who sent the request: ids as this process sees them; `pid` is a thread's."""

    uid: int
    gid: int
    pid: int


def refusal(code: int, path: str) -> OSError:
    """An error that answers the kernel with `code`."""
    return OSError(code, os.strerror(code), path)


class Concealed(FileNotFoundError):
    """What is there, but not for the collector that asks."""


class Tree:
    """A volume's files and who asks for them. `process` counts the open files of other volumes too."""

    def __init__(
        self,
        volume: Volume,
        references: References,
        identify: Identify,
        caller: Callable[[], Caller],
        process: Descriptors | None = None,
    ) -> None:
        self.volume = self._volume = volume
        self._nodes = volume.nodes
        self._references = references
        self._identify = identify
        self._caller = caller
        self._handles = Handles(volume.settings.volume_open_files, process or Descriptors())
        self._hidden = Hidden()
        self._root = volume.spool.files
        self._own = (os.geteuid(), os.getegid())

    def _at(self, path: str, *, write: bool = False, make: bool = False) -> Place:
        """The directory descriptor and name behind a path, for reading, for writing, or for making something.

        Raises OSError: EROFS for writing to `.ref`, EPERM for making a name that is libfuse's.
        """
        if is_ref_path(path):
            raise refusal(errno.EROFS if write or make else errno.ENOENT, path)
        name = path.rpartition("/")[2]
        if is_hidden_name(name):
            if make:
                raise refusal(errno.EPERM, path)
            return Place(self._volume.spool.hidden, name)
        return parent_of(self._root, path)

    def _may_open(self) -> None:
        """Raises TooManyOpenFiles, of which an Event tells. What a collector reads is never asked about."""
        try:
            self._handles.check()
        except TooManyOpenFiles as error:
            self._volume.report("TooManyOpenFiles", None, f"a file was not opened: {error}")
            raise

    def _may_make(self, *, again: bool = False, inode: bool = True) -> None:
        """Raises VolumeFull, of which an Event tells. With `again` what is to be made may be there, and counted."""
        if again:
            return
        try:
            self._nodes.may_make(inode=inode)
        except VolumeFull as error:
            self._volume.report(type(error).__name__, None, f"a file was not made: {error}", about="entries")
            raise

    def _owner(self, directory: int) -> tuple[int, int]:
        """Whose something made in a directory is: the caller's, its group the directory's where that is set-group-id."""
        caller = self._caller()
        parent = os.fstat(directory)
        return caller.uid, parent.st_gid if parent.st_mode & stat.S_ISGID else caller.gid

    def _name_gone(self, found: os.stat_result) -> None:
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            self._nodes.unlinked(found.st_ino)

    def _set_id_to_drop(self, found: os.stat_result) -> int:
        """The set-id bits that the kernel drops when the caller, who has no rights over the file, changes it."""
        caller = self._caller()
        member = caller.uid == 0 or found.st_gid == caller.gid or found.st_gid in groups(caller.pid)
        return stat.S_ISUID | (stat.S_ISGID if found.st_mode & stat.S_IXGRP or not member else 0)
