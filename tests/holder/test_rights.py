"""What a server may do: it serves all users' files with five of root's rights, and passes through by the holder's."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from resultsfs.server import capabilities
from tests.support.holder import DEADLINE, Stage
from tests.support.mount import mounted
from tests.support.users import acting_as
from tests.support.waiting import eventually

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="several users, which takes root")]


def _status(pid: int, field: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return next(line.split(":\t", 1)[1] for line in lines if line.startswith(f"{field}:"))


def test_the_rest_is_given_up(both: Stage) -> None:
    """The server says what it keeps, has no more in any set, in any thread, and gets none back by a program."""
    server = both.processes[1]
    both.mount()
    kept = sum(1 << capabilities.NUMBERS[name] for name in capabilities.NEEDED)
    server.says(f"keeps the rights {', '.join(capabilities.NEEDED)}")
    for thread in os.listdir(f"/proc/{server.pid}/task"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            for kind, wanted in (("CapPrm", kept), ("CapEff", kept), ("CapBnd", kept), ("CapInh", 0), ("CapAmb", 0)):
                assert int(_status(int(thread), kind), 16) == wanted, kind
            assert _status(int(thread), "NoNewPrivs") == "1"


def test_only_what_is_there_is_kept(stage: Stage) -> None:
    """In a container that was given less, the server starts with that and says so."""
    stage.holder()
    server = stage.server("setpriv", "--bounding-set=-all,+chown,+fowner", "--inh-caps=-all")
    server.says("keeps the rights CHOWN, FOWNER\n")
    assert stage.mount().is_mount()


def test_files_of_all_users(both: Stage) -> None:
    """What others than root make is theirs, and closed to each other, as on the disk."""
    point = both.mount()
    point.chmod(0o1777)
    with acting_as(1000):
        (point / "theirs").write_text("secret")
        (point / "theirs").chmod(0o600)
        (point / "directory").mkdir(mode=0o700)
        (point / "directory" / "inside").write_text("x")
        os.utime(point / "theirs", ns=(1, 2))
    found = (point / "theirs").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777, found.st_mtime_ns) == (1000, 1000, 0o600, 2)
    with acting_as(1001):
        for act in (
            lambda: (point / "theirs").read_text(),
            lambda: (point / "theirs").unlink(),
            lambda: (point / "theirs").chmod(0o666),
            lambda: os.listdir(point / "directory"),
        ):
            with pytest.raises(PermissionError):
                act()
    assert (point / "theirs").read_text() == "secret"  # root reads all
    os.chown(point / "theirs", 1001, 1001)
    os.chmod(point / "theirs", 0o6755)
    with acting_as(1001):
        (point / "theirs").write_text("mine now")
    assert (point / "theirs").stat().st_uid == 1001
    shutil.rmtree(point / "directory")


def test_a_group_that_is_not_ones_own(both: Stage) -> None:
    """A set-gid directory's files get its group, and a set-gid bit set by root stays (FSETID)."""
    point = both.mount()
    shared = point / "shared"
    shared.mkdir()
    os.chown(shared, 1000, 2000)
    shared.chmod(0o2777)
    with acting_as(1000):
        (shared / "f").write_text("x")
    assert ((shared / "f").stat().st_uid, (shared / "f").stat().st_gid) == (1000, 2000)
    (shared / "f").chmod(0o2755)
    assert stat.S_IMODE((shared / "f").stat().st_mode) == 0o2755


def test_collectors_of_other_users(both: Stage) -> None:
    """Which program a process of another user, or of more rights, runs can be seen (SYS_PTRACE)."""
    collector = both.directory / "collector"
    shutil.copy("/bin/cat", collector)
    point = both.mount(collectors=(str(collector),))
    for user in (0, 1000):
        (point / "report").write_text(f"{user}" * 10_000)
        read = subprocess.run(
            [collector, point / "report"], capture_output=True, timeout=DEADLINE, user=user, check=False
        )
        assert len(read.stdout) == 87, (user, read.stderr)


def test_passthrough_by_the_holder(both: Stage) -> None:
    """Files pass through though the server could not register them itself: they are written and read while it stands."""
    server = both.processes[1]
    point = both.mount()
    if "passthrough: yes" not in server.log():
        pytest.skip("no passthrough here: " + server.log())
    assert not int(_status(server.pid, "CapEff"), 16) >> capabilities.NUMBERS["SYS_ADMIN"] & 1
    with open(point / "f", "w+b", buffering=0) as file:
        file.write(b"before")  # also lets the kernel ask what it asks but once
        server.signal(signal.SIGSTOP)
        try:
            file.write(b" and while it stands still")
            assert os.pread(file.fileno(), 100, 0) == b"before and while it stands still"
        finally:
            server.signal(signal.SIGCONT)
    for turn in range(300):  # backing ids are given back, or the kernel would run out of them
        (point / "f").write_text(str(turn))
    assert (both.directory / "v.spool" / "files" / "f").read_text() == "299"


def test_without_a_holder_files_are_served_in_the_ordinary_way(both: Stage) -> None:
    """While there is no holder files go without passthrough, and pass through again when there is one."""
    holder, server = both.processes
    point = both.mount()
    if "passthrough: yes" not in server.log():
        pytest.skip("no passthrough here: " + server.log())
    with open(point / "through", "w+b", buffering=0) as through:
        holder.kill()
        with open(point / "ordinary", "w+b", buffering=0) as ordinary:
            ordinary.write(b"ordinary")
            through.write(b"through")
            assert os.pread(ordinary.fileno(), 100, 0) == b"ordinary"
        server.says("served without passthrough")
    both.holder()
    eventually(lambda: both.states() == {"v": "served"})

    def passes() -> bool:
        """Whether a file is opened without a word about doing without; soon after a failure nobody is asked."""
        known = server.log().count("served without passthrough")
        (point / "again").write_bytes(b"x")
        return server.log().count("served without passthrough") == known

    eventually(passes)
    assert (point / "through").read_bytes() == b"through"


def test_an_ordinary_mount_too() -> None:
    """`resultsfs mount` by root serves with the same few rights, and registers files for passthrough itself."""
    with mounted(transport="native") as mount:
        kept = sum(1 << capabilities.NUMBERS[name] for name in (*capabilities.NEEDED, "SYS_ADMIN"))
        assert int(_status(mount.server, "CapEff"), 16) == kept
        assert "passthrough: no: it takes CAP_SYS_ADMIN" not in mount.log()
