"""A server that dies where the kernel cannot ask again for what it had in hand: before Linux 6.9."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from pathlib import Path

import pytest

from resultsfs.kernel.protocol import InitFlag, Opcode
from resultsfs.reference import LENGTH
from tests.support.takeover import taken_over
from tests.support.waiting import eventually

pytestmark = [pytest.mark.mount, pytest.mark.skipif(os.geteuid() != 0, reason="mounts directly, which takes root")]
BIG = os.urandom(300_000)


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
        client.join(100)
        assert errors == [errno.ECONNABORTED]
        with pytest.raises(OSError) as caught:
            os.listdir(mount.path)
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)


@pytest.mark.parametrize("way", ["writeback", "plain"])
@pytest.mark.parametrize("planned", [False, True], ids=["killed", "replaced"])
def test_a_server_with_nothing_in_hand_is_followed_by_another(way: str, planned: bool) -> None:
    """Where no request was in hand, nobody notices that a server was killed or replaced: open files go on."""
    with (
        taken_over(way=way, without=InitFlag.HAS_RESEND) as mount,
        open(mount.path / "f", "w+b", buffering=0) as file,
    ):
        for number in range(3):
            file.write(b"%d" % number)
            (mount.path / "report").write_bytes(b"%d" % number + BIG)
            assert len(mount.collect("report").stdout) == LENGTH
            eventually(lambda: not mount.in_hand())
            mount.succeed(planned=planned)
            assert os.pread(file.fileno(), 10, 0) == b"012"[: number + 1]
        assert (mount.path / "f").read_bytes() == b"012"


def test_a_collector_that_waits_is_in_hand(tmp_path: Path) -> None:
    """A server that is killed while a collector waits for the store cannot be followed: the collector gets an error."""
    store = tmp_path / "store"
    store.write_text("in the way")
    with taken_over(
        without=InitFlag.HAS_RESEND, settings={"store": f"file://{store}/inner", "spill-deadline": "1h"}
    ) as mount:
        (mount.path / "report").write_bytes(BIG)
        with subprocess.Popen([mount.cat, mount.path / "report"], stderr=subprocess.PIPE) as collector:
            try:
                eventually(lambda: any((mount.spool / "session" / "collections").glob("*.json")))
                assert (mount.path / "report").read_bytes() == BIG
                assert mount.in_hand()
                mount.kill()
                assert "6.9" in mount.refused()
                assert collector.communicate(timeout=100)[1].endswith(b"Software caused connection abort\n")
                assert collector.returncode == 1
            finally:
                collector.kill()
