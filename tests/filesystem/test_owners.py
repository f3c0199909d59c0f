"""Owners, modes, times, extended attributes, on the disk and on the mount."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from resultsfs.syscalls import utimensat
from tests.support.mount import Mount
from tests.support.users import acting_as, needs_root

ALICE, BOB, GROUP = 61_001, 61_002, 61_100


def _fails(code: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno == code, caught.value


def _mode(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@needs_root
def test_things_belong_to_their_maker(place: Path) -> None:
    """Files, directories, links and FIFOs belong to the uid and gid that made them, with the mode asked for."""
    before = os.umask(0)
    try:
        with acting_as(ALICE, GROUP):
            os.close(os.open(place / "file", os.O_CREAT | os.O_WRONLY, 0o640))
            os.mkdir(place / "directory", 0o710)
            os.symlink("file", place / "link")
            os.mkfifo(place / "fifo", 0o604)
            os.mknod(place / "node", 0o4755)
            os.close(os.open(place / "setid", os.O_CREAT | os.O_WRONLY, 0o4711))
    finally:
        os.umask(before)
    for name in os.listdir(place):
        found = os.lstat(place / name)
        assert (found.st_uid, found.st_gid) == (ALICE, GROUP), name
    modes = {name: _mode(place / name) for name in ("file", "directory", "fifo", "node", "setid")}
    assert modes == {"file": 0o640, "directory": 0o710, "fifo": 0o604, "node": 0o4755, "setid": 0o4711}


@needs_root
def test_another_process_with_another_uid(place: Path) -> None:
    """A process of another user writes its own file, and neither reads nor removes what it may not."""
    secret = place / "secret"
    secret.write_bytes(b"x")
    secret.chmod(0o600)
    place.chmod(0o1777)
    script = "echo mine > own; cat secret; rm -f secret; mv secret x; chmod 777 secret"
    run = subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=place,
        env={"PATH": os.defpath, "LC_ALL": "C"},
        user=BOB,
        group=GROUP,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line.rpartition(": ")[2] for line in run.stderr.splitlines()] == [
        "Permission denied",
        *["Operation not permitted"] * 3,
    ]
    assert ((place / "own").stat().st_uid, (place / "own").stat().st_gid) == (BOB, GROUP)


@needs_root
def test_permissions_hold_between_users(place: Path) -> None:
    """Mode bits decide who reads, writes, searches and lists; only the owner changes mode and times."""
    with acting_as(ALICE):
        (place / "f").write_bytes(b"x")
        (place / "f").chmod(0o640)
        (place / "d").mkdir()
        (place / "d" / "inner").touch()
        (place / "d").chmod(0o711)
    with acting_as(BOB):
        _fails(errno.EACCES, lambda: (place / "f").read_bytes())
        _fails(errno.EACCES, lambda: os.truncate(place / "f", 0))
        _fails(errno.EPERM, lambda: (place / "f").chmod(0o666))
        _fails(errno.EPERM, lambda: os.utime(place / "f", (1, 1)))
        _fails(errno.EACCES, lambda: os.listdir(place / "d"))
        _fails(errno.EACCES, lambda: (place / "d" / "new").touch())
        assert (place / "d" / "inner").exists()
        _fails(errno.EPERM, lambda: os.chown(place / "f", BOB, -1))
    with acting_as(BOB, ALICE):  # in the file's group
        assert (place / "f").read_bytes() == b"x"
        _fails(errno.EACCES, lambda: os.open(place / "f", os.O_WRONLY))


@needs_root
def test_set_gid_directory_hands_its_group_on(place: Path) -> None:
    """What is made in a set-group-id directory has its group; a directory made there is set-group-id too."""
    shared = place / "shared"
    shared.mkdir()
    os.chown(shared, 0, GROUP)
    shared.chmod(0o2777)
    with acting_as(ALICE):
        (shared / "f").touch()
        (shared / "d").mkdir()
        (shared / "s").symlink_to("f")
    assert [os.lstat(shared / name).st_gid for name in ("f", "d", "s")] == [GROUP] * 3
    assert _mode(shared / "d") & stat.S_ISGID
    assert not _mode(shared / "f") & stat.S_ISGID


@needs_root
def test_sticky_directory_protects_others_files(place: Path) -> None:
    """In a sticky directory only a file's owner removes or renames it."""
    place.chmod(0o1777)
    with acting_as(ALICE):
        (place / "f").touch()
    with acting_as(BOB):
        _fails(errno.EPERM, lambda: os.unlink(place / "f"))
        _fails(errno.EPERM, lambda: os.rename(place / "f", place / "g"))
    with acting_as(ALICE):
        os.rename(place / "f", place / "g")
        os.unlink(place / "g")


