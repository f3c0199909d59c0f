"""Mounting and unmounting from outside: starting the daemon that serves a volume, and taking mounts off.

A mount whose daemon has died answers every system call with ENOTCONN, one whose daemon hangs never answers:
so nothing here looks at a mount point itself, only at /proc/self/mountinfo.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from resultsfs import mountinfo, settings
from resultsfs import mountpoint as mountpoints
from resultsfs.errors import MountError, NotSupported
from resultsfs.record import VolumeRecord
from resultsfs.settings import Settings
from resultsfs.spool import read_record
from resultsfs.transport import AUTO, NATIVE, chosen

START_TIMEOUT = 60.0
"""Seconds until a new mount must answer."""
STOP_TIMEOUT = 30.0
"""Seconds that a daemon gets to end after its mount has been taken off."""

_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_FUSEPY, _HOLDER, _SERVER = "resultsfs.kernel.serve", "resultsfs.holder.single", "resultsfs.server"
_NAMING = {_FUSEPY: b"--mountpoint", _HOLDER: b"--mountpoint", _SERVER: b"--single"}
"""By module, the option after which a daemon's command line has its mount point."""
_LOOK = "import os, sys\ntry: os.statvfs(sys.argv[1])\nexcept OSError as error: sys.exit(error.errno)"
_LOOKING = 10.0  # seconds for that
_PAUSE = 0.05  # seconds between attempts to unmount what is in use
_RECORD, _SETTINGS, _LOCK = "record.json", "settings.yaml", "lock"


@dataclass(frozen=True, slots=True)
class MountRequest:
    """One volume to serve. `collectors` are the executables whose processes read publications.

    `mountpoint` is an existing directory, `spool` is made if need be.
    """

    mountpoint: str
    spool: Path
    record: VolumeRecord
    settings: Settings
    collectors: tuple[str, ...] = ()
    transport: str = AUTO

    @property
    def log(self) -> Path:
        """Where the daemon writes what happens, beside the spool."""
        return self.spool.with_name(self.spool.name + ".log")


def kept(spool: Path) -> tuple[VolumeRecord, Settings] | None:
    """The record and settings of a volume that was mounted with this spool before; None for a fresh spool.

    Raises InvalidRecord, InvalidSetting when they cannot be read any more.
    """
    if not (spool / _RECORD).exists():
        return None
    path = spool / _SETTINGS
    return read_record(spool), settings.load(path) if path.exists() else Settings()


def start(
    request: MountRequest, *, foreground: bool = False, tell: Callable[[str], None] = lambda text: None
) -> subprocess.Popen[bytes]:
    """Start the daemon and wait until the mount answers: a holder that keeps a server running, or one process by fusepy.

    A dead mount that nobody serves is taken off first, of which `tell` is told. In the background the daemon belongs
    to no terminal and writes to `request.log`. Raises MountError when the mount point or spool is in use or the
    daemon fails, with the daemon's words.
    """
    _clear(request.mountpoint, tell)
    _check_mountpoint(request)
    try:
        request.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _lock(request.spool)
    except OSError as error:
        raise MountError(f"spool {request.spool}: {error.strerror}", error.errno) from None
    ready, writer = os.pipe()
    try:
        process = _spawn(request, lock, writer, foreground)
    finally:
        os.close(writer)
        os.close(lock)  # the daemon holds it as long as it lives
    try:
        _wait_ready(process, ready, request, foreground)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        os.close(ready)
    return process


def _clear(mountpoint: str, tell: Callable[[str], None]) -> None:
    """Take off what dead daemons left. Raises MountError when it is served."""
    while (there := mountinfo.at(mountpoint)) is not None and there.ours:
        serving = list(daemons(mountpoint))
        for _, pidfd in serving:
            os.close(pidfd)
        if serving or not _dead(mountpoint):  # it may be served from where its processes are not seen
            command = shlex.join(["resultsfs", "unmount", mountpoint])
            raise MountError(f"{mountpoint} is mounted already: run `{command}` first", errno.EBUSY)
        _take_off(mountpoint, lazy=True, timeout=0.0)
        tell(f"{mountpoint} was still mounted, but its daemon is gone: it is unmounted now, and mounted again.")


