"""What a run was measured on; figures mean nothing without it."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from resultsfs import mountinfo
from tests.support import rclone

_PACKAGES = ("resultsfs", "fusepy", "fsspec", "s3fs", "aiobotocore", "aiohttp", "botocore")


def describe(directory: Path) -> dict[str, str]:
    """By name: processor, cores, memory, load, kernel, the filesystem that holds `directory`, versions."""
    found = {
        "processor": _line("/proc/cpuinfo", "model name"),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": _line("/proc/meminfo", "MemTotal"),
        "load at the start": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "system": _line("/etc/os-release", "PRETTY_NAME", "=").strip('"'),
        "kernel": platform.release(),
        "filesystem": _filesystem(directory),
        "caches dropped by": "drop_caches" if may_drop_caches() else "posix_fadvise",
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        found[package] = metadata.version(package)
    program = rclone.program()
    if program is not None:
        found["rclone"] = _version([program, "version"]).removeprefix("rclone v")
    return found


def may_drop_caches() -> bool:
    """Whether the whole page cache can be dropped (root), so that a cold read is cold."""
    return os.access("/proc/sys/vm/drop_caches", os.W_OK)


def drop_caches() -> None:
    """Write back and drop the page cache. Raises OSError unless root."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("1")


def _line(path: str, key: str, separator: str = ":") -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(separator)
            if name.strip() == key:
                return value.strip()
    return "unknown"


def _filesystem(directory: Path) -> str:
    at = directory.resolve()
    mounts = {mount.mountpoint: mount.filesystem for mount in mountinfo.mounts()}
    for parent in (at, *at.parents):
        if str(parent) in mounts:
            return f"{mounts[str(parent)]} mounted at {parent}"
    return "unknown"


def _version(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]