@needs_root
@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND])
@pytest.mark.parametrize("late", [False, True], ids=["set before open", "set while open"])
def test_set_id_bits_fall_when_others_write(place: Path, flags: int, late: bool) -> None:
    """A write by someone without rights over the file clears its set-id bits, at their close at the latest."""
    file = place / "f"
    file.write_bytes(b"x" * 100)
    os.chown(file, ALICE, ALICE)
    file.chmod(0o777 if late else 0o6777)
    with acting_as(BOB):
        descriptor = os.open(file, flags)
    file.chmod(0o6777)
    with acting_as(BOB):
        try:
            os.write(descriptor, b"y")
        finally:
            os.close(descriptor)
    assert _mode(file) == 0o777


@needs_root
def test_set_id_bits_fall_when_others_truncate(place: Path) -> None:
    """So does a truncation."""
    file = place / "f"
    file.write_bytes(b"x" * 100)
    os.chown(file, ALICE, ALICE)
    file.chmod(0o6777)
    with acting_as(BOB):
        os.truncate(file, 10)
    assert _mode(file) == 0o777


@needs_root
def test_set_id_bits_stay_when_root_writes(place: Path) -> None:
    """Root's writes leave set-id bits alone, as on the disk."""
    file = place / "f"
    file.write_bytes(b"x")
    file.chmod(0o6755)
    with open(file, "ab", buffering=0) as handle:
        handle.write(b"y")
    assert _mode(file) == 0o6755


@needs_root
def test_chown_and_set_id_bits(place: Path) -> None:
    """chown sets owner and group, one alone too; it drops the set-id bits of a program, as the disk does."""
    file, data, directory = place / "program", place / "data", place / "directory"
    file.touch()
    file.chmod(0o6755)
    data.touch()
    data.chmod(0o2644)
    directory.mkdir()
    directory.chmod(0o2755)
    for path in (file, data, directory):
        os.chown(path, ALICE, -1)
        os.chown(path, -1, GROUP)
        assert (path.stat().st_uid, path.stat().st_gid) == (ALICE, GROUP)
    assert (_mode(file), _mode(directory)) == (0o755, 0o2755)
    assert _mode(data) == 0o2644
    os.symlink("nowhere", place / "link")
    os.lchown(place / "link", ALICE, GROUP)
    assert os.lstat(place / "link").st_uid == ALICE


@needs_root
def test_owner_may_give_to_own_group_only(place: Path) -> None:
    """An owner changes the group to one of his own, and gives nothing away."""
    file = place / "f"
    with acting_as(ALICE):
        file.touch()
    with acting_as(ALICE, GROUP):
        os.chown(file, -1, GROUP)
        _fails(errno.EPERM, lambda: os.chown(file, -1, GROUP + 1))
        _fails(errno.EPERM, lambda: os.chown(file, BOB, -1))
    assert file.stat().st_gid == GROUP


@pytest.mark.parametrize("mode", [0o000, 0o644, 0o755, 0o1777, 0o2755, 0o4755, 0o7777])
def test_modes_come_back(place: Path, mode: int) -> None:
    """chmod's twelve bits come back for files and directories."""
    (place / "f").touch()
    (place / "d").mkdir()
    for name in ("f", "d"):
        (place / name).chmod(mode)
        assert _mode(place / name) == mode


def test_times_in_nanoseconds(place: Path) -> None:
    """utimens keeps nanoseconds, also before 1970, for files, directories and links."""
    (place / "f").touch()
    (place / "d").mkdir()
    (place / "l").symlink_to("f")
    for name in ("f", "d", "l"):
        for times in ((1_234_567_890_123_456_789, 987_654_321_987_654_321), (-1, -1_500_000_000), (0, 0)):
            os.utime(place / name, ns=times, follow_symlinks=False)
            found = os.lstat(place / name)
            assert (found.st_atime_ns, found.st_mtime_ns) == times


