"""What the mount adds to the disk's names: `.ref`, the root, names that libfuse keeps for itself."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

import pytest

from tests.support.mount import Mount


def _fails(code: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno == code, caught.value


def test_root_is_everyones(mount: Mount) -> None:
    """The root directory has mode 0777, also after a restart, and `..` leads out of the mount."""
    assert stat.S_IMODE(mount.path.stat().st_mode) == 0o777
    os.chmod(mount.path, 0o700)
    mount.restart()
    assert stat.S_IMODE(mount.path.stat().st_mode) == 0o777
    assert (mount.path / "..").stat().st_ino == mount.directory.stat().st_ino


def test_ref_is_there_but_not_listed(shared_mount: Mount) -> None:
    """`.ref` is a read-only directory that no listing of its parent shows; it lists nothing itself."""
    ref = shared_mount.path / ".ref"
    assert stat.S_IMODE(ref.stat().st_mode) == 0o555
    assert ".ref" not in os.listdir(shared_mount.path)
    assert os.listdir(ref) == []


def test_nothing_is_made_in_ref(shared_mount: Mount) -> None:
    """Making, renaming and linking into `.ref`, and removing or moving `.ref` itself, are refused."""
    ref = shared_mount.path / ".ref"
    own = shared_mount.path / "own"
    own.write_bytes(b"x")
    refused = (errno.EROFS, errno.EACCES)
    attempts: list[Callable[[], object]] = [
        lambda: (ref / "f").touch(),
        lambda: (ref / "d").mkdir(),
        lambda: (ref / "s").symlink_to("x"),
        lambda: os.mkfifo(ref / "p"),
        lambda: os.link(own, ref / "l"),
        lambda: os.rename(own, ref / "r"),
        lambda: os.chmod(ref, 0o777),
        lambda: os.chown(ref, 1, 1),
        lambda: os.utime(ref),
        lambda: os.setxattr(ref, "user.x", b"y"),
        lambda: os.rmdir(ref),
        lambda: os.rename(ref, shared_mount.path / "moved"),
    ]
    for call in attempts:
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno in refused
    _fails(errno.EEXIST, lambda: os.mkdir(ref))
    with pytest.raises(OSError):
        os.rename(own, ref)
    assert own.read_bytes() == b"x"


def test_ref_has_no_other_names(shared_mount: Mount) -> None:
    """What is no reference is ENOENT below `.ref`, for stat and open."""
    for name in ("x", "a" * 66, ".", "..x"):
        path = shared_mount.path / ".ref" / name
        if name != ".":
            _fails(errno.ENOENT, lambda path=path: os.stat(path))  # type: ignore[misc]
            _fails(errno.ENOENT, lambda path=path: os.open(path, os.O_RDONLY))  # type: ignore[misc]


HIDDEN = ".fuse_hidden00000000deadbeef"


def test_hidden_names_are_not_for_users(shared_mount: Mount) -> None:
    """Names that libfuse gives to unlinked open files cannot be made, linked or renamed to: EPERM."""
    own = shared_mount.path / "mine"
    own.write_bytes(b"kept")
    hidden = shared_mount.path / HIDDEN
    for call in (
        hidden.touch,
        hidden.mkdir,
        lambda: hidden.symlink_to("x"),
        lambda: os.mkfifo(hidden),
        lambda: os.link(own, hidden),
        lambda: os.rename(own, hidden),
    ):
        _fails(errno.EPERM, call)
    assert own.read_bytes() == b"kept"
    assert not os.path.lexists(hidden)


def test_names_like_hidden_ones_are_ordinary(shared_mount: Mount) -> None:
    """A name that only resembles a hidden one is a name as any other."""
    for name in (".fuse_hidden", ".fuse_hidden00000000deadbee", ".fuse_hidden00000000DEADBEEF", "x" + HIDDEN):
        (shared_mount.path / name).write_bytes(b"x")
        assert name in os.listdir(shared_mount.path)
