"""What steps may try against the daemon, which works with root's rights on files that they shape."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from resultsfs.reference import RESULTS_DIR, Reference
from tests.support.mount import Mount, mounted
from tests.support.users import acting_as, needs_root
from tests.support.waiting import eventually

STRANGER = 61_003


@contextmanager
def _meanwhile(work: Callable[[int], None]) -> Iterator[None]:
    """Another thread does `work(turn)` over and over until the block ends."""
    done = threading.Event()
    failed: list[BaseException] = []

    def loop() -> None:
        turn = 0
        while not done.is_set():
            try:
                work(turn)
            except BaseException as error:  # noqa: BLE001 - raised again below
                failed.append(error)
                return
            turn += 1

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failed:
        raise failed[0]


def _inventory(directory: Path) -> list[tuple[str, int, int, int]]:
    return sorted(
        (entry.name, entry.stat().st_mode, entry.stat().st_size, entry.stat().st_mtime_ns)
        for entry in os.scandir(directory)
    )


@needs_root
def test_swapping_a_directory_for_a_link_leads_nowhere(mount: Mount) -> None:
    """While a step swaps a directory for a link to a place outside, nothing outside is made, read or changed."""
    outside = mount.outside
    (outside / "target").write_bytes(b"outside")
    outside.chmod(0o700)  # the step itself cannot go there: whatever happens there, the daemon did
    before = _inventory(outside)
    # on the spool itself, where no lock of the kernel's or libfuse's comes between: faster than any step can
    files = mount.spool / "files"
    (files / "real").mkdir()
    (files / "real").chmod(0o777)
    (files / "real" / "target").write_bytes(b"inside")
    os.chown(files / "real" / "target", STRANGER, STRANGER)
    (files / "link").symlink_to(outside)

    def swap(turn: int) -> None:
        os.rename(files / "real", files / "aside")
        os.rename(files / "link", files / "real")
        os.rename(files / "real", files / "link")
        os.rename(files / "aside", files / "real")

    expected = {errno.ENOENT, errno.ENOTDIR, errno.EIO, errno.ESTALE, errno.ELOOP, errno.EACCES, errno.EINVAL}
    target = mount.path / "real" / "target"
    seen: set[bytes] = set()
    with _meanwhile(swap), acting_as(STRANGER):
        for turn in range(20_000):
            if turn >= 300 and (seen or mount.transport == "native"):  # there the kernel remembers names
                break
            made = mount.path / "real" / f"made-{turn}"
            for call in (
                lambda made=made: made.write_bytes(b"x"),
                lambda: seen.add(target.read_bytes()),
                lambda: target.chmod(0o600),
                lambda: os.truncate(target, 6),
                lambda: os.utime(target, (1, 1)),
                lambda: os.listdir(target.parent),
                made.unlink,
            ):
                try:
                    call()
                except OSError as error:
                    assert error.errno in expected, error
    assert _inventory(outside) == before
    assert seen <= {b"inside"}
    assert seen or mount.transport == "native"


@needs_root
def test_a_step_that_swaps_through_the_mount_gets_nowhere(mount: Mount) -> None:
    """The same by a step's own means, on the mount: what is read is the volume's, before, meanwhile and after."""
    outside = mount.outside
    (outside / "target").write_bytes(b"outside")
    outside.chmod(0o700)
    before = _inventory(outside)
    root = mount.path
    (root / "real").mkdir()
    (root / "real").chmod(0o777)
    (root / "real" / "target").write_bytes(b"inside")
    (root / "link").symlink_to(outside)

    def swap(turn: int) -> None:
        os.rename(root / "real", root / "aside")
        os.rename(root / "link", root / "real")
        os.rename(root / "real", root / "link")
        os.rename(root / "aside", root / "real")

    target, seen = root / "real" / "target", set()
    with _meanwhile(swap), acting_as(STRANGER):
        for turn in range(300):
            made = root / "real" / f"made-{turn}"
            for call in (lambda made=made: made.write_bytes(b"x"), lambda: seen.add(target.read_bytes()), made.unlink):
                try:
                    call()
                except OSError as error:
                    assert error.errno in {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ESTALE}, error
    with acting_as(STRANGER):
        seen.add(target.read_bytes())
    assert _inventory(outside) == before
    assert seen == {b"inside"}


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../../outside/secret", "d/../../../outside/secret", "/proc/self/environ"]
)
def test_links_that_point_outside_are_not_collected(mount: Mount, target: str) -> None:
    """A result that is a link to outside the volume is left to the collector's own eyes; the daemon opens nothing."""
    (mount.outside / "secret").write_bytes(b"the node's own secret" * 1000)
    (mount.path / "d").mkdir()
    (mount.path / "report").symlink_to(target)
    (mount.path / "other").write_bytes(b"x")
    mount.collect("other")
    mount.collect("report")
    mount.stop()
    stored = [file for file in (mount.directory / "store").rglob("*") if file.is_file()]
    assert stored == []
    assert "published" not in (mount.spool / "journal.jsonl").read_text()


