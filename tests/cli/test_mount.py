"""`resultsfs mount` and `unmount`: in the background, again after a crash, and what is refused."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from resultsfs import mountinfo, mounting, namespaces
from resultsfs.reference import Reference
from tests.cli.conftest import DEADLINE, Home

pytestmark = pytest.mark.mount


@pytest.fixture
def point(home: Home) -> Path:
    """A mount point with a name that the mount table has to escape."""
    path = home.path / "m nt\\é"
    path.mkdir()
    return path


def kill_daemon(point: Path) -> None:
    """Kill all processes of a mount's daemon as the kernel's memory killer would, and wait until they are gone."""
    while found := list(mounting.daemons(str(point))):  # a holder may have started another server meanwhile
        for _, pidfd in found:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            assert namespaces.ended(pidfd, DEADLINE)
            os.close(pidfd)


def list_alive(point: Path) -> list[int]:
    """Pids of the daemons of a mount."""
    found = list(mounting.daemons(str(point)))
    for _, pidfd in found:
        os.close(pidfd)
    return [pid for pid, _ in found]


def test_a_mount_comes_and_goes(home: Home, point: Path) -> None:
    """The command returns when the mount answers, says how to unmount, and the unmount leaves no daemon."""
    done = home.run("mount", point, "--results", "a,b")
    assert done.code == 0, done.err
    assert "resultsfs unmount" in done.text and "spool" in done.text
    (point / "a").write_text("hello")
    assert (point / "a").read_text() == "hello"
    assert home.run("unmount", point).text == f"{point} is unmounted.\n"
    assert mountinfo.at(str(point)) is None and list_alive(point) == []
    assert list(point.iterdir()) == []


def test_a_spool_is_taken_up_again(home: Home, point: Path) -> None:
    """After an unmount, the same mount has the same files, record and store."""
    run = "11111111-2222-3333-4444-555555555555"
    first = home.run("mount", point, "--results", "a", "--namespace", "team", "--run-uid", run)
    assert first.code == 0, first.err
    (point / "a").write_text("kept")
    assert home.run("unmount", point).code == 0
    again = home.run("mount", point)
    assert again.code == 0, again.err
    assert (point / "a").read_text() == "kept"
    assert f"team/{run}" in again.text and "as it was left" in again.text


def test_a_killed_daemon_loses_nothing(home: Home, point: Path) -> None:
    """A dead mount is taken off by the next one, which says so and has what was closed before the crash."""
    assert home.run("mount", point, "--results", "a").code == 0
    (point / "a").write_text("kept")
    kill_daemon(point)
    with pytest.raises(OSError, match="not connected"):
        os.stat(point)
    again = home.run("mount", point)
    assert again.code == 0, again.err
    assert "daemon is gone" in again.err
    assert (point / "a").read_text() == "kept"
    assert len([mount for mount in mountinfo.mounts() if mount.mountpoint == str(point)]) == 1


def test_a_dead_mount_can_be_unmounted(home: Home, point: Path) -> None:
    """What a killed daemon leaves is taken off by unmount, too."""
    assert home.run("mount", point, "--results", "a").code == 0
    kill_daemon(point)
    assert home.run("unmount", point).code == 0
    assert mountinfo.at(str(point)) is None


def test_a_killed_server_is_replaced(home: Home, point: Path) -> None:
    """The native transport is two processes; of the one that serves another is started, and clients notice nothing."""
    assert home.run("mount", point, "--results", "a", "--transport", "native").code == 0
    (point / "a").write_text("kept")
    before = list_alive(point)
    (server,) = [pid for pid in before if b"resultsfs.server" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(server, signal.SIGKILL)
    assert (point / "a").read_text() == "kept"
    (point / "b").write_text("more")
    assert (point / "b").read_text() == "more"
    assert server not in list_alive(point) and len(list_alive(point)) == len(before) == 2
    assert home.run("unmount", point).code == 0
    assert list_alive(point) == []


def test_a_killed_holder_leaves_the_mount(home: Home, point: Path) -> None:
    """Without its holder the server serves on; an unmount ends it."""
    assert home.run("mount", point, "--results", "a", "--transport", "native").code == 0
    (holder,) = [pid for pid in list_alive(point) if b"resultsfs.holder" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(holder, signal.SIGKILL)
    (point / "a").write_text("served on")
    assert (point / "a").read_text() == "served on"
    home.run("mount", point).complains(1, "mounted already")
    assert home.run("unmount", point).code == 0
    assert list_alive(point) == []


def test_a_collector_reads_publications(home: Home, point: Path) -> None:
    """A process that runs the named executable reads a reference, all others the content."""
    collector = home.path / "collector"
    collector.write_bytes(Path("/bin/cat").read_bytes())
    collector.chmod(0o755)
    done = home.run("mount", point, "--results", "big,small", "--collector", "collector")
    assert done.code == 0, done.err
    (point / "big").write_text("x" * 10_000)
    (point / "small").write_text("y")
    read = subprocess.run([collector, point / "big", point / "small"], capture_output=True, check=True)
    reference = Reference.parse(read.stdout[:-1].decode())
    assert (point / "big").read_text() == "x" * 10_000
    assert read.stdout[-1:] == b"y"
    assert home.run("get", str(reference)).out == b"x" * 10_000


def test_what_is_in_use_is_named(home: Home, point: Path) -> None:
    """An unmount of a mount in use fails and names the process; --lazy takes it off all the same."""
    assert home.run("mount", point, "--results", "a").code == 0
    user = subprocess.Popen(["sleep", "1000"], cwd=point)
    try:
        busy = home.run("unmount", "--timeout", "0", point)
        busy.complains(1, f"sleep (pid {user.pid})", "--lazy")
        assert home.run("unmount", "--lazy", point).code == 0
        assert mountinfo.at(str(point)) is None
    finally:
        user.kill()
        user.wait()


def test_the_foreground_serves_until_it_is_told(home: Home, point: Path) -> None:
    """With --foreground the command serves, and SIGTERM unmounts."""
    process = home.start("mount", point, "--results", "a", "--foreground", stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert b"holds the results a" in process.stdout.readline()
        (point / "a").write_text("hello")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()
    assert mountinfo.at(str(point)) is None and list_alive(point) == []


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 2, ["--results is missing"]),
        (["--results", "a/b"], 2, ["results", "'a/b'", "result name"]),
        (["--results", "a", "--kept-inline", "b"], 2, ["kept", "'b'", "declared"]),
        (["--results", "a", "--type", "a=list"], 2, ["'a=list'", "string, array, object"]),
        (["--results", "a", "--containers", "0"], 2, ["'--containers'"]),
        (["--results", "a", "--mode", "logs"], 2, ["'--mode'", "sidecar-logs"]),
        (["--results", "a", "--run-uid", "7"], 2, ["'7'", "UUID"]),
        (["--results", "a", "--namespace", "A B"], 2, ["namespace", "'A B'"]),
        (["--results", "a", "--store", "memory://"], 2, ["memory://"]),
        (["--results", "a", "--store", "ftp://x/y"], 2, ["ftp://x/y"]),
        (["--results", "a", "--collector", "none"], 2, ["'none'", "does not exist"]),
        (["--results", "a", "--spool", "m nt\\é/spool"], 1, ["spool", "lies in the mount point"]),
        (["--results", "a", "--spool", "file/spool"], 1, ["file/spool", "Not a directory"]),
    ],
)
def test_bad_options_are_named(home: Home, point: Path, options: list[str], code: int, words: list[str]) -> None:
    """What cannot be mounted is refused with option, value and what is allowed, and nothing is mounted."""
    home.file("file", "")
    home.run("mount", point, *options).complains(code, *words)
    assert mountinfo.at(str(point)) is None


def test_a_missing_mount_point_is_named(home: Home) -> None:
    """A mount point must be there; the error says how to make it."""
    done = home.run("mount", "none", "--results", "a")
    done.complains(1, f"{home.path}/none is no directory", "mkdir -p")


def test_a_mount_point_is_used_once(home: Home, point: Path) -> None:
    """Neither a mount point nor a spool serves two mounts at a time."""
    other = home.path / "other"
    other.mkdir()
    assert home.run("mount", point, "--results", "a", "--spool", "spool").code == 0
    home.run("mount", point, "--results", "a").complains(1, "mounted already", "resultsfs unmount")
    home.run("mount", other, "--spool", "spool").complains(1, "spool", "in use by another mount")
    assert (point / "a").write_text("still there")


def test_a_spool_stays_what_it_is(home: Home, point: Path) -> None:
    """Options that contradict the spool's record or store are refused; those that repeat it are fine."""
    assert home.run("mount", point, "--results", "a,b", "--containers", "3").code == 0
    assert home.run("unmount", point).code == 0
    home.run("mount", point, "--results", "a").complains(2, "results a,b", "--results says a")
    home.run("mount", point, "--containers", "4").complains(2, "containers 3", "--containers says 4")
    home.run("mount", point, "--store", "file:///elsewhere").complains(2, f"file://{home.store}", "file:///elsewhere")
    done = home.run("mount", point, "--results", "a,b", "--containers", "3")
    assert done.code == 0, done.err


def test_what_is_no_mount_of_ours_is_left_alone(home: Home, point: Path) -> None:
    """Unmounting what is not mounted, or not ours, is an error that names it."""
    home.run("unmount", point).complains(1, "nothing is mounted at", "m nt")
    home.run("unmount", "/proc").complains(1, "/proc is a mount of proc")


def test_a_link_to_a_mount_point_is_followed(home: Home, point: Path) -> None:
    """A link is as good as its target, before mounting and after."""
    link = home.path / "link"
    link.symlink_to(point)
    assert home.run("mount", link, "--results", "a").code == 0
    assert mountinfo.at(str(point)) is not None
    assert home.run("unmount", link).code == 0
    assert mountinfo.at(str(point)) is None


def test_the_daemons_words_reach_the_caller(home: Home, point: Path) -> None:
    """When the daemon cannot start, the command gives its reason: here a journal that is a directory."""
    (home.path / "spool" / "journal.jsonl").mkdir(parents=True)
    done = home.run("mount", point, "--results", "a", "--spool", "spool")
    done.complains(1, "mounting at", "failed")
    assert re.search(r"[Ii]s a directory", done.err), done.err
