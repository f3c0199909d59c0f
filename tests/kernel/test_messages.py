"""Messages that no kernel sends: the session answers or ignores them, and serves on."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resultsfs.collector import nobody
from resultsfs.kernel.files import MAX_IO, FileRequests
from resultsfs.kernel.handlers import handlers
from resultsfs.kernel.layout import names
from resultsfs.kernel.protocol import (
    BATCH_FORGET_IN,
    COPY_FILE_RANGE_IN,
    CREATE_IN,
    FALLOCATE_IN,
    FLUSH_IN,
    FORGET_IN,
    FORGET_ONE,
    FSYNC_IN,
    GETATTR_IN,
    IN_HEADER,
    INTERRUPT_IN,
    LSEEK_IN,
    MKDIR_IN,
    MKNOD_IN,
    NODE_IN,
    OPEN_IN,
    READ_IN,
    RELEASE_IN,
    RENAME2_IN,
    RESEND,
    ROOT_ID,
    SETATTR_IN,
    WRITE_IN,
    XATTR_IN,
    InitFlag,
    Opcode,
)
from resultsfs.kernel.request import caller
from resultsfs.kernel.serve import Service
from resultsfs.kernel.session import Session
from resultsfs.settings import Settings
from tests.support.mount import record

SILENT = {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT}


class Kernel:
    """The other end of a session: a socket that keeps messages apart, as /dev/fuse does."""

    def __init__(self, directory: Path) -> None:
        self.service = Service(
            record(), directory, Settings(store=f"file://{directory}/store", result_size_limit=1 << 20), nobody, caller
        )
        ours, self.end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.setblocking(False)
        self.posted: SimpleQueue[Callable[[], None]] = SimpleQueue()
        requests = FileRequests(self.service.filesystem, nobody, ["report"])
        self.session = Session(ours.detach(), requests, self.posted.put, lambda: None)

    def close(self) -> None:
        """Give all back."""
        self.session.close()
        self.end.close()
        self.service.close()

    def send(self, opcode: int, body: bytes, nodeid: int = ROOT_ID, unique: int = 2) -> tuple[int, bytes] | None:
        """One request; the error and body of its answer, None when there is none (yet)."""
        header = struct.pack("=IIQQIIIHH", IN_HEADER.size + len(body), opcode, unique, nodeid, 0, 0, os.getpid(), 0, 0)
        self.session.take(memoryview(header + body))
        return self.answer(unique)

    def answer(self, unique: int) -> tuple[int, bytes] | None:
        """The next answer, which must be to `unique` and as long as it says."""
        try:
            answer = self.end.recv(2 * MAX_IO)
        except BlockingIOError:
            return None
        length, error, answered = struct.unpack_from("=IiQ", answer)
        assert (length, answered) == (len(answer), unique)
        return -error, answer[16:]

    def carried_out(self, opcode: int, body: bytes, nodeid: int, unique: int) -> tuple[int, bytes] | None:
        """One request and its answer, also if that has to wait; None for what is not answered."""
        answer = self.send(opcode, body, nodeid, unique)
        while answer is None and opcode not in SILENT:
            self.posted.get(timeout=100)()
            answer = self.answer(unique)
        return answer

    def alive(self) -> bool:
        """Whether the root still has attributes."""
        answer = self.send(Opcode.GETATTR, bytes(16), unique=4)
        return answer is not None and answer[0] == 0


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A session without a mount."""
    with closing(Kernel(tmp_path_factory.mktemp("spool"))) as found:
        yield found


BOUNDED = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LONG = settings(max_examples=30_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@BOUNDED
@given(data=st.binary(max_size=300))
def test_any_bytes(kernel: Kernel, data: bytes) -> None:
    """Bytes that are no message at all neither end the session nor raise."""
    kernel.session.take(memoryview(data))
    while True:
        try:
            kernel.end.recv(2 * MAX_IO)
        except BlockingIOError:
            break
    assert kernel.alive()


def _answered(kernel: Kernel, opcode: int, body: bytes, nodeid: int) -> None:
    answer = kernel.carried_out(opcode, body, nodeid, 2)
    assert (answer is None) == (opcode in SILENT)
    assert not kernel.session.closed
    assert kernel.alive()


BODIES = st.binary(max_size=120) | st.tuples(
    st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3), max_size=11),
    st.sampled_from([b"", b"name\0", b"a\0b\0", b"..\0", b"a/b\0", b"\xff\0", b"report\0", b"n"]),
).map(lambda parts: b"".join(value.to_bytes(8, "little") for value in parts[0]) + parts[1])
OPCODES = st.sampled_from([opcode for opcode in range(64) if opcode != Opcode.INIT])