def test_daemon_never_follows_a_link_itself(mount: Mount) -> None:
    """Operations on a link act on the link: its target outside keeps mode, owner, times and attributes."""
    secret = mount.outside / "secret"
    secret.write_bytes(b"x")
    before = secret.stat()
    link = mount.path / "link"
    link.symlink_to(secret)
    os.utime(link, (1, 1), follow_symlinks=False)
    os.chown(link, os.geteuid(), os.getegid(), follow_symlinks=False)
    os.link(link, mount.path / "again", follow_symlinks=False)
    os.rename(link, mount.path / "moved")
    os.unlink(mount.path / "moved")
    after = secret.stat()
    assert (after.st_mode, after.st_nlink, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_mode,
        before.st_nlink,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )


@needs_root
@pytest.mark.parametrize("kind", [stat.S_IFBLK, stat.S_IFCHR])
def test_device_nodes_are_refused(mount: Mount, kind: int) -> None:
    """Making a device node is EPERM, for root too, and leaves nothing; also where a result's name is."""
    for name in ("report", "null"):
        with pytest.raises(PermissionError) as caught:
            os.mknod(mount.path / name, kind | 0o666, os.makedev(1, 3))
        assert caught.value.errno == errno.EPERM
    assert os.listdir(mount.path) == []


