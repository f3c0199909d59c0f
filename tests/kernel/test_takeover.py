"""A server that is killed or replaced, and another that takes its mount over: what was open is as it was."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import subprocess
from collections.abc import Iterator

import pytest

from resultsfs.kernel.protocol import Opcode
from tests.support.backing import let_go
from tests.support.takeover import WAYS, TakenOver, taken_over
from tests.support.waiting import eventually

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root")]


@pytest.fixture(params=list(WAYS))
def mount(request: pytest.FixtureRequest) -> Iterator[TakenOver]:
    """A volume, for each way in which content travels."""
    with taken_over(way=request.param) as found:
        yield found


@pytest.mark.parametrize("planned", [False, True], ids=["killed", "replaced"])
def test_open_files_go_on(mount: TakenOver, planned: bool) -> None:
    """Files that are open for reading, writing and appending are read, written, measured, cut and closed as before."""
    for name in ("read", "write", "append", "both"):
        (mount.path / name).write_bytes(b"0123456789")
    flags = {"read": os.O_RDONLY, "write": os.O_WRONLY, "append": os.O_WRONLY | os.O_APPEND, "both": os.O_RDWR}
    opened = {name: os.open(mount.path / name, flag) for name, flag in flags.items()}
    try:
        for _ in range(3):
            mount.succeed(planned=planned)
            assert os.pread(opened["read"], 4, 3) == b"3456"
            assert os.pwrite(opened["write"], b"ab", 2) == 2
            assert os.write(opened["append"], b"+") == 1
            assert os.pwrite(opened["both"], b"xyz", 8) == 3
            assert os.fstat(opened["both"]).st_size == 11
            os.ftruncate(opened["both"], 9)
            os.fsync(opened["both"])
            assert (mount.path / "both").read_bytes() == b"01234567x"
    finally:
        for descriptor in opened.values():
            os.close(descriptor)
    assert (mount.path / "write").read_bytes() == b"01ab456789"
    assert (mount.path / "append").read_bytes() == b"0123456789+++"
    eventually(lambda: mount.handles() == 0)


def test_mappings_go_on(mount: TakenOver) -> None:
    """A shared mapping is read and written over two servers, also pages that were not touched before."""
    content = bytearray(os.urandom(1 << 20))
    (mount.path / "f").write_bytes(content)
    with open(mount.path / "f", "r+b", buffering=0) as file, mmap.mmap(file.fileno(), 0) as mapped:
        for at in (0, 500_000, 900_000):
            mapped[at : at + 5] = content[at : at + 5] = b"after"
            mount.succeed()
            assert mapped[at + 4096 : at + 8192] == content[at + 4096 : at + 8192]
        mapped.flush()
    assert (mount.path / "f").read_bytes() == content


def test_direct_io_goes_on(mount: TakenOver) -> None:
    """Reads and writes with O_DIRECT go on."""
    with mmap.mmap(-1, 8192) as block:
        block.write(b"d" * 8192)
        descriptor = os.open(mount.path / "f", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
        try:
            assert os.pwritev(descriptor, [block], 0) == 8192
            mount.succeed()
            assert os.pwritev(descriptor, [block], 8192) == 8192
            assert os.preadv(descriptor, [block], 4096) == 8192
        finally:
            os.close(descriptor)
    assert (mount.path / "f").read_bytes() == b"d" * 16384


def test_unlinked_open_files_live_on(mount: TakenOver) -> None:
    """A file without a name, also one whose directory is gone, is read and written until it is closed, and then gone."""
    (mount.path / "d").mkdir()
    with open(mount.path / "f", "w+b", buffering=0) as one, open(mount.path / "d" / "g", "w+b", buffering=0) as other:
        one.write(b"one")
        other.write(b"other")
        os.unlink(mount.path / "f")
        os.unlink(mount.path / "d" / "g")
        os.rmdir(mount.path / "d")
        mount.succeed()
        (mount.path / "f").write_bytes(b"another file of that name")
        mount.succeed()
        one.write(b"+")
        assert (os.pread(one.fileno(), 10, 0), os.pread(other.fileno(), 10, 0)) == (b"one+", b"other")
        assert (os.fstat(one.fileno()).st_nlink, os.fstat(one.fileno()).st_size) == (0, 4)
        assert os.listdir(mount.path) == ["f"]
    assert (mount.path / "f").read_bytes() == b"another file of that name"
    eventually(lambda: os.listdir(mount.spool / "hidden") == [])


def test_names_are_found_again(plain: TakenOver) -> None:
    """Files deep down, with two names, and in directories that are renamed after the take-over, are themselves."""
    path = plain.path
    for _ in range(30):
        path = path / ("d" * 200)  # beyond PATH_MAX in all
    script = (
        f"import os\nfor _ in range(30): os.mkdir('{'d' * 200}'); os.chdir('{'d' * 200}')\nopen('f', 'w').write('deep')"
    )
    subprocess.run(["python3", "-c", script], cwd=plain.path, check=True)
    (plain.path / "a" / "b").mkdir(parents=True)
    (plain.path / "a" / "b" / "f").write_bytes(b"content")
    os.link(plain.path / "a" / "b" / "f", plain.path / "other")
    directory = os.open(plain.path / "a" / "b", os.O_RDONLY)
    try:
        with open(plain.path / "a" / "b" / "f", "rb", buffering=0) as file:
            os.stat(plain.path / "other")
            plain.succeed()
            os.rename(plain.path / "a", plain.path / "z")
            assert os.stat("f", dir_fd=directory).st_size == 7
            os.unlink("f", dir_fd=directory)
            assert (plain.path / "other").read_bytes() == file.read() == b"content"
            assert os.fstat(file.fileno()).st_nlink == 1
            plain.succeed()
            os.unlink(plain.path / "other")
            assert os.pread(file.fileno(), 10, 0) == b"content"
    finally:
        os.close(directory)
    assert os.listdir(plain.path / "z" / "b") == []
    deep = f"import os\nfor _ in range(30): os.chdir('{'d' * 200}')\nprint(open('f').read())"
    done = subprocess.run(["python3", "-c", deep], cwd=plain.path, check=True, capture_output=True)
    assert done.stdout == b"deep\n"


def test_a_listing_goes_on(plain: TakenOver) -> None:
    """A directory that is being read shows each entry once, whatever server answers, and what came and went besides."""
    stays = {f"{'stays' * 10}-{number}" for number in range(3000)}
    for name in stays:
        os.mknod(plain.path / name)
    for number in range(500):
        os.mknod(plain.path / f"goes-{number}")
    seen: list[str] = []
    with os.scandir(plain.path) as entries:
        for turn in range(3):
            seen += [next(entries).name for _ in range(700)]
            plain.succeed()
            os.mknod(plain.path / f"comes-{turn}")
            os.unlink(plain.path / f"goes-{turn}")
        seen += [entry.name for entry in entries]
    assert len(seen) == len(set(seen))
    assert stays <= set(seen)
    assert set(seen) - stays <= {f"goes-{number}" for number in range(500)} | {f"comes-{turn}" for turn in range(3)}


def test_a_removed_directory_goes_on(plain: TakenOver) -> None:
    """A directory that was removed while it is open lists nothing, after the take-over too."""
    (plain.path / "d").mkdir()
    with os.scandir(plain.path / "d") as entries:
        os.rmdir(plain.path / "d")
        plain.succeed()
        assert list(entries) == []


def test_locks_outlive_the_server(plain: TakenOver) -> None:
    """A lock that is held stays held."""
    with open(plain.path / "f", "wb") as one, open(plain.path / "f", "rb") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        plain.succeed()
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_limit_that_was_exceeded_is_told_by_the_next_server() -> None:
    """A file that was cut to its limit before the kill is told to its writer at the close after it."""
    limit = 1 << 30
    with taken_over(settings={"result-size-limit": limit, "volume-size-limit": 2 * limit}) as mount:
        if "passthrough: yes" not in mount.log():
            pytest.skip("no passthrough here: " + mount.log())
        descriptor = os.open(mount.path / "f", os.O_CREAT | os.O_WRONLY)
        os.pwrite(descriptor, b"beyond", limit + 10)
        eventually(lambda: "ResultTooLarge" in mount.reasons())
        mount.succeed()
        with pytest.raises(OSError) as caught:
            os.close(descriptor)
        assert caught.value.errno == errno.EFBIG
        assert (mount.path / "f").stat().st_size == limit


@pytest.mark.parametrize("killed", ["once", "again and again"])
def test_no_file_stays_registered(killed: str) -> None:
    """A file that a server gave the kernel to pass through to, and had not noted yet when it was killed, is let go of by
    the next, also if that is killed at the same point; what is open stays registered."""
    with taken_over() as mount:
        if "passthrough: yes" not in mount.log():
            pytest.skip("no passthrough here: " + mount.log())
        for name in ("open", "other"):
            (mount.path / name).write_bytes(b"content")
        with open(mount.path / "open", "r+b", buffering=0):
            for _ in range(1 if killed == "once" else 5):
                with mount.dying(Opcode.OPEN, "backed"):
                    assert (mount.path / "other").read_bytes() == b"content"
            mount.succeed()
            with open(mount.path / "open", "rb") as again:
                assert again.read() == b"content"
        eventually(lambda: mount.handles() == 0)
        os.statvfs(mount.path)  # the server is done with the last release
        assert let_go(mount.keeper) == 0
