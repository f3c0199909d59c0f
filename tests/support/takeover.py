"""A mount whose server can be killed and followed by another, on the same descriptor."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.mount import STOP, Mount, record

WAYS: dict[str, dict[str, str]] = {
    "passthrough": {},
    "writeback": {"RESULTSFS_PASSTHROUGH": "off"},
    "plain": {"RESULTSFS_PASSTHROUGH": "off", "RESULTSFS_WRITEBACK": "off"},
}
"""How content travels, and what makes a server choose that."""


class TakenOver(Mount):
    """A served volume, as `Mount`, whose mount outlives its servers."""

    def __init__(self, directory: Path, way: str, without: int, settings: Mapping[str, object], **fields: Any) -> None:
        super().__init__(directory, record(**fields), settings, "native", None, None)
        self.servers = 0
        self.pid = 0
        self.followed = ""
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.support.keeper", str(directory), str(without)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            text=True,
            env={**os.environ, **WAYS[way]},
        )
        self._heard("mounted")

    def _heard(self, wanted: str) -> str:
        assert self._keeper.stdout is not None
        said = self._keeper.stdout.readline().strip()
        if not said.startswith(wanted):
            raise RuntimeError(f"{said!r} instead of {wanted!r}:\n{self.log()}")
        return said

    def told(self, command: str, wanted: str) -> str:
        """What the keeper answers to a command, which must begin as wanted. Raises RuntimeError with the log."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(command + "\n")
        self._keeper.stdin.flush()
        return self._heard(wanted)

    def start(self) -> None:
        """Let a server begin, or take over."""
        self.pid = int(self.told("start", "ready").split()[1])
        self.servers += 1

    def kill(self) -> None:
        """SIGKILL the server; whoever asks for anything now waits."""
        self.told("kill", "ended -9")

    def end(self) -> None:
        """SIGTERM the server, as for an upgrade."""
        self.told("end", "ended 0")

    @contextmanager
    def dying(self, opcode: int, when: str) -> Iterator[None]:
        """What is done within this is cut through: the server dies at a request with that opcode, `when` as the keeper
        says it; another follows."""
        (self.directory / "die.partial").write_text(f"{int(opcode)} {when}")
        (self.directory / "die.partial").rename(self.directory / "die")
        follower = threading.Thread(target=self._follow)
        follower.start()
        try:
            yield
        finally:
            follower.join()
        assert self.followed == "ended -9"

    def _follow(self) -> None:
        self.followed = self.told("died", "ended")
        self.start()

    def refused(self) -> str:
        """Let a server try to take over; what it says when it does not. The descriptor is closed then."""
        said = self.told("start", "refused")
        self.told("refuse", "closed")
        return said

    def succeed(self, *, planned: bool = False) -> None:
        """Another server instead of the present one."""
        if planned:
            self.end()
        else:
            self.kill()
        self.start()

    @property
    def keeper(self) -> int:
        """The process that has the mount's descriptor, whichever server there is."""
        return self._keeper.pid

    def in_hand(self) -> bool:
        """Whether the server may have a request in hand, as it notes where the kernel cannot ask again."""
        return (self.spool / "session" / "in-hand").read_bytes() != b"0"

    def handles(self) -> int:
        """How many files another server would open again."""
        return handles(self.spool)

    def close(self) -> None:
        """End all, and take the mount off."""
        subprocess.run(["umount", "-f", "-l", str(self.path)], check=False, capture_output=True)
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        try:
            self._keeper.wait(STOP)
        finally:
            self._keeper.kill()
            self._keeper.wait()
            assert self._keeper.stdout is not None
            self._keeper.stdout.close()
        self._detach()


def handles(spool: Path) -> int:
    """How many files the next server of a spool's mount would open again."""
    content = (spool / "session" / "handles").read_bytes()
    return sum(content[at : at + 8] != bytes(8) for at in range(128, len(content), 64))


@contextmanager
def taken_over(
    *,
    way: str = "passthrough",
    without: int = 0,
    dies: str = "",
    settings: Mapping[str, object] | None = None,
    results: Sequence[str] = ("report",),
    **fields: Any,
) -> Iterator[TakenOver]:
    """A volume that is served, gone afterwards with all that belongs to it.

    `way` is one of `WAYS`: how content travels.
    The first server dies as `dies` says (see `keeper`), and another follows it. `without` are flags of INIT that the servers decline. Raises AssertionError if one of them has logged what it did
    not foresee.
    """
    with tempfile.TemporaryDirectory(prefix="resultsfs-test-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        mount = TakenOver(directory, way, without, settings or {}, results=tuple(results), **fields)
        try:
            if dies:
                (directory / "die").write_text(dies)
                mount.told("start", "nothing")
            mount.start()
            yield mount
        finally:
            mount.close()
        if not mount.unexpected_log_is_fine:
            assert mount.unexpected() == [], mount.log()