@needs_root
def test_device_node_in_the_spool_is_never_opened(mount: Mount) -> None:
    """A device node that got into the spool all the same is opened by nobody through the mount."""
    os.mknod(mount.spool / "files" / "report", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    with pytest.raises(PermissionError):
        os.open(mount.path / "report", os.O_RDONLY)
    assert mount.collect("report").stdout == b""


@needs_root
def test_set_user_id_means_nothing(mount: Mount) -> None:
    """A set-user-id program on the mount runs with the rights of whoever runs it (nosuid)."""
    program = mount.path / "id"
    shutil.copy(shutil.which("id") or "/usr/bin/id", program)
    os.chown(program, 0, 0)
    program.chmod(0o6755)
    run = subprocess.run(
        [program, "-u"], user=STRANGER, group=STRANGER, extra_groups=[], capture_output=True, check=True
    )
    assert run.stdout.split() == [str(STRANGER).encode()]
    options = next(line for line in Path("/proc/self/mounts").read_text().splitlines() if str(mount.path) in line)
    assert {"nosuid", "nodev"} <= set(options.split()[3].split(","))


@needs_root
def test_spool_is_closed_to_others(mount: Mount) -> None:
    """No other user reaches the spool, where set-user-id bits would count."""
    with acting_as(STRANGER), pytest.raises(PermissionError):
        os.stat(mount.spool / "files")


@pytest.mark.parametrize("behind", ["report", "elsewhere"], ids=["directly", "behind a link"])
def test_fifo_neither_hangs_nor_feeds_a_collector(mount: Mount, behind: str) -> None:
    """A collector finds no result where a FIFO stands, also behind a link, and an Event says so."""
    os.mkfifo(mount.path / behind)
    if behind != "report":
        (mount.path / "report").symlink_to(behind)
    run = mount.collect("report")
    assert run.stdout == b""
    assert b"No such file" in run.stderr
    assert "ResultNotAFile" in mount.reasons()


def test_fifo_goes_on_working_for_steps(mount: Mount) -> None:
    """For others than collectors a FIFO at a result's name is a FIFO."""
    os.mkfifo(mount.path / "report")
    mount.collect("report")
    with open(os.open(mount.path / "report", os.O_RDWR), "r+b", buffering=0) as both:
        both.write(b"x")
        assert both.read(1) == b"x"


def test_directory_and_socket_at_a_results_name(mount: Mount) -> None:
    """A collector reads nothing from a directory or a socket at a result's name."""
    (mount.path / "report").mkdir()
    assert mount.collect("report").stdout == b""
    (mount.path / "report").rmdir()
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(mount.path)
        try:
            server.bind("report")
        finally:
            os.chdir(here)
    assert mount.collect("report").stdout == b""


def test_result_that_keeps_changing_its_kind(mount: Mount) -> None:
    """While a result is swapped between file, directory, link and FIFO, collectors never hang nor see another file."""
    (mount.outside / "secret").write_bytes(b"secret")
    report = mount.path / "report"

    def swap(turn: int) -> None:
        kind = turn % 4
        if kind == 0:
            report.write_bytes(b"file")
        elif kind == 1:
            report.mkdir()
        elif kind == 2:
            report.symlink_to("gone")
        else:
            os.mkfifo(report)
        if kind == 1:
            report.rmdir()
        else:
            report.unlink()

    with _meanwhile(swap):
        for _ in range(25):
            assert mount.collect("report").stdout in (b"", b"file")


@pytest.mark.parametrize("size", [1000, 300_000])
def test_two_writers_of_one_result(mount: Mount, size: int) -> None:
    """Two processes replace one result by renaming; a collector gets what one of them wrote, never a mixture."""
    contents = [letter * size for letter in (b"A", b"B")]
    report = mount.path / "report"
    report.write_bytes(contents[0])
    script = 'while head -c "$1" /dev/zero | tr "\\0" "$2" > "part-$2" && mv "part-$2" report; do :; done'
    with _processes(mount.path, [["/bin/sh", "-c", script, "-", str(size), letter] for letter in "AB"]):
        found = b""
        while not found:  # libfuse replaces an open file in two steps: for a moment there is none
            found = mount.collect("report").stdout
    assert _published(found) in {hashlib.sha256(content).hexdigest() for content in contents}


def test_result_written_in_place_meanwhile(mount: Mount) -> None:
    """A result that is lengthened while a collector asks is published in a state that it had."""
    report = mount.path / "report"
    report.write_bytes(b"")
    script = 'while printf "%08d" 1 >> report; do :; done'
    with _processes(mount.path, [["/bin/sh", "-c", script]]):
        eventually(lambda: report.stat().st_size > 6000)
        found = mount.collect("report").stdout
    written = report.read_bytes()
    digest = _published(found)
    assert digest in {hashlib.sha256(written[:size]).hexdigest() for size in range(0, len(written) + 1, 8)}


@contextmanager
def _processes(directory: Path, commands: list[list[str]]) -> Iterator[None]:
    """Processes that run until the block ends."""
    running = [subprocess.Popen(command, cwd=directory, stderr=subprocess.DEVNULL) for command in commands]
    try:
        yield
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()


def _published(found: bytes) -> str:
    """The SHA-256 of the content that a publication is or names."""
    if found.startswith(RESULTS_DIR.encode()):
        return Reference.parse(found.decode()).sha256
    return hashlib.sha256(found).hexdigest()


def test_collectors_of_another_volume_are_nobody_here(mount: Mount, transport: str) -> None:
    """A process that is no collector of this volume reads the full content."""
    (mount.path / "report").write_bytes(b"x" * 100_000)
    with mounted(transport=transport) as other:
        run = subprocess.run([other.cat, mount.path / "report"], capture_output=True, check=True)
    assert run.stdout == b"x" * 100_000


def test_deep_tree_does_not_keep_the_daemon_from_starting(mount: Mount) -> None:
    """A step that nests directories thousands deep does not keep a new daemon from counting the spool."""
    current = os.open(mount.spool / "files", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(3000):
            os.mkdir("d", dir_fd=current)
            inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=current)
            os.close(current)
            current = inner
    finally:
        os.close(current)
    try:
        mount.restart()
        (mount.path / "report").write_bytes(b"fine")
        assert (mount.path / "report").read_bytes() == b"fine"
        assert (mount.path / "d" / "d").is_dir()
    finally:
        subprocess.run(["rm", "-rf", mount.spool / "files" / "d"], check=True)