@BOUNDED
@given(opcode=OPCODES, body=BODIES, nodeid=st.sampled_from([0, ROOT_ID, 2, 2**64 - 1]))
def test_any_body(kernel: Kernel, opcode: int, body: bytes, nodeid: int) -> None:
    """Whatever follows a request's header, the session serves on, and the root keeps its attributes."""
    _answered(kernel, opcode, body, nodeid)


# By opcode: what a body is made of, and how many names follow. READ_IN stands for READDIR's too, NODE_IN for RENAME's.
FORMS: dict[int, tuple[int, int]] = {
    Opcode.LOOKUP: (0, 1),
    Opcode.FORGET: (FORGET_IN.size, 0),
    Opcode.GETATTR: (GETATTR_IN.size, 0),
    Opcode.SETATTR: (SETATTR_IN.size, 0),
    Opcode.READLINK: (0, 0),
    Opcode.SYMLINK: (0, 2),
    Opcode.MKNOD: (MKNOD_IN.size, 1),
    Opcode.MKDIR: (MKDIR_IN.size, 1),
    Opcode.UNLINK: (0, 1),
    Opcode.RMDIR: (0, 1),
    Opcode.RENAME: (NODE_IN.size, 2),
    Opcode.LINK: (NODE_IN.size, 1),
    Opcode.OPEN: (OPEN_IN.size, 0),
    Opcode.READ: (READ_IN.size, 0),
    Opcode.WRITE: (WRITE_IN.size, 2),
    Opcode.STATFS: (0, 0),
    Opcode.RELEASE: (RELEASE_IN.size, 0),
    Opcode.FSYNC: (FSYNC_IN.size, 0),
    Opcode.SETXATTR: (XATTR_IN.size, 2),
    Opcode.GETXATTR: (XATTR_IN.size, 1),
    Opcode.LISTXATTR: (XATTR_IN.size, 0),
    Opcode.REMOVEXATTR: (0, 1),
    Opcode.FLUSH: (FLUSH_IN.size, 0),
    Opcode.OPENDIR: (OPEN_IN.size, 0),
    Opcode.READDIR: (READ_IN.size, 0),
    Opcode.RELEASEDIR: (RELEASE_IN.size, 0),
    Opcode.FSYNCDIR: (FSYNC_IN.size, 0),
    Opcode.CREATE: (CREATE_IN.size, 1),
    Opcode.INTERRUPT: (INTERRUPT_IN.size, 0),
    Opcode.BATCH_FORGET: (BATCH_FORGET_IN.size + 2 * FORGET_ONE.size, 0),
    Opcode.FALLOCATE: (FALLOCATE_IN.size, 0),
    Opcode.READDIRPLUS: (READ_IN.size, 0),
    Opcode.RENAME2: (RENAME2_IN.size, 2),
    Opcode.LSEEK: (LSEEK_IN.size, 0),
    Opcode.COPY_FILE_RANGE: (COPY_FILE_RANGE_IN.size, 0),
    Opcode.DESTROY: (0, 0),
}
WORDS = st.sampled_from([0, 1, 2, 3, 4, 0o100644, 0o40755, 1 << 12, 1 << 20, 2**32 - 1, 2**63 - 1, 2**64 - 1])
NAMES = st.sampled_from([b"a", b"b", b"report", b".ref", b"user.x", b"security.x", b"\xff", b"n" * 300])


