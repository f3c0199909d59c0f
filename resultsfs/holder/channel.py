"""Connections that carry messages and descriptors: Unix sockets that keep packets apart, between processes of one user."""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections import deque

from resultsfs.errors import HolderGone, InvalidMessage
from resultsfs.holder.messages import MOST, Message, decode, encode

_CREDENTIALS = struct.Struct("=iii")
_ROOM = socket.CMSG_SPACE(4 * array.array("i").itemsize)


class DescriptorLost(InvalidMessage):
    """A message whose descriptor this process had no room for: `told` is the message."""

    default_errno = errno.EMFILE

    def __init__(self, told: Message) -> None:
        super().__init__(f"the descriptor that came with {told.name} is lost: this process may open no more files")
        self.told = told


class Channel:
    """One connection. With a queue it never waits: what does not fit goes out at `flush`."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._queue: deque[tuple[bytes, int | None]] = deque()
        self.pid, self.uid = peer(connection)
        self.closed = False

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def settle(self, timeout: float | None) -> None:
        """How long sending and receiving may wait, in seconds; None for as long as it takes, 0 for not at all."""
        self._socket.settimeout(timeout)

    def send(self, message: Message, descriptor: int | None = None) -> None:
        """Send a message, and a descriptor with it. Raises HolderGone when nobody is there, or not in time."""
        self._put(encode(message), descriptor)

    def _put(self, packet: bytes, descriptor: int | None) -> None:
        ancillary = []
        if descriptor is not None:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        try:
            self._socket.sendmsg([packet], ancillary, socket.MSG_NOSIGNAL)
        except TimeoutError:
            raise HolderGone("the other side of the holder's socket takes no more messages", errno.ETIMEDOUT) from None
        except BlockingIOError:
            raise
        except OSError as error:
            raise HolderGone(f"the other side of the holder's socket is gone: {error.strerror}") from None

    def queue(self, message: Message, descriptor: int | None = None) -> None:
        """Send a message as soon as it fits, without waiting; the descriptor is copied. Raises HolderGone."""
        self._queue.append((encode(message), None if descriptor is None else os.dup(descriptor)))
        self.flush()

    def flush(self) -> bool:
        """Send what is queued, as far as it fits; whether that was all. Raises HolderGone."""
        while self._queue:
            packet, descriptor = self._queue[0]
            try:
                self._put(packet, descriptor)
            except BlockingIOError:
                return False
            self._queue.popleft()
            if descriptor is not None:
                os.close(descriptor)
        return True

    def receive(self) -> tuple[Message, int | None]:
        """The next message, and the descriptor that came with it, which is the caller's to close.

        Raises HolderGone at the end, BlockingIOError, InvalidMessage, DescriptorLost.
        """
        try:
            packet, ancillary, flags, _ = self._socket.recvmsg(MOST + 1, _ROOM, socket.MSG_CMSG_CLOEXEC)
        except TimeoutError:
            raise HolderGone("the other side of the holder's socket does not answer", errno.ETIMEDOUT) from None
        except ConnectionError as error:
            raise HolderGone(f"the other side of the holder's socket is gone: {error.strerror}") from None
        found = _descriptors(ancillary)
        try:
            if not packet:
                raise HolderGone("the other side of the holder's socket has closed it")
            if flags & socket.MSG_CTRUNC and not found:
                raise DescriptorLost(decode(packet))
            if len(packet) > MOST or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(found) > 1:
                raise InvalidMessage(f"a message of more than {MOST} bytes, or with more than one descriptor")
            message = decode(packet)
        except BaseException:
            for descriptor in found:
                os.close(descriptor)
            raise
        return message, found[0] if found else None

    def detach(self) -> int:
        """The socket's descriptor, which is the caller's from now on."""
        self.closed = True
        return self._socket.detach()

    def close(self) -> None:
        """Close it. Idempotent."""
        self.closed = True
        self._socket.close()
        while self._queue:
            _, descriptor = self._queue.popleft()
            if descriptor is not None:
                os.close(descriptor)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found: list[int] = []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            values = array.array("i")
            values.frombytes(data[: len(data) - len(data) % values.itemsize])
            found.extend(values)
    return found


def peer(connection: socket.socket) -> tuple[int, int]:
    """Pid and uid of who made the connection."""
    pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid


def connect(path: str, timeout: float | None = None) -> Channel:
    """A connection to the holder that listens at a path. Raises HolderGone when there is none."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.settimeout(timeout)
    try:
        with _Near(path) as near:
            made.connect(near)
    except OSError as error:
        made.close()
        raise HolderGone(f"no holder listens at {path}: {error.strerror or error}", error.errno) from None
    return Channel(made)


def listen(path: str) -> socket.socket:
    """A socket that listens at a path, which only this user and root can reach. Raises OSError (EADDRINUSE)."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mask = os.umask(0o177)
    try:
        with _Near(path) as near:
            made.bind(near)
        made.listen(128)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    finally:
        os.umask(mask)
    return made


class _Near:
    """A path of any length, for a socket's address, which has room for 107 bytes."""

    def __init__(self, path: str) -> None:
        self._directory, self._name = os.path.split(path)

    def __enter__(self) -> str:
        self._descriptor = os.open(self._directory or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._descriptor}/{self._name}"

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
