"""Linux namespaces, mounts and parent-death signals, by libc: Python has `os.unshare` only from 3.12 on."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
from collections.abc import Callable
from functools import cache

from resultsfs.errors import MountError, NotSupported

NEW_MOUNTS = 0x00020000
NEW_PIDS = 0x20000000
_NEW_USER = 0x10000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
_MS_BIND, _MS_REC, _MS_UNBINDABLE, _MS_SLAVE = 1 << 12, 1 << 14, 1 << 17, 1 << 19
_MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1

# glibc has no wrapper for it; the numbers are those of the kernel's tables
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}

_HINTS = (
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> int:
    """Call a libc function; the errno of its failure, 0 when it worked."""
    if getattr(_libc(), name)(*arguments) == -1:
        return ctypes.get_errno()
    return 0


def _pivot_root(new: bytes, old: bytes) -> int:
    number = _PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise NotSupported(
            f"the number of pivot_root(2) on {os.uname().machine} is not known: run it on another machine"
        )
    return _call("syscall", ctypes.c_long(number), ctypes.c_char_p(new), ctypes.c_char_p(old))


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags` (NEW_MOUNTS, NEW_PIDS). Raises NotSupported when it is not allowed."""
    failed = _call("unshare", ctypes.c_int(flags))
    if failed:
        raise NotSupported(
            f"this machine does not allow new namespaces: {os.strerror(failed)}; in a container, run it with "
            "--privileged or --cap-add SYS_ADMIN",
            failed,
        )


def enter_mount_namespace() -> None:
    """Give the calling, single-threaded process mounts of its own, that never show outside.

    Without root's rights it enters a user namespace first, in which it is root and its own uid and gid are
    the only ones there are. Raises NotSupported with what to do when the kernel does not allow that.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        unshare(NEW_MOUNTS)
    else:
        failed = _call("unshare", ctypes.c_int(_NEW_USER | NEW_MOUNTS))
        if failed:
            raise _no_user_namespace(failed)
        try:
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"0 {uid} 1")
            _write("/proc/self/gid_map", f"0 {gid} 1")
        except OSError as error:
            raise _no_user_namespace(error.errno or errno.EPERM) from None
    try:
        # slave: what the host unmounts goes here too, and nothing goes from here to the host
        mount("none", "/", None, _MS_REC | _MS_SLAVE)
    except MountError as error:
        # where AppArmor restricts user namespaces they can be made, but give no rights
        if uid == 0 or error.errno not in (errno.EPERM, errno.EACCES):
            raise
        raise _no_user_namespace(error.errno) from None


def _no_user_namespace(failed: int) -> NotSupported:
    cures = [command for path, value, command in _HINTS if _read(path) == value]
    cure = "run as root: " + " && ".join(cures) if cures else "run as root, or in a container with --privileged"
    return NotSupported(f"this machine does not allow user namespaces to you: {os.strerror(failed)}; {cure}", failed)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _read(path: str) -> str | None:
    """A kernel setting; None where this kernel has no such setting."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def mount(source: str, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2). Raises MountError that names source, target and the kernel's reason."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    failed = _call(
        "mount",
        *(ctypes.c_char_p(text) for text in encoded),
        ctypes.c_ulong(flags),
        None if data is None else ctypes.c_char_p(os.fsencode(data)),
    )
    if failed:
        raise MountError(f"cannot mount {source} at {target}: {os.strerror(failed)}", failed)


def bind(source: str, target: str) -> None:
    """Show `source`, with all that is mounted beneath it, at `target` as well."""
    mount(source, target, None, _MS_BIND | _MS_REC)


def tmpfs(target: str, mode: int = 0o755, flags: int = MS_NOSUID | MS_NODEV) -> None:
    """An empty directory in memory at `target`."""
    mount("tmpfs", target, "tmpfs", flags, f"mode={mode:o}")


def unbindable(target: str) -> None:
    """Leave the mount at `target` out of recursive binds of what it lies in."""
    mount("none", target, None, _MS_UNBINDABLE)


def change_root(new: str) -> None:
    """Make the mount at `new` the root of the calling process's mount namespace, and drop the old one."""
    os.chdir(new)
    # pivot_root(2), "pivot_root(".", ".")": the old root ends on top of the new one and is taken off
    failed = _pivot_root(b".", b".")
    if failed:
        raise NotSupported(
            f"cannot make {new} the root directory: {os.strerror(failed)}; if this system runs from an initial "
            "ramdisk, run it in a chroot on a mounted filesystem",
            failed,
        )
    failed = _call("umount2", ctypes.c_char_p(b"."), ctypes.c_int(_MNT_DETACH))
    if failed:
        raise MountError(f"cannot leave the old root directory: {os.strerror(failed)}", failed)
    os.chdir("/")


def die_with_parent(orphaned: Callable[[], bool]) -> None:
    """Have the kernel kill this process (SIGKILL) when the thread that started it ends.

    `orphaned` tells whether the parent was gone before that could be asked for; then the process ends here.
    """
    failed = _call("prctl", ctypes.c_int(_PR_SET_PDEATHSIG), ctypes.c_ulong(signal.SIGKILL))
    if failed:
        raise NotSupported(f"prctl(PR_SET_PDEATHSIG): {os.strerror(failed)}", failed)
    if orphaned():
        os._exit(128 + signal.SIGKILL)


def ended(pidfd: int, timeout: float = 0.0) -> bool:
    """Whether the process behind a pidfd has ended (any descriptor: is readable), waiting up to `timeout` seconds."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
