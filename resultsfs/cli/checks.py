"""What this machine needs for mounts and runs, checked one by one: the lines of `resultsfs doctor`."""

from __future__ import annotations

import ctypes
import ctypes.util
import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from resultsfs import mounting, mountpoint
from resultsfs.errors import ResultsError, StoreError
from resultsfs.settings import Settings
from resultsfs.store import Probe, Store
from resultsfs.transport import native_can_run
from resultsfs.units import format_size

DEVICE = "/dev/fuse"
_SKEW_WARNING, _SKEW_FAILURE = 5.0, 900.0
"""Seconds; S3 refuses signatures that are 15 minutes off."""
_MEMORY_WANTED = 256 << 20
_NAMESPACE_TEST = "from resultsfs import namespaces; namespaces.enter_mount_namespace()"


class Level(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was looked at, what was found, and what to do about it (empty when it is well)."""

    name: str
    level: Level
    found: str
    advice: str = ""


def all_checks(settings: Settings, spool: Path) -> Iterator[Check]:
    """All checks, in the order in which things are needed; `spool` is where files of mounts would lie."""
    yield device()
    yield needed_if(libfuse(), not native_can_run())
    if os.geteuid() != 0:
        yield fusermount()
        yield allow_other()
    yield mount_namespaces()
    yield kernel(os.uname().release)
    yield memory()
    yield disk(spool, settings)
    yield from store(settings)


def device(path: str = DEVICE) -> Check:
    """The device through which all FUSE filesystems go."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        cure = "run `modprobe fuse` as root; start a container with `--device /dev/fuse --cap-add SYS_ADMIN`"
        return Check("device", Level.FAIL, f"{path} is missing", cure)
    except OSError as error:
        cure = f"run `chmod 0666 {path}` as root; start a container with `--device {path} --cap-add SYS_ADMIN`"
        return Check("device", Level.FAIL, f"{path} cannot be opened: {error.strerror}", cure)
    return Check("device", Level.OK, f"{path} can be opened")


def libfuse(find: Callable[[str], str | None] = ctypes.util.find_library) -> Check:
    """libfuse 2, by which fusepy serves."""
    name = find("fuse")
    if name is None:
        cure = "install it: apt install libfuse2 (libfuse2t64 on newer releases), or dnf install fuse-libs, or apk add fuse"
        return Check("libfuse", Level.FAIL, "libfuse 2 is missing", cure)
    try:
        version = int(ctypes.CDLL(name).fuse_version())
    except (OSError, AttributeError) as error:
        return Check("libfuse", Level.FAIL, f"{name} cannot be used: {error}", "install libfuse 2 of this architecture")
    if version // 10 != 2 or version < 28:
        return Check("libfuse", Level.FAIL, f"{name} speaks version {version / 10}", "install libfuse 2.8 or later")
    return Check("libfuse", Level.OK, f"{name}, version {version / 10}")


def needed_if(check: Check, needed: bool) -> Check:
    """A check whose failure stops nothing where the native session serves."""
    if needed or check.level is not Level.FAIL:
        return check
    return dataclasses.replace(check, level=Level.WARN, advice=f"only --transport fusepy needs it: {check.advice}")


def fusermount() -> Check:
    """The set-user-id program by which others than root mount."""
    program = mountpoint.fusermount()
    if program is None:
        return Check("fusermount", Level.FAIL, "fusermount is missing", "install it: apt install fuse3, or run as root")
    if not os.stat(program).st_mode & 0o4000:
        cure = f"run `chmod u+s {program}` as root, or run resultsfs as root"
        return Check("fusermount", Level.FAIL, f"{program} is not set-user-id", cure)
    return Check("fusermount", Level.OK, program)


def allow_other() -> Check:
    """Whether other users could see this user's mounts."""
    if mounting.allows_other():
        return Check("allow_other", Level.OK, "user_allow_other is set in /etc/fuse.conf")
    cure = "to show mounts to other users, put the line user_allow_other into /etc/fuse.conf"
    return Check("allow_other", Level.WARN, "mounts will be yours alone", cure)


def mount_namespaces() -> Check:
    """Whether steps can be given a /tekton/results of their own."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", _NAMESPACE_TEST], capture_output=True, text=True, check=False, timeout=60
    )
    kind = "mount namespaces" if os.geteuid() == 0 else "user and mount namespaces"
    if done.returncode == 0:
        return Check("namespaces", Level.OK, f"{kind} are allowed")
    said = done.stderr.strip().splitlines()[-1].partition(": ")[2] if done.stderr.strip() else "no reason given"
    found, _, cure = said.partition("; ")
    return Check("namespaces", Level.FAIL, found, cure or "run as root, or in a container with --privileged")


def kernel(release: str) -> Check:
    """What the kernel's FUSE can do; the native session profits, fusepy needs none of it."""
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    if version < (5, 3):
        cure = "use Linux 5.3 or later: the processes of runs and mounts are followed by descriptors (pidfd_open)"
        return Check("kernel", Level.FAIL, f"Linux {release}", cure)
    if version < (6, 13):
        cure = "nothing to do for now; Linux 6.13 or later serves at the disk's speed"
        return Check("kernel", Level.WARN, f"Linux {release}: no passthrough", cure)
    return Check("kernel", Level.OK, f"Linux {release}: passthrough")


def memory(path: str = "/proc/meminfo") -> Check:
    """Memory for a daemon and its transfers."""
    with open(path, encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    available = int(lines["MemAvailable"].split()[0]) << 10
    found = f"{format_size(available)} available"
    if available < _MEMORY_WANTED:
        cure = f"free some: a daemon with uploads takes up to {format_size(_MEMORY_WANTED)}; or lower store-concurrency"
        return Check("memory", Level.WARN, found, cure)
    return Check("memory", Level.OK, found)


def disk(spool: Path, settings: Settings) -> Check:
    """Room where the files of mounts lie."""
    existing = spool
    while not existing.exists():
        existing = existing.parent
    if not os.access(existing, os.W_OK | os.X_OK):
        cure = "choose another with --spool, or set XDG_STATE_HOME"
        return Check("spool", Level.FAIL, f"{existing} is not writable", cure)
    found = os.statvfs(existing)
    free = found.f_bavail * found.f_frsize
    text = f"{format_size(free)} free for {spool}"
    if free < settings.volume_size_limit:
        cure = f"one volume may grow to volume-size-limit ({format_size(settings.volume_size_limit)}): lower it, or free some"
        return Check("spool", Level.WARN, text, cure)
    return Check("spool", Level.OK, text)


def store(settings: Settings) -> Iterator[Check]:
    """The store, and its clock."""
    try:
        probe = probed(settings)
    except StoreError as error:
        cure = "check the settings store and s3-*, the network, and the credentials"
        yield Check("store", Level.FAIL, str(error), cure)
        return
    times = f"written in {probe.write_seconds * 1000:.0f} ms, read in {probe.read_seconds * 1000:.0f} ms"
    yield Check("store", Level.OK, f"{probe.url}: {times}")
    yield clock(probe.clock_skew)


def probed(settings: Settings) -> Probe:
    """Write, read and delete a small object in the store, with little patience, for somebody waits for the answer.

    Raises StoreError with the store's URL and what it said.
    """
    retries, timeout = min(settings.store_retries, 1), min(settings.store_timeout, 10.0)
    opened = Store.open(dataclasses.replace(settings, store_retries=retries, store_timeout=timeout))
    try:
        return opened.probe()
    except ResultsError as error:
        raise StoreError(f"{opened.url}: {error}", error.errno) from error
    finally:
        opened.close()


def clock(skew: float | None) -> Check:
    """How far this machine's clock is from the store's."""
    if skew is None:
        return Check("clock", Level.OK, "the store tells no time")
    found = f"the store's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    if abs(skew) < _SKEW_WARNING:
        return Check("clock", Level.OK, f"within {_SKEW_WARNING:.0f} s of the store's")
    level = Level.FAIL if abs(skew) >= _SKEW_FAILURE else Level.WARN
    return Check("clock", level, found, "set the clock, best by NTP: S3 refuses requests that are 15 minutes off")
