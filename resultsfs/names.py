"""File operations on names: making, removing, renaming, linking, listing."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from resultsfs import paths
from resultsfs.hidden import is_hidden_name
from resultsfs.reference import REF_DIR
from resultsfs.refs import is_ref_path
from resultsfs.syscalls import EXCHANGE, NOREPLACE, renameat2
from resultsfs.tree import SET_ID, Tree, refusal


class Names(Tree):
    """The operations on names."""

    # With `again` a server that died may have made the thing: what is there already is then taken for that.

    def mknod(self, path: str, mode: int, dev: int, *, again: bool = False) -> None:
        """Make a regular file, FIFO or socket. Device nodes are refused with EPERM."""
        kind = stat.S_IFMT(mode)
        if kind not in (0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK):
            raise refusal(errno.EPERM, path)
        self._may_make(again=again)
        with self._at(path, make=True) as (directory, name):
            try:
                os.mknod(name, mode, 0, dir_fd=directory)
                self._nodes.made()
            except FileExistsError:
                if not again or not _is_new(directory, name, kind or stat.S_IFREG):
                    raise
            self._give_to_caller(directory, name, mode)

    def mkdir(self, path: str, mode: int, *, again: bool = False) -> None:
        """Make a directory."""
        if path == f"/{REF_DIR}":
            raise refusal(errno.EEXIST, path)
        self._may_make(again=again)
        with self._at(path, make=True) as (directory, name):
            try:
                os.mkdir(name, mode, dir_fd=directory)
                self._nodes.made()
            except FileExistsError:
                if not again or not _is_new(directory, name, stat.S_IFDIR):
                    raise
            self._give_to_caller(directory, name, 0)

    def symlink(self, path: str, target: str, *, again: bool = False) -> None:
        """Make a symbolic link; whoever follows it does so in their own container."""
        self._may_make(again=again)
        with self._at(path, make=True) as (directory, name):
            try:
                os.symlink(target, name, dir_fd=directory)
                self._nodes.made()
            except FileExistsError:
                if not again or not _is_new(directory, name, stat.S_IFLNK):
                    raise
                if os.readlink(name, dir_fd=directory) != target:
                    raise
            self._give_to_caller(directory, name, 0)

    def _give_to_caller(self, directory: int, name: str, mode: int) -> None:
        """What was made belongs to the caller, its group to the directory's where that is set-group-id."""
        owner = self._owner(directory)
        if owner != self._own:
            os.chown(name, *owner, dir_fd=directory, follow_symlinks=False)
            if mode & SET_ID:
                with paths.pinned(directory, name) as pinned:
                    os.chmod(pinned, stat.S_IMODE(mode))

    def readlink(self, path: str) -> str:
        """A symbolic link's text."""
        with self._at(path) as (directory, name):
            return os.readlink(name, dir_fd=directory)

    def unlink(self, path: str) -> None:
        """Remove a name. What a collector has published, or is about to, stays published."""
        with self._at(path, write=True) as (directory, name):
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            self._volume.hold_awaited(directory, name, found.st_ino)
            os.unlink(name, dir_fd=directory)
        if is_hidden_name(name):
            self._hidden.remove(name)
        else:
            self._nodes.made(-1)
        self._name_gone(found)

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        with self._at(path, write=True) as (directory, name):
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            os.rmdir(name, dir_fd=directory)
        self._nodes.made(-1)
        self._hidden.directory_gone(found.st_ino)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        """Rename, replacing what is there. A result that is renamed away is gone; one renamed to is written.

        `flags` are renameat2's NOREPLACE and EXCHANGE; others are refused with EINVAL.
        """
        if flags:
            self._rename_specially(old, new, flags)
            return
        with self._at(old, write=True) as (source, before), self._at(new, write=True) as (target, after):
            moved = os.stat(before, dir_fd=source, follow_symlinks=False)
            if is_hidden_name(after):
                self._may_hide(moved, new)
            replaced = _stat_or_none(after, target)
            if replaced is not None:
                self._volume.hold_awaited(target, after, replaced.st_ino)
            os.rename(before, after, src_dir_fd=source, dst_dir_fd=target)
            parent = os.stat(".", dir_fd=source).st_ino
        if replaced is None or replaced.st_ino != moved.st_ino:  # else nothing has happened
            gone = is_hidden_name(after) or replaced is not None
            self._nodes.made(is_hidden_name(before) - gone)
        if is_hidden_name(before):
            self._hidden.remove(before)
        if is_hidden_name(after):
            self._hidden.add(after, moved.st_ino, parent)
        if replaced is not None and replaced.st_ino != moved.st_ino:
            self._name_gone(replaced)
            self._hidden.directory_gone(replaced.st_ino)
        self._volume.named(new[1:])

    def _rename_specially(self, old: str, new: str, flags: int) -> None:
        if flags not in (NOREPLACE, EXCHANGE):
            raise refusal(errno.EINVAL, old)
        with self._at(old, write=True) as (source, before), self._at(new, make=True) as (target, after):
            if is_hidden_name(before):
                raise refusal(errno.EPERM, old)
            renameat2(source, before, target, after, flags)
        self._volume.named(new[1:])
        if flags == EXCHANGE:
            self._volume.named(old[1:])

    def hide(self, path: str, hidden: str) -> None:
        """Give an open file a hidden name, under which it stays until its last user is gone, before `path` goes."""
        with self._at(path, write=True) as (directory, name):
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            target = self._volume.spool.hidden
            os.link(name, hidden, src_dir_fd=directory, dst_dir_fd=target, follow_symlinks=False)
            self._hidden.add(hidden, found.st_ino, 0)

    def _may_hide(self, found: os.stat_result, path: str) -> None:
        """Hiding is libfuse's, and it hides open files only. Raises OSError EPERM."""
        node = self._nodes.find(found.st_ino)
        if not stat.S_ISREG(found.st_mode) or node is None or node.handles == 0:
            raise refusal(errno.EPERM, path)

    def link(self, path: str, existing: str, *, again: bool = False) -> None:
        """Make a second name for a file."""
        self._may_make(again=again, inode=False)
        with self._at(existing, write=True) as (source, before), self._at(path, make=True) as (target, after):
            try:
                os.link(before, after, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
                self._nodes.made()
            except FileExistsError:
                if not again or _inode(source, before) != _inode(target, after):
                    raise
        self._volume.named(path[1:])

    # -- directories --------------------------------------------------------------------------------------

    def open_directory(self, path: str) -> int:
        """A readable descriptor of a directory, which the caller closes. Raises OSError."""
        reached = paths.walk(self._root, paths.components(path))
        try:
            return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=reached)
        finally:
            os.close(reached)

    @contextmanager
    def _directory(self, path: str) -> Iterator[int]:
        readable = self.open_directory(path)
        try:
            yield readable
        finally:
            os.close(readable)

    def readdir(self, path: str | None) -> Iterator[tuple[str, int, int]]:
        """Name, inode and file type of each entry; none where the directory is gone. `.ref` is not shown."""
        if path is None:
            return
        if is_ref_path(path):
            inode = self._references.getattr(path).st_ino
            yield ".", inode, stat.S_IFDIR
            yield "..", os.stat(".", dir_fd=self._root).st_ino, stat.S_IFDIR
            return
        with self._directory(path) as directory, os.scandir(directory) as entries:
            above = "." if path == "/" else ".."
            yield ".", os.stat(".", dir_fd=directory).st_ino, stat.S_IFDIR
            yield "..", os.stat(above, dir_fd=directory).st_ino, stat.S_IFDIR
            for entry in entries:
                yield entry.name, entry.inode(), _entry_type(entry)

    def fsyncdir(self, path: str | None, datasync: int) -> None:
        """Make a directory's entries durable."""
        if path is None or is_ref_path(path):
            return
        with self._directory(path) as directory:
            os.fsync(directory)


def _is_new(directory: int, name: str, kind: int) -> bool:
    """Whether something looks as if just made: of that kind, and empty."""
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if stat.S_IFMT(found.st_mode) != kind:
        return False
    return kind != stat.S_IFREG or found.st_size == 0


def _inode(directory: int, name: str) -> int:
    return os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino


def _stat_or_none(name: str, directory: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _entry_type(entry: os.DirEntry[str]) -> int:
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    if entry.is_file(follow_symlinks=False):
        return stat.S_IFREG
    try:
        return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return 0
