"""A server that is killed or replaced, and another that takes its mount over: no client notices."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resultsfs import syscalls
from resultsfs.kernel.protocol import InitFlag, Opcode
from tests.support.takeover import WAYS, TakenOver, taken_over
from tests.support.waiting import eventually

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root")]
BIG = os.urandom(300_000)


@pytest.fixture(params=list(WAYS))
def mount(request: pytest.FixtureRequest) -> Iterator[TakenOver]:
    """A volume, for each way in which content travels."""
    with taken_over(way=request.param) as found:
        yield found


@pytest.fixture
def plain() -> Iterator[TakenOver]:
    """A volume for what does not depend on how content travels."""
    with taken_over() as found:
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


# -- requests that the server had in hand ---------------------------------------------------------------------


def _appends(path: Path) -> None:
    with open(path / "there", "ab", buffering=0) as file:
        file.write(b"once")


def _exchanges(path: Path) -> None:
    directory = os.open(path, os.O_PATH)
    try:
        syscalls.renameat2(directory, "there", directory, "other", syscalls.EXCHANGE)
    finally:
        os.close(directory)


def _does_not_replace(path: Path) -> None:
    directory = os.open(path, os.O_PATH)
    try:
        syscalls.renameat2(directory, "there", directory, "new", syscalls.NOREPLACE)
    finally:
        os.close(directory)


def _copies(path: Path) -> None:
    with open(path / "there", "rb") as source, open(path / "new", "wb") as target:
        os.copy_file_range(source.fileno(), target.fileno(), 5, 0, 0)


def _reserves(path: Path) -> None:
    with open(path / "there", "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 100)


IN_HAND: dict[str, tuple[Opcode, Callable[[Path], object]]] = {
    "mkdir": (Opcode.MKDIR, lambda path: os.mkdir(path / "new", 0o750)),
    "create": (
        Opcode.CREATE,
        lambda path: os.close(os.open(path / "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o400)),
    ),
    "open": (Opcode.OPEN, lambda path: os.close(os.open(path / "there", os.O_WRONLY | os.O_TRUNC))),
    "symlink": (Opcode.SYMLINK, lambda path: os.symlink("target", path / "new")),
    "link": (Opcode.LINK, lambda path: os.link(path / "there", path / "new")),
    "fifo": (Opcode.MKNOD, lambda path: os.mkfifo(path / "new")),
    "unlink": (Opcode.UNLINK, lambda path: os.unlink(path / "there")),
    "rmdir": (Opcode.RMDIR, lambda path: os.rmdir(path / "directory")),
    "rename": (Opcode.RENAME, lambda path: os.rename(path / "there", path / "new")),
    "rename over": (Opcode.RENAME, lambda path: os.rename(path / "there", path / "other")),
    "exchange": (Opcode.RENAME2, _exchanges),
    "no replace": (Opcode.RENAME2, _does_not_replace),
    "append": (Opcode.WRITE, _appends),
    "chmod": (Opcode.SETATTR, lambda path: os.chmod(path / "there", 0o604)),
    "truncate": (Opcode.SETATTR, lambda path: os.truncate(path / "there", 3)),
    "set attribute": (Opcode.SETXATTR, lambda path: os.setxattr(path / "there", "user.a", b"v", os.XATTR_CREATE)),
    "remove attribute": (Opcode.REMOVEXATTR, lambda path: os.removexattr(path / "there", "user.b")),
    "copy": (Opcode.COPY_FILE_RANGE, _copies),
    "reserve": (Opcode.FALLOCATE, _reserves),
    "list": (Opcode.READDIRPLUS, os.listdir),
    "close": (Opcode.RELEASE, lambda path: (path / "there").read_bytes()),
}


def _picture(path: Path) -> object:
    """All that a step can see of a tree."""
    found = {}
    for name in sorted(os.listdir(path)):
        here = path / name
        status = here.lstat()
        content = here.read_bytes() if stat.S_ISREG(status.st_mode) else None
        attributes = (
            {key: os.getxattr(here, key) for key in os.listxattr(here, follow_symlinks=False)}
            if content is not None
            else {}
        )
        found[name] = (status.st_mode, status.st_uid, status.st_nlink, status.st_size, content, attributes)
    return found


def _furnish(path: Path) -> None:
    (path / "there").write_bytes(b"content")
    (path / "other").write_bytes(b"other")
    (path / "directory").mkdir()
    os.setxattr(path / "there", "user.b", b"v")


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_was_in_hand_is_done_once(when: str) -> None:
    """Each request that changes something is done exactly once, with the disk's outcome, whether the server was killed
    before it was carried out, or after that and before the answer."""
    with taken_over(way="plain") as mount:
        for name, (opcode, act) in IN_HAND.items():
            here, disk = mount.path / name, mount.outside / name
            for place in (here, disk):
                place.mkdir()
                _furnish(place)
            act(disk)
            with mount.dying(opcode, when):
                act(here)
            assert _picture(here) == _picture(disk), name
            mount.succeed()
            assert _picture(here) == _picture(disk), name
        eventually(lambda: mount.handles() == 0)


@pytest.mark.parametrize("when", ["before", "after"])
def test_open_files_that_go_while_the_server_dies(plain: TakenOver, when: str) -> None:
    """A file that is open is unlinked, or replaced, in that moment: its handle stays, and nothing is left of it."""
    for act in (os.unlink, lambda path: os.rename(plain.path / "other", path)):
        (plain.path / "there").write_bytes(b"content")
        (plain.path / "other").write_bytes(b"other")
        with open(plain.path / "there", "r+b", buffering=0) as file:
            with plain.dying(Opcode.UNLINK if act is os.unlink else Opcode.RENAME, when):
                act(plain.path / "there")
            file.write(b"C")
            assert os.pread(file.fileno(), 10, 0) == b"Content"
            assert os.fstat(file.fileno()).st_nlink == 0
        eventually(lambda: os.listdir(plain.spool / "hidden") == [])
        assert act is not os.unlink or not (plain.path / "there").exists()


def test_an_opener_that_is_killed_too_leaves_nothing(plain: TakenOver) -> None:
    """A file that was opened for somebody who is killed before the next server answers does not stay open for ever."""
    (plain.path / "f").write_bytes(b"x")
    with subprocess.Popen(["cat", str(plain.path / "f")], stdout=subprocess.DEVNULL) as reader:
        reader.wait()
    (plain.directory / "die").write_text(f"{int(Opcode.OPEN)} after")
    with subprocess.Popen(["cat", str(plain.path / "f")], stdout=subprocess.DEVNULL) as reader:
        assert plain.told("died", "ended") == "ended -9"
        reader.kill()
        plain.start()
        reader.wait(30)
    eventually(lambda: plain.handles() == 0)


# -- collectors and references --------------------------------------------------------------------------------


HALF = """
import os, sys
file = os.open("report", os.O_RDONLY)
size = os.fstat(file).st_size
part = os.pread(file, 20, 0)
print(size, flush=True)
sys.stdin.readline()
again = open("report", "rb").read()
rest = os.pread(file, 1000, 20)
os.close(file)
print((part + rest).decode(), again == part + rest, os.stat("report").st_size == size, flush=True)
"""


@pytest.mark.parametrize("content", [BIG, b"small and inline, but longer than twenty bytes"], ids=["spilled", "inline"])
@pytest.mark.parametrize("planned", [False, True], ids=["killed", "replaced"])
def test_a_collector_goes_on(plain: TakenOver, content: bytes, planned: bool) -> None:
    """A collector that has read half of a publication reads the rest of the very same, though the file has changed."""
    (plain.path / "report").write_bytes(content)
    with plain.collector(HALF) as collector:
        assert collector.stdout is not None
        assert collector.stdin is not None
        size = int(collector.stdout.readline())
        (plain.path / "report").write_bytes(b"changed meanwhile")
        plain.succeed(planned=planned)
        plain.succeed(planned=planned)
        collector.stdin.write(b"\n")
        collector.stdin.flush()
        text, again, same_size = collector.stdout.readline().rsplit(b" ", 2)
        assert (again, same_size.strip(), len(text)) == (b"True", b"True", size)
    shown = content if size == len(content) else (plain.path / ".ref" / text.decode().rpartition("/")[2]).read_bytes()
    assert shown == content
    assert (plain.path / "report").read_bytes() == b"changed meanwhile"


def test_what_a_collector_has_not_opened_yet_is_frozen_too() -> None:
    """Results that a collector opens after the take-over are what they were at its first open; a later collector finds
    only what is new."""
    script = (
        "import sys\nprint(open('a').read(), flush=True)\nsys.stdin.readline()\nprint(open('b').read(), flush=True)"
    )
    with taken_over(results=("a", "b")) as mount:
        (mount.path / "a").write_text("first a")
        (mount.path / "b").write_text("first b")
        with mount.collector(script) as collector:
            assert collector.stdout is not None
            assert collector.stdin is not None
            assert collector.stdout.readline() == b"first a\n"
            (mount.path / "b").write_text("second b")
            mount.succeed()
            collector.stdin.write(b"\n")
            collector.stdin.flush()
            assert collector.stdout.readline() == b"first b\n"
        assert mount.collect("a", "b").stdout == b"second b"


def test_a_waiting_collector_goes_on_waiting(tmp_path: Path) -> None:
    """A collector that waits for a store that is away gets its reference from another server, when the store is back."""
    store = tmp_path / "store"
    store.write_text("in the way")
    with taken_over(settings={"store": f"file://{store}/inner", "spill-deadline": "1h"}) as mount:
        (mount.path / "report").write_bytes(BIG)
        with subprocess.Popen([mount.cat, mount.path / "report"], stdout=subprocess.PIPE) as collector:
            try:
                eventually(lambda: any((mount.spool / "session" / "collections").glob("*.json")))
                mount.succeed()
                mount.succeed(planned=True)
                store.unlink()
                assert collector.stdout is not None
                reference = collector.stdout.read().decode()
                assert collector.wait(30) == 0
            finally:
                collector.kill()
        assert (mount.path / ".ref" / reference.rpartition("/")[2]).read_bytes() == BIG


@pytest.mark.parametrize("gone", ["unlinked", "replaced"])
def test_what_a_collector_waits_for_may_lose_its_name(tmp_path: Path, gone: str) -> None:
    """A result that is unlinked or replaced while its collector waits, and then the server dies, is published."""
    store = tmp_path / "store"
    store.write_text("in the way")
    with taken_over(settings={"store": f"file://{store}/inner", "spill-deadline": "1h"}) as mount:
        (mount.path / "report").write_bytes(BIG)
        with subprocess.Popen([mount.cat, mount.path / "report"], stdout=subprocess.PIPE) as collector:
            try:
                eventually(lambda: any((mount.spool / "session" / "collections").glob("*.json")))
                mount.succeed()
                if gone == "unlinked":
                    os.unlink(mount.path / "report")
                else:
                    (mount.path / "aside").write_bytes(b"another")
                    os.rename(mount.path / "aside", mount.path / "report")
                mount.succeed()
                mount.succeed()
                store.unlink()
                assert collector.stdout is not None
                reference = collector.stdout.read().decode()
                assert collector.wait(30) == 0
            finally:
                collector.kill()
        assert (mount.path / ".ref" / reference.rpartition("/")[2]).read_bytes() == BIG
        eventually(lambda: os.listdir(mount.spool / "session" / "held") == [])


def test_a_collector_that_writes(plain: TakenOver) -> None:
    """A collector that is about to change the result, while the server dies, changes the file."""
    (plain.path / "report").write_bytes(b"before")
    script = "import os; os.stat('report'); open('report', 'w').write('after')"
    for _ in range(2):
        with plain.dying(Opcode.OPEN, "after"), plain.collector(script) as collector:
            assert collector.stderr is not None
            assert collector.stderr.read() == b""
            assert collector.wait(30) == 0
    assert (plain.path / "report").read_bytes() == b"after"


def test_readers_of_references_go_on(plain: TakenOver) -> None:
    """Content by reference is read on where it was, and opened by a name that was looked up before."""
    (plain.path / "report").write_bytes(BIG)
    reference = plain.path / ".ref" / plain.collect("report").stdout.decode().rpartition("/")[2]
    with open(reference, "rb", buffering=0) as file:
        assert file.read(1000) == BIG[:1000]
        directory = os.open(plain.path / ".ref", os.O_RDONLY)
        try:
            plain.succeed()
            assert file.read(1 << 20) + file.read() == BIG[1000:]
            assert reference.read_bytes() == BIG
            assert os.stat(reference.name, dir_fd=directory).st_size == len(BIG)
            assert os.listdir(directory) == []
        finally:
            os.close(directory)
    eventually(lambda: plain.handles() == 0)


def test_the_first_reference_may_be_read_from_another_server(plain: TakenOver) -> None:
    """`.ref` that was looked up before leads to content that nobody has asked for yet."""
    (plain.path / "report").write_bytes(BIG)
    reference = plain.path / ".ref" / plain.collect("report").stdout.decode().rpartition("/")[2]
    assert (plain.path / ".ref").is_dir()
    plain.succeed()
    assert reference.read_bytes() == BIG


def test_uploads_go_on(plain: TakenOver) -> None:
    """What was closed before the kill is uploaded by the next server, with nobody asking."""
    with open(plain.path / "report", "wb", buffering=0) as file:
        file.write(BIG)
        plain.succeed()
    eventually(lambda: b"stored" in (plain.spool / "journal.jsonl").read_bytes())


# -- limits, and the end --------------------------------------------------------------------------------------


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


def test_locks_outlive_the_server(plain: TakenOver) -> None:
    """A lock that is held stays held."""
    with open(plain.path / "f", "wb") as one, open(plain.path / "f", "rb") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        plain.succeed()
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_client_can_be_killed_while_there_is_no_server(plain: TakenOver) -> None:
    """Who is killed while nobody serves is gone when the next server is there."""
    (plain.path / "f").write_bytes(b"x")
    plain.kill()
    with subprocess.Popen(["touch", str(plain.path / "new")]) as client:
        client.kill()
        plain.start()
        assert client.wait(30) == -9
    assert (plain.path / "f").read_bytes() == b"x"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_server_that_dies_at_the_very_beginning(when: str) -> None:
    """A server that is killed over INIT, answered or not, is followed by one that serves."""
    with taken_over(dies=f"{int(Opcode.INIT)} {when}") as mount:
        (mount.path / "f").write_bytes(b"x")
        mount.succeed()
        assert (mount.path / "f").read_bytes() == b"x"


def test_a_kernel_that_cannot_ask_again_is_refused() -> None:
    """Before Linux 6.9 a mount whose server was killed ends: who waits gets ECONNABORTED, and nobody hangs."""
    with taken_over(without=InitFlag.HAS_RESEND) as mount:
        (mount.path / "f").write_bytes(b"x")
        errors: list[int | None] = []

        def make() -> None:
            try:
                os.mkdir(mount.path / "new")
            except OSError as error:
                errors.append(error.errno)

        (mount.directory / "die").write_text(f"{int(Opcode.MKDIR)} after")
        client = threading.Thread(target=make)
        client.start()
        assert mount.told("died", "ended") == "ended -9"
        assert "6.9" in mount.refused()
        client.join(30)
        assert errors == [errno.ECONNABORTED]
        with pytest.raises(OSError) as caught:
            os.listdir(mount.path)
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)


def test_a_planned_change_needs_no_asking_again() -> None:
    """Where nothing is in hand, a server is replaced on older kernels too."""
    with (
        taken_over(way="plain", without=InitFlag.HAS_RESEND) as mount,
        open(mount.path / "f", "wb", buffering=0) as file,
    ):
        file.write(b"one")
        mount.succeed(planned=True)
        file.write(b"two")
        assert (mount.path / "f").read_bytes() == b"onetwo"
