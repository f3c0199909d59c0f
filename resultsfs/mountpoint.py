"""Mounting: `/dev/fuse` opened, mount(2) called with the descriptor, and what takes a mount off again.

With the right to mount (root, also a user namespace's own) this needs nothing else; without it the set-user-id
program fusermount mounts, and hands the descriptor over.
"""

from __future__ import annotations

import array
import ctypes
import errno
import os
import socket

from resultsfs import mountinfo
from resultsfs.errors import NotSupported

DEVICE = "/dev/fuse"
_MS_NOSUID, _MS_NODEV = 2, 4
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_libc = ctypes.CDLL(None, use_errno=True)


def attach(mountpoint: str, *, allow_other: bool) -> int:
    """Mount at a directory; the session's descriptor, which does not block.

    Raises NotSupported when that is impossible, with what to do.
    """
    try:
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise NotSupported(
            f"{DEVICE} cannot be opened: {error.strerror}; `resultsfs doctor` says what is missing"
        ) from None
    options = f"fd={descriptor},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()},default_permissions"
    if allow_other:
        options += ",allow_other"
    words = (b"resultsfs", os.fsencode(mountpoint), mountinfo.FILESYSTEM.encode())
    if _libc.mount(*words, ctypes.c_ulong(_MS_NOSUID | _MS_NODEV), options.encode()) == 0:
        return descriptor
    code = ctypes.get_errno()
    os.close(descriptor)
    program = fusermount() if code == errno.EPERM and os.geteuid() != 0 else None
    if program is not None:
        return _by_fusermount(program, mountpoint, allow_other)
    raise NotSupported(f"mounting at {mountpoint} failed: {os.strerror(code)}; `resultsfs doctor` says what is missing")


def _by_fusermount(program: str, mountpoint: str, allow_other: bool) -> int:
    import subprocess  # only who is not root pays for it

    ours, theirs = socket.socketpair()
    options = "nosuid,nodev,default_permissions,fsname=resultsfs,subtype=resultsfs"
    with ours:
        with theirs:
            done = subprocess.run(
                [program, "-o", options + (",allow_other" if allow_other else ""), "--", mountpoint],
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno()), "LC_ALL": "C"},
                pass_fds=(theirs.fileno(),),
                capture_output=True,
                text=True,
                check=False,
            )
        descriptor = received(ours) if done.returncode == 0 else None
    if descriptor is None:
        raise NotSupported(
            f"mounting at {mountpoint} failed: {done.stderr.strip()}; `resultsfs doctor` says what is missing"
        )
    os.set_blocking(descriptor, False)
    return descriptor


def received(connection: socket.socket) -> int | None:
    """A descriptor that the other side sent with one byte; None when it sent none."""
    room = array.array("i", [0]).itemsize
    _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(room))
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptor = int.from_bytes(data[:room], "little")
            os.set_inheritable(descriptor, False)
            return descriptor
    return None


def detach(mountpoint: str, *, foreign: bool = False) -> bool:
    """Take one mount of ours off, at once where nobody uses it, else when its last user is gone; whether there was one.

    `foreign`: also one of others.

    While this waits, the mount must be served or dead: what is still unwritten is written. Raises OSError.
    """
    found = mountinfo.at(os.path.realpath(os.path.dirname(mountpoint)) + "/" + os.path.basename(mountpoint))
    if found is None or not (found.ours or foreign):
        return False  # somebody else took it off
    if _libc.umount2(os.fsencode(mountpoint), _UMOUNT_NOFOLLOW | _MNT_DETACH) == 0:
        return True
    code = ctypes.get_errno()
    program = fusermount() if code == errno.EPERM else None
    if program is not None:
        import subprocess

        done = subprocess.run(
            [program, "-u", "-z", "--", mountpoint],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
        if done.returncode != 0 and mountinfo.at(found.mountpoint) == found:
            raise OSError(errno.EPERM, done.stderr.strip(), mountpoint)
    elif code not in (errno.EINVAL, errno.ENOENT) or mountinfo.at(found.mountpoint) == found:
        raise OSError(code, os.strerror(code), mountpoint)
    return True


def fusermount() -> str | None:
    """The program with which a user who is not root mounts and unmounts; None when it is not installed."""
    import shutil  # a megabyte, for who needs no such program

    return shutil.which("fusermount") or shutil.which("fusermount3")


def connection_of(descriptor: int) -> int | None:
    """The number of the connection behind a session's descriptor: the minor number of its mount's device.

    None where the kernel does not tell (older ones), or for a descriptor that is no session's.
    """
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key == "fuse_connection":
                return int(value)
    return None
