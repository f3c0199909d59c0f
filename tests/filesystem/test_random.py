"""Random operations on a mount and on a plain directory of the same disk: whatever one answers, so does the other."""

from __future__ import annotations

import mmap
import os
import shutil
import stat
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from resultsfs.syscalls import PUNCH_HOLE, fallocate
from tests.support.mount import Mount

NAMES = st.sampled_from(["a", "a", "b", "b", "d", "d/a", "d/a", "d/b", "e", "e/d"])
ACCESS = st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
EXTRA = st.one_of(
    st.sampled_from([0, 0, os.O_CREAT, os.O_CREAT, os.O_APPEND, os.O_CREAT | os.O_TRUNC, os.O_CREAT | os.O_EXCL]),
    st.sets(st.sampled_from([os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_NOFOLLOW, os.O_DIRECTORY])).map(sum),
)
OFFSETS = st.one_of(st.integers(0, 50), st.integers(4000, 4200), st.integers(131_000, 131_200))
DATA = st.one_of(st.binary(max_size=20), st.integers(1, 9).map(lambda number: bytes([48 + number]) * 4100 * number))


class Pair(list[int]):
    """One open file: its descriptors on the mount and on the disk."""


class Comparison(RuleBasedStateMachine):
    """The same operations on both sides; results, errors, contents and attributes must agree.

    Left out, since libfuse 2 answers otherwise (docs/semantics.md): reading through handles that were open when
    their file got a second name, renaming one name of a file over another that is open, and fstat of an
    unlinked file whose directory is gone.
    """

    def __init__(self, mount: Mount) -> None:
        super().__init__()
        name = uuid.uuid4().hex
        self.sides = [mount.path / name, mount.outside / name]
        self.handles: list[Pair] = []
        self.lost_directory = False
        self.made = 0
        for side in self.sides:
            side.mkdir()
            (side / "a").write_bytes(b"begin")
            (side / "d").mkdir()
            os.link(side / "a", side / "d" / "a")
        self.open("a", os.O_RDWR, 0, 0)
        self.open("d/a", os.O_RDONLY, 0, 0)

    def teardown(self) -> None:
        """Close and remove everything."""
        for pair in self.handles:
            for descriptor in pair:
                os.close(descriptor)
        for side in self.sides:
            shutil.rmtree(side)

    def both(self, call: Callable[[int, Path], Any]) -> Any:
        """Do the same on both sides; the result, or None for an error that both had."""
        answers: list[tuple[str, Any]] = []
        for index, side in enumerate(self.sides):
            try:
                answers.append(("returned", call(index, side)))
            except OSError as error:
                answers.append(("failed", error.errno))
        assert answers[0] == answers[1], f"mount: {answers[0]}, disk: {answers[1]}"
        return answers[0][1] if answers[0][0] == "returned" else None

    def pair(self, number: int) -> Pair:
        """One of the open files; one is opened when there is none."""
        if not self.handles:
            self.open("a", os.O_RDWR, os.O_CREAT, 0o644)
        if not self.handles:
            self.made += 1
            self.open(f"new-{self.made}", os.O_RDWR, os.O_CREAT, 0o644)
        return self.handles[number % len(self.handles)]

    def close_handles_of(self, name: str) -> None:
        """Close all handles of the file that has a name."""
        try:
            wanted = os.lstat(self.sides[1] / name).st_ino
        except OSError:
            return
        for pair in [pair for pair in self.handles if os.fstat(pair[1]).st_ino == wanted]:
            self.handles.remove(pair)
            for descriptor in pair:
                os.close(descriptor)

    # -- open files ---------------------------------------------------------------------------------------

    @rule(name=NAMES, access=ACCESS, extra=EXTRA, mode=st.sampled_from([0o644, 0o600, 0o400, 0o7777]))
    def open(self, name: str, access: int, extra: int, mode: int) -> None:
        """Open with any flags."""
        if extra & os.O_DIRECTORY:
            extra &= ~os.O_CREAT  # together they mean different things from kernel to kernel
        opened = Pair()

        def one(index: int, side: Path) -> bool:
            opened.append(os.open(side / name, access | extra, mode))
            return True

        try:
            worked = self.both(one)
        except AssertionError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        if worked and len(self.handles) < 12 and stat.S_ISREG(os.fstat(opened[1]).st_mode):
            self.handles.append(opened)
        else:
            for descriptor in opened:
                os.close(descriptor)

    @rule(number=st.integers(0, 11))
    def close(self, number: int) -> None:
        """Close a handle, when there are many."""
        if len(self.handles) < 4:
            return
        pair = self.pair(number)
        self.handles.remove(pair)
        for descriptor in pair:
            os.close(descriptor)

    @rule(number=st.integers(0, 11), offset=OFFSETS, size=st.sampled_from([1, 100, 5000, 300_000]))
    def pread(self, number: int, offset: int, size: int) -> None:
        """Read anywhere."""
        pair = self.pair(number)
        self.both(lambda index, _side: os.pread(pair[index], size, offset))

    @rule(number=st.integers(0, 11), offset=OFFSETS, data=DATA)
    def pwrite(self, number: int, offset: int, data: bytes) -> None:
        """Write anywhere; at the end where the handle appends."""
        pair = self.pair(number)
        self.both(lambda index, _side: os.pwrite(pair[index], data, offset))

    @rule(number=st.integers(0, 11), size=OFFSETS)
    def ftruncate(self, number: int, size: int) -> None:
        """Set the size through a handle."""
        pair = self.pair(number)
        self.both(lambda index, _side: os.ftruncate(pair[index], size))

    @rule(number=st.integers(0, 11), offset=OFFSETS, size=st.integers(1, 10_000), punch=st.booleans())
    def fallocate(self, number: int, offset: int, size: int, punch: bool) -> None:
        """Lengthen, or punch a hole."""
        mode = (PUNCH_HOLE | 1) if punch else 0
        pair = self.pair(number)
        self.both(lambda index, _side: fallocate(pair[index], mode, offset, size))

    @rule(number=st.integers(0, 11), other=st.integers(0, 11), size=st.integers(1, 10_000))
    def copy(self, number: int, other: int, size: int) -> None:
        """Copy between two handles inside the kernel, where they are of different files."""
        source, target = self.pair(number), self.pair(other)
        if os.fstat(source[1]).st_ino != os.fstat(target[1]).st_ino:
            self.both(lambda index, _side: os.copy_file_range(source[index], target[index], size, 0, 10))

    @rule(name=NAMES, data=st.binary(min_size=1, max_size=10))
    def map(self, name: str, data: bytes) -> None:
        """Write the beginning of a file through a shared mapping, where it has one name only."""

        def one(index: int, side: Path) -> int:
            with open(side / name, "r+b", buffering=0) as handle:
                size = os.fstat(handle.fileno()).st_size
                if size < len(data) or os.fstat(handle.fileno()).st_nlink > 1:
                    return size
                try:
                    with mmap.mmap(handle.fileno(), 0) as mapping:
                        mapping[: len(data)] = data
                except OSError:
                    handle.write(data)  # a second name is hidden, not gone
                return size

        self.both(one)

    @rule(number=st.integers(0, 11))
    def fstat(self, number: int) -> None:
        """Attributes of an open file."""
        pair = self.pair(number)
        if not self.lost_directory:
            self.both(lambda index, _side: _attributes(os.fstat(pair[index])))

    # -- names --------------------------------------------------------------------------------------------

    @rule(name=NAMES)
    def unlink(self, name: str) -> None:
        """Remove a file's name, open or not."""
        self.both(lambda _index, side: os.unlink(side / name))

    @rule(name=NAMES, mode=st.sampled_from([0o755, 0o700, 0o1777, 0o2755]))
    def mkdir(self, name: str, mode: int) -> None:
        """Make a directory."""
        self.both(lambda _index, side: os.mkdir(side / name, mode))

    @rule(name=NAMES)
    def rmdir(self, name: str) -> None:
        """Remove a directory."""

        def one(_index: int, side: Path) -> bool:
            os.rmdir(side / name)
            return True

        self.lost_directory = self.both(one) is True or self.lost_directory

    @rule(old=NAMES, new=NAMES)
    def rename(self, old: str, new: str) -> None:
        """Rename, also over open files and directories."""
        try:
            one, other = (os.lstat(self.sides[1] / name) for name in (old, new))
        except OSError:
            pass
        else:
            if old != new and one.st_ino == other.st_ino:
                self.close_handles_of(old)
            self.lost_directory = self.lost_directory or stat.S_ISDIR(other.st_mode)
        self.both(lambda _index, side: os.rename(side / old, side / new))

    @rule(old=NAMES, new=NAMES)
    def link(self, old: str, new: str) -> None:
        """Give a file a second name."""
        self.close_handles_of(old)
        self.both(lambda _index, side: os.link(side / old, side / new, follow_symlinks=False))
        self.open(old, os.O_RDWR, os.O_NOFOLLOW, 0)

    @rule(name=NAMES, text=st.sampled_from(["a", "d", "d/a", "../a", "nowhere"]))
    def symlink(self, name: str, text: str) -> None:
        """Make a symbolic link."""
        self.both(lambda _index, side: os.symlink(text, side / name))

    @rule(name=NAMES)
    def mkfifo(self, name: str) -> None:
        """Make what is no file; only listed and looked at here."""
        if name == "e/d":
            self.both(lambda _index, side: os.mknod(side / name, stat.S_IFSOCK | 0o600))

    # -- attributes ---------------------------------------------------------------------------------------

    @rule(name=NAMES, size=OFFSETS)
    def truncate(self, name: str, size: int) -> None:
        """Set the size by name."""
        self.both(lambda _index, side: os.truncate(side / name, size))

    @rule(name=NAMES, mode=st.sampled_from([0o000, 0o644, 0o755, 0o6755, 0o2644]))
    def chmod(self, name: str, mode: int) -> None:
        """Set the mode."""
        self.both(lambda _index, side: os.chmod(side / name, mode))

    @rule(name=NAMES, owner=st.sampled_from([(0, 0), (5, -1), (-1, 7), (5, 7)]))
    def chown(self, name: str, owner: tuple[int, int]) -> None:
        """Set owner and group."""
        if os.geteuid() == 0:
            self.both(lambda _index, side: os.chown(side / name, *owner, follow_symlinks=False))

    @rule(name=NAMES, times=st.tuples(st.integers(0, 2**60), st.integers(0, 2**60)))
    def utime(self, name: str, times: tuple[int, int]) -> None:
        """Set times, and see them."""

        def one(_index: int, side: Path) -> tuple[int, int]:
            os.utime(side / name, ns=times, follow_symlinks=False)
            found = os.lstat(side / name)
            return found.st_atime_ns, found.st_mtime_ns

        self.both(one)

    @rule(name=NAMES, key=st.sampled_from(["user.x", "user.y"]), value=st.binary(max_size=50))
    def setxattr(self, name: str, key: str, value: bytes) -> None:
        """Set an extended attribute."""
        self.both(lambda _index, side: os.setxattr(side / name, key, value))

    @rule(name=NAMES)
    def look(self, name: str) -> None:
        """Attributes, extended attributes and a link's text, by name."""
        self.both(lambda _index, side: _attributes(os.stat(side / name)))
        self.both(
            lambda _index, side: sorted((key, os.getxattr(side / name, key)) for key in os.listxattr(side / name))
        )
        self.both(lambda _index, side: os.readlink(side / name))

    @invariant()
    def same_trees(self) -> None:
        """Both trees have the same entries with the same attributes and contents."""
        assert _tree(self.sides[0]) == _tree(self.sides[1])


def _attributes(found: os.stat_result) -> tuple[int, ...]:
    size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    return found.st_mode, found.st_nlink, found.st_uid, found.st_gid, size


def _tree(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in sorted(os.listdir(directory)):
        path = directory / name
        attributes = os.lstat(path)
        content: Any = None
        if stat.S_ISDIR(attributes.st_mode):
            content = _tree(path)
        elif stat.S_ISLNK(attributes.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(attributes.st_mode):
            content = path.read_bytes() if os.geteuid() == 0 or attributes.st_mode & 0o400 else None
        found[name] = (_attributes(attributes), content)
    return found


def _compare(mount: Mount, examples: int, steps: int) -> None:
    class Here(Comparison):
        """On this mount."""

        def __init__(self) -> None:
            super().__init__(mount)

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(600)
def test_mount_answers_as_its_disk_does(shared_mount: Mount) -> None:
    """Random operations with handles kept open get the same answers from the mount as from its disk."""
    _compare(shared_mount, examples=60, steps=50)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_mount_answers_as_its_disk_does_for_long(shared_mount: Mount) -> None:
    """The same with many more and longer runs."""
    _compare(shared_mount, examples=300, steps=100)