@st.composite
def requests(draw: st.DrawFn) -> tuple[int, bytes, int, int]:
    """A request as the kernel could have made it: opcode, body of the right length, node, `unique`, resent or not."""
    opcode = draw(st.sampled_from(sorted(FORMS)))
    size, names_due = FORMS[opcode]
    # words of four bytes, and of eight, as most fields are
    words = draw(st.lists(st.tuples(WORDS, st.sampled_from([4, 8])), min_size=size // 4, max_size=size // 4))
    fixed = b"".join((value % (1 << 8 * width)).to_bytes(width, "little") for value, width in words)[:size]
    texts = b"".join(draw(NAMES) + b"\0" for _ in range(names_due))
    nodeid = draw(st.sampled_from([ROOT_ID, ROOT_ID, 0, 2**64 - 1]) | st.integers(2, 40))
    return opcode, fixed + texts, nodeid, 6 | draw(st.sampled_from([0, RESEND]))


def _well_formed(kernel: Kernel, held_back: bool, request: tuple[int, bytes, int, int]) -> None:
    opcode, body, nodeid, unique = request
    kernel.session.requests.held_back = int(InitFlag.WRITEBACK_CACHE) if held_back else 0
    answer = kernel.carried_out(opcode, body, nodeid, unique)
    assert (answer is None) == (opcode in SILENT)
    assert not kernel.session.closed
    assert kernel.alive()


@BOUNDED
@given(held_back=st.booleans(), request=requests())
def test_any_fields(kernel: Kernel, held_back: bool, request: tuple[int, bytes, int, int]) -> None:
    """Bodies as long as they are due, of every opcode, with any fields, also sent again: the session serves on."""
    _well_formed(kernel, held_back, request)


def test_every_opcode_has_a_form(kernel: Kernel) -> None:
    """What is served is what is tried."""
    assert set(FORMS) == set(handlers(kernel.session.requests)) | {Opcode.INTERRUPT}


@pytest.mark.slow
@pytest.mark.timeout(900)
@LONG
@given(opcode=OPCODES, body=BODIES, nodeid=st.sampled_from([0, ROOT_ID, 2, 2**64 - 1]))
def test_any_body_for_minutes(kernel: Kernel, opcode: int, body: bytes, nodeid: int) -> None:
    """The same as above, with a hundred times as many messages."""
    _answered(kernel, opcode, body, nodeid)


@pytest.mark.slow
@pytest.mark.timeout(900)
@LONG
@given(held_back=st.booleans(), request=requests())
def test_any_fields_for_minutes(kernel: Kernel, held_back: bool, request: tuple[int, bytes, int, int]) -> None:
    """The same for bodies as they are due, sent once or again."""
    _well_formed(kernel, held_back, request)


def test_short_bodies_are_refused(kernel: Kernel) -> None:
    """Each request with a body says EINVAL when that is cut short, or nothing where nothing is answered."""
    short = set(handlers(kernel.session.requests)) - {
        Opcode.READLINK, Opcode.STATFS, Opcode.OPENDIR, Opcode.DESTROY, *SILENT,
    }  # fmt: skip
    assert {opcode for opcode in short if kernel.send(opcode, b"") != (22, b"")} == set()
    assert {opcode for opcode in SILENT if kernel.send(opcode, b"") is not None} == set()


def test_unknown_requests_are_not_implemented(kernel: Kernel) -> None:
    """What is not served is ENOSYS, upon which the kernel does without."""
    served = set(handlers(kernel.session.requests)) | SILENT | {Opcode.INIT}
    assert all(kernel.send(opcode, bytes(64)) == (38, b"") for opcode in range(200) if opcode not in served)


def test_old_kernels_are_refused(kernel: Kernel) -> None:
    """INIT of a version before 7.31 is EPROTO; 7.31, without flags2, is spoken."""
    old = kernel.send(Opcode.INIT, struct.pack("=IIII", 7, 30, 1 << 20, 0))
    assert old == (71, b"")
    answer = kernel.send(Opcode.INIT, struct.pack("=IIII", 7, 31, 1 << 20, 0))
    assert answer is not None
    assert (answer[0], struct.unpack_from("=II", answer[1]), len(answer[1])) == (0, (7, 31), 64)


def test_write_that_says_more_than_it_holds(kernel: Kernel) -> None:
    """A WRITE with fewer bytes than it claims writes nothing."""
    body = struct.pack("=QQIIQII", 1, 0, 100, 0, 0, 0, 0) + b"few"
    assert len(body) == WRITE_IN.size + 3
    assert kernel.send(Opcode.WRITE, body) == (22, b"")


def test_handles_that_are_none(kernel: Kernel) -> None:
    """READ through a handle that was never given is EBADF, of any size."""
    body = struct.pack("=QQIIQII", 4711, 0, 2**32 - 1, 0, 0, 0, 0)
    assert len(body) == READ_IN.size
    assert kernel.send(Opcode.READ, body) == (9, b"")


def test_interrupting_what_is_not_there(kernel: Kernel) -> None:
    """INTERRUPT of a request that has been answered is ignored."""
    assert kernel.send(Opcode.INTERRUPT, INTERRUPT_IN.size * b"\1") is None
    assert kernel.alive()


@pytest.mark.parametrize("text", [b".\0", b"..\0", b"\0", b"a/b\0", b"unended"])
def test_names_that_lead_elsewhere(text: bytes) -> None:
    """A name is one component of a path, and nothing else."""
    with pytest.raises(OSError):
        names(text, 0, 1)