def _dead(mountpoint: str) -> bool:
    """Whether a mount answers nothing any more, asked by a process that may hang on it."""
    look = subprocess.Popen([sys.executable, "-I", "-S", "-c", _LOOK, mountpoint])
    try:
        return look.wait(_LOOKING) in (errno.ENOTCONN, errno.ECONNABORTED)
    except subprocess.TimeoutExpired:
        look.kill()  # and not waited for
        return False


def _check_mountpoint(request: MountRequest) -> None:
    mountpoint = request.mountpoint
    if not os.path.isdir(mountpoint):
        raise MountError(
            f"{mountpoint} is no directory: make it with `{shlex.join(['mkdir', '-p', mountpoint])}`", errno.ENOENT
        )
    spool = os.path.realpath(request.spool)
    if f"{spool}/".startswith(f"{mountpoint}/"):
        raise MountError(f"spool {spool} lies in the mount point {mountpoint}: choose another --spool", errno.EINVAL)


def _lock(spool: Path) -> int:
    """A descriptor that holds the spool for one daemon: it is inherited, and the lock ends with its last holder."""
    lock = os.open(spool / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise MountError(f"spool {spool} is in use by another mount: choose another --spool", errno.EBUSY) from None
    return lock


def _spawn(request: MountRequest, lock: int, writer: int, foreground: bool) -> subprocess.Popen[bytes]:
    _keep(request.spool / _RECORD, request.record.to_json())
    _keep(request.spool / _SETTINGS, yaml.safe_dump(settings.to_mapping(request.settings)))
    native = chosen(request.transport) == NATIVE
    command = [sys.executable, "-P", "-m", _HOLDER if native else _FUSEPY]
    command += ["--record", str(request.spool / _RECORD), "--settings", str(request.spool / _SETTINGS)]
    command += ["--spool", str(request.spool), "--mountpoint", request.mountpoint, "--ready-fd", str(writer)]
    if not native:
        command += ["--transport", request.transport]
    for path in request.collectors:
        command += ["--collector-exe", path]
    if os.geteuid() != 0 and not allows_other():
        command.append("--no-allow-other")
    if foreground:
        return subprocess.Popen(command, pass_fds=(lock, writer))
    with open(request.log, "wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(lock, writer),
            cwd="/",
            start_new_session=True,
        )


def _keep(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _wait_ready(process: subprocess.Popen[bytes], ready: int, request: MountRequest, foreground: bool) -> None:
    poll = select.poll()
    poll.register(ready, select.POLLIN)
    if not poll.poll(START_TIMEOUT * 1000):
        raise MountError(f"{request.mountpoint} did not answer within {START_TIMEOUT:.0f} s; see {request.log}")
    if os.read(ready, 16) == b"ready\n":
        return
    process.wait()
    why = "what the daemon said is above" if foreground else _last_words(request.log)
    raise MountError(f"mounting at {request.mountpoint} failed: {why}")


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line for line in lines if line.startswith("Error: ")]
    said = said or [line for line in lines if line and not line.startswith((" ", "Traceback"))]
    return " / ".join(line.removeprefix("Error: ") for line in said[-4:]) or f"the daemon said nothing; see {log}"


def allows_other(path: str = "/etc/fuse.conf") -> bool:
    """Whether the administrator lets users show their mounts to others (`user_allow_other`)."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return any(line.split("#")[0].strip() == "user_allow_other" for line in file)
    except OSError:
        return False


# -- unmounting -----------------------------------------------------------------------------------------------


def unmount(path: str, *, lazy: bool = False, timeout: float = 10.0) -> str:
    """Take the mount at `path` off, dead or alive, and wait for its daemon to end; the mount point's full path.

    What is still in use is tried for `timeout` seconds; `lazy` detaches it at once, and it ends with its last
    user. Raises MountError that names what is wrong, and who uses the mount.
    """
    mountpoint = mountinfo.canonical(path)
    _require_ours(mountpoint)
    serving = list(daemons(mountpoint))
    try:
        _take_off(mountpoint, lazy, timeout)
        if not lazy:
            _wait_gone(serving, mountpoint)
    finally:
        for _, pidfd in serving:
            os.close(pidfd)
    return mountpoint


def _require_ours(mountpoint: str) -> None:
    found = mountinfo.at(mountpoint)
    if found is not None and found.ours:
        return
    if found is not None:
        raise MountError(f"{mountpoint} is a mount of {found.filesystem}, not of resultsfs: use umount", errno.EINVAL)
    others = sorted({mount.mountpoint for mount in mountinfo.mounts() if mount.ours})
    raise MountError(
        f"nothing is mounted at {mountpoint}; mounts of resultsfs: {', '.join(others) or 'none'}", errno.EINVAL
    )


def _take_off(mountpoint: str, lazy: bool, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while (found := mountinfo.at(mountpoint)) is not None and found.ours:
        try:
            _unmount_once(mountpoint, lazy)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise MountError(f"{mountpoint} cannot be unmounted: {error.strerror}", error.errno) from None
            if time.monotonic() > deadline:
                users = ", ".join(_users(mountpoint)) or "a process of another user or container"
                command = shlex.join(["resultsfs", "unmount", "--lazy", mountpoint])
                raise MountError(
                    f"{mountpoint} is in use by {users}: end it, or run `{command}`",
                    errno.EBUSY,
                ) from None
            time.sleep(_PAUSE)


def _unmount_once(mountpoint: str, lazy: bool) -> None:
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
        if libc.umount2(ctypes.c_char_p(os.fsencode(mountpoint)), ctypes.c_int(flags)) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), mountpoint)
        return
    program = mountpoints.fusermount()
    if program is None:
        raise NotSupported("fusermount is not installed: install the package fuse3, or run as root")
    options = ["-u", "-z"] if lazy else ["-u"]
    done = subprocess.run(
        [program, *options, "--", mountpoint],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode != 0:
        said = done.stderr.strip()
        raise OSError(errno.EBUSY if "busy" in said else errno.EPERM, said, mountpoint)


def daemons(mountpoint: str) -> Iterator[tuple[int, int]]:
    """Pid and a new pidfd of each process that serves this mount point alone: holder and server, or the one of fusepy.

    The caller closes the pidfds.
    """
    named = {module.encode(): [option, os.fsencode(mountpoint)] for module, option in _NAMING.items()}
    for pid in _pids():
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue
        words = _command_line(pid)
        wanted = next((named[word] for word in words if word in named), None)
        if wanted is not None and any(words[at : at + 2] == wanted for at in range(len(words))):
            yield pid, pidfd
        else:
            os.close(pidfd)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _command_line(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def _wait_gone(serving: list[tuple[int, int]], mountpoint: str) -> None:
    deadline = time.monotonic() + STOP_TIMEOUT
    for pid, pidfd in serving:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise MountError(
                f"{mountpoint} is unmounted, but its daemon (pid {pid}) has not ended within {STOP_TIMEOUT:.0f} s"
            )


def _users(mountpoint: str) -> list[str]:
    """Processes that hold something of a mount: by their links in /proc, which are read without following them."""
    inside = re.compile(re.escape(mountpoint) + r"(/|$)")
    users = []
    for pid in _pids():
        try:
            links = [f"/proc/{pid}/cwd", f"/proc/{pid}/root"]
            links += [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")]
            if any(inside.match(_readlink(link)) for link in links):
                name = os.fsdecode(_command_line(pid)[0] or b"?")
                users.append(f"{os.path.basename(name)} (pid {pid})")
        except OSError:
            continue  # gone meanwhile, or not ours to look at
    return users


def _readlink(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""