def test_times_now_and_omitted(place: Path) -> None:
    """UTIME_NOW is the disk's own present, no later than the change time; UTIME_OMIT leaves a time as it is."""
    file = place / "f"
    file.touch()
    directory = os.open(place, os.O_RDONLY)
    try:
        utimensat(directory, "f", 111, 222)
        utimensat(directory, "f", None, 333)
        assert (file.stat().st_atime_ns, file.stat().st_mtime_ns) == (111, 333)
        utimensat(directory, "f", 444, "now")
    finally:
        os.close(directory)
    found = file.stat()
    assert found.st_atime_ns == 444
    assert 333 < found.st_mtime_ns <= found.st_ctime_ns


def test_writing_and_renaming_move_the_right_times(place: Path) -> None:
    """Writing moves mtime and ctime, chmod ctime alone, making a name the directory's."""
    file = place / "f"
    file.write_bytes(b"x")
    os.utime(file, ns=(10**18, 10**18))
    os.utime(place, ns=(10**18, 10**18))
    file.chmod(0o600)
    assert file.stat().st_mtime_ns == 10**18
    with open(file, "ab") as handle:
        handle.write(b"y")
    assert file.stat().st_mtime_ns > 10**18
    (place / "g").touch()
    assert place.stat().st_mtime_ns > 10**18


def test_user_attributes(place: Path) -> None:
    """user.* attributes are set, read, listed and removed, with the errors for what is there and what is not."""
    file = place / "f"
    file.touch()
    for value in (b"", b"v", bytes(range(256)) * 4):
        os.setxattr(file, "user.a", value)
        assert os.getxattr(file, "user.a") == value
    os.setxattr(file, "user.ü", b"2", os.XATTR_CREATE)
    assert sorted(os.listxattr(file)) == ["user.a", "user.ü"]
    _fails(errno.EEXIST, lambda: os.setxattr(file, "user.a", b"", os.XATTR_CREATE))
    _fails(errno.ENODATA, lambda: os.setxattr(file, "user.b", b"", os.XATTR_REPLACE))
    os.removexattr(file, "user.a")
    _fails(errno.ENODATA, lambda: os.getxattr(file, "user.a"))
    _fails(errno.ENODATA, lambda: os.removexattr(file, "user.a"))
    with open(file, "rb") as handle:
        os.setxattr(handle.fileno(), "user.c", b"3")
        assert os.getxattr(handle.fileno(), "user.c") == b"3"


@needs_root
def test_other_attributes_are_not_kept(shared_mount: Mount) -> None:
    """Attributes that give rights (security.*, trusted.*, system.*) are refused, and none are shown."""
    file = shared_mount.path / "attributes"
    file.touch()
    for name in ("security.capability", "trusted.x", "system.posix_acl_access"):
        with pytest.raises(OSError) as caught:
            os.setxattr(file, name, b"x")
        assert caught.value.errno in (errno.EOPNOTSUPP, errno.EINVAL)
    os.setxattr(shared_mount.spool / "files" / "attributes", "trusted.overlay", b"x")
    assert os.listxattr(file) == []
    _fails(errno.ENODATA, lambda: os.getxattr(file, "trusted.overlay"))


@needs_root
@pytest.mark.parametrize("who", ["root", "owner"])
def test_a_chown_that_changes_nobody_clears_set_id_bits(place: Path, who: str) -> None:
    """chown(2) with -1 for both ids drops set-id bits all the same, for root as for the owner."""
    (place / "f").touch()
    os.chown(place / "f", ALICE, ALICE)
    (place / "f").chmod(0o6777)
    with acting_as(0 if who == "root" else ALICE):
        os.chown(place / "f", -1, -1)
    assert _mode(place / "f") == 0o777


@needs_root
def test_reserving_blocks_clears_set_id_bits(place: Path) -> None:
    """fallocate(2) by others than root is a change of content."""
    (place / "f").touch()
    (place / "f").chmod(0o6777)
    with acting_as(BOB):
        descriptor = os.open(place / "f", os.O_RDWR)
        try:
            os.posix_fallocate(descriptor, 0, 100)
        finally:
            os.close(descriptor)
    assert _mode(place / "f") == 0o777


@needs_root
@pytest.mark.parametrize("mode", [0o6777, 0o4766])
def test_emptying_clears_set_id_bits(place: Path, mode: int) -> None:
    """O_TRUNC and truncate(2) by someone without rights over the file drop its set-id bits."""
    file = place / "f"
    for by_opening in (True, False):
        file.write_bytes(b"content")
        file.chmod(mode)
        with acting_as(BOB):
            if by_opening:
                os.close(os.open(file, os.O_WRONLY | os.O_TRUNC))
            else:
                os.truncate(file, 0)
        assert _mode(file) == mode & 0o777
