"""What the node sees of the machine: its files, with places of its own where daemons write by habit.

Runs in the node's mount namespace, before anything else in it. Nothing of it reaches the host.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

_FOREIGN = ("fuse", "nsfs", "overlay")
"""Types of mounts of the host that the node must not keep alive."""
_TUNABLES = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
"""What a kubelet sets for the whole machine: here it writes to copies."""


def arrange(home: Path, binds: Sequence[tuple[str, str]]) -> None:
    """Mount the node's own /run, /var and what `binds` (directory of the host, place in the node) say.

    All mounts are shared, so that what a driver mounts in its pod is seen by the kubelet and other pods.
    Raises CalledProcessError and OSError.
    """
    _drop_foreign()
    held = os.open(home, os.O_PATH)
    try:
        _mount("-t", "tmpfs", "-o", "mode=755", "node-run", "/run")
        upper, work = Path("/run/var/upper"), Path("/run/var/work")
        upper.mkdir(parents=True)
        work.mkdir()
        _mount("-t", "overlay", "-o", f"lowerdir=/var,upperdir={upper},workdir={work}", "node-var", "/var")
        home.mkdir(parents=True, exist_ok=True)
        _mount("--bind", f"/proc/self/fd/{held}", str(home), pass_fds=(held,))
    finally:
        os.close(held)
    for source, place in binds:
        Path(source).mkdir(parents=True, exist_ok=True)
        Path(place).mkdir(parents=True, exist_ok=True)
        _mount("--bind", source, place)
    _copy_tunables()
    _mount("--make-rshared", "/")


def settings() -> None:
    """Settings of the node's own network namespace. Raises OSError."""
    for name in ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables", "net/ipv4/conf/all/route_localnet"):
        Path("/proc/sys", name).write_text("1")


def _drop_foreign() -> None:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        lines = [line.split() for line in file]
    for line in reversed(lines):
        place, kind = line[4].encode().decode("unicode_escape"), line[line.index("-") + 1]
        if place != "/" and kind.partition(".")[0] in _FOREIGN:
            subprocess.run(["umount", "--lazy", "--no-canonicalize", place], check=True, timeout=120)


def _copy_tunables() -> None:
    for name in _TUNABLES:
        real, copy = Path("/proc/sys", name), Path("/run/tunables", name)
        if real.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(real.read_bytes())
            _mount("--bind", str(copy), str(real))


def _mount(*arguments: str, pass_fds: Sequence[int] = ()) -> None:
    subprocess.run(["mount", *arguments], check=True, timeout=120, pass_fds=pass_fds)
