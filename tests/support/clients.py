"""Clients that load a mount, each checking what it reads: `clients.py <kind> <mount> <stop> <cat>`, run as a program.

Each works until the file <stop> is there, and prints how many operations it did. An error or a wrong byte ends it with
a traceback. Nothing but the standard library is loaded.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import BinaryIO

BLOCK = 4096
PACE = 0.002
"""Seconds between turns: clients that do not need the server would leave it no processor."""


class Work:
    """One client's own directory, and its chance."""

    def __init__(self, kind: str, mount: str, stop: str, cat: str) -> None:
        self.mount, self.stop, self.cat = mount, stop, cat
        self.here = f"{mount}/{kind}"
        self.chance = random.Random(kind)
        self.count = 0
        os.makedirs(self.here, exist_ok=True)

    def turns(self) -> Iterator[int]:
        """Numbers, until it is time to end; one at least."""
        yield 0
        turn = 1
        while not os.path.exists(self.stop):
            yield turn
            turn += 1
            time.sleep(PACE)

    def bytes(self, most: int) -> bytes:
        """Random content."""
        return self.chance.randbytes(self.chance.randrange(1, most))

    def did(self, count: int = 1) -> None:
        """Count operations."""
        self.count += count


def same(found: bytes, wanted: bytes, what: str) -> None:
    """Raises AssertionError for a wrong byte."""
    if found != wanted:
        at = next(
            (at for at, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), min(len(found), len(wanted))
        )
        raise AssertionError(f"{what}: {len(found)} bytes instead of {len(wanted)}, the first difference at {at}")


def pieces(file: BinaryIO) -> bytes:
    """A file's content, read bit by bit."""
    found = bytearray()
    while part := file.read(10_000):
        found += part
    return bytes(found)


def buffered(work: Work) -> None:
    """Writes at random places of a file that stays open, reads back through it and through another."""
    model = bytearray()
    with open(f"{work.here}/f", "w+b", buffering=0) as file:
        for turn in work.turns():
            at, data = work.chance.randrange(0, 200_000), work.bytes(30_000)
            file.seek(at)
            assert file.write(data) == len(data)
            model.extend(bytes(max(0, at + len(data) - len(model))))
            model[at : at + len(data)] = data
            if turn % 7 == 3:
                cut = work.chance.randrange(0, len(model))
                file.truncate(cut)
                del model[cut:]
            same(os.pread(file.fileno(), len(model) + 1, 0), bytes(model), "through the same handle")
            with open(f"{work.here}/f", "rb") as other:
                same(other.read(), bytes(model), "through another handle")
            if turn % 11 == 5:
                os.fsync(file.fileno())
            work.did(5)


def appending(work: Work) -> None:
    """Appends lines through a handle that stays open, and through new ones: each is there once, in order."""
    name, number = f"{work.here}/log", 0
    with open(name, "ab", buffering=0) as file:
        for turn in work.turns():
            for _ in range(5):
                file.write(b"%08d\n" % number)
                number += 1
            with open(name, "ab", buffering=0) as other:
                other.write(b"%08d\n" % number)
                number += 1
            if turn % 10 == 0:
                with open(name, "rb") as reader:
                    same(reader.read(), b"".join(b"%08d\n" % at for at in range(number)), "appended")
            if number > 20_000:
                file.truncate(0)
                number = 0
            work.did(8)


def direct(work: Work) -> None:
    """Writes and reads with O_DIRECT."""
    model: dict[int, bytes] = {}
    descriptor = os.open(f"{work.here}/f", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    with mmap.mmap(-1, BLOCK) as block:
        for _ in work.turns():
            at = work.chance.randrange(0, 64)
            block[:] = model[at] = work.chance.randbytes(BLOCK)
            assert os.pwritev(descriptor, [block], at * BLOCK) == BLOCK
            other = work.chance.choice(list(model))
            assert os.preadv(descriptor, [block], other * BLOCK) == BLOCK
            same(block[:], model[other], "with O_DIRECT")
            work.did(2)
    os.close(descriptor)
    with open(f"{work.here}/f", "rb") as file:
        for at, data in model.items():
            same(os.pread(file.fileno(), BLOCK, at * BLOCK), data, "in the end")


def mapped(work: Work) -> None:
    """Writes through a shared mapping; others read it from the file."""
    size = 64 * BLOCK
    model = bytearray(size)
    with open(f"{work.here}/f", "w+b", buffering=0) as file:
        file.truncate(size)
        with mmap.mmap(file.fileno(), size) as mapping:
            for turn in work.turns():
                at, data = work.chance.randrange(0, size - 5000), work.bytes(5000)
                mapping[at : at + len(data)] = model[at : at + len(data)] = data
                same(os.pread(file.fileno(), size, 0), bytes(model), "a mapping's bytes")
                if turn % 20 == 7:
                    mapping.flush()
                work.did(2)
    with open(f"{work.here}/f", "rb") as other:
        same(other.read(), bytes(model), "in the end")


def replacing(work: Work) -> None:
    """Writes files aside and renames them over others that are open; unlinks open ones; exchanges."""
    libc = __import__("ctypes").CDLL(None, use_errno=True)
    contents: dict[str, bytes] = {}
    for turn in work.turns():
        name = f"{work.here}/{turn % 5}"
        data = work.bytes(50_000)
        with open(f"{work.here}/aside", "wb") as file:
            file.write(data)
        old = open(name, "rb", buffering=0) if name in contents else None  # noqa: SIM115
        os.rename(f"{work.here}/aside", name)
        if old is not None:
            same(old.read() + old.read(), contents[name], "replaced while open")
            old.close()
        contents[name] = data
        with open(name, "rb") as file:
            same(file.read(), data, "replaced")
        if turn % 5 == 2:
            os.link(name, f"{work.here}/link")
            assert os.stat(name).st_nlink == 2
            with open(f"{work.here}/link", "r+b", buffering=0) as file:
                os.unlink(f"{work.here}/link")
                file.write(b"x")
            contents[name] = b"x" + data[1:]
            assert os.stat(name).st_nlink == 1
        if turn % 5 == 3:
            with open(name, "r+b", buffering=0) as file:
                os.unlink(name)
                file.write(b"nameless")
                assert os.fstat(file.fileno()).st_nlink == 0
                same(os.pread(file.fileno(), 8, 0), b"nameless", "unlinked while open")
            del contents[name]
            assert not os.path.exists(name)
        if turn % 5 == 4 and len(contents) > 1:
            one, other = work.chance.sample(sorted(contents), 2)
            if libc.renameat2(-100, one.encode(), -100, other.encode(), 2) != 0:
                raise OSError(__import__("ctypes").get_errno(), "renameat2")
            contents[one], contents[other] = contents[other], contents[one]
        work.did(6)
    for name, data in contents.items():
        with open(name, "rb") as file:
            same(file.read(), data, "in the end")


def making(work: Work) -> None:
    """Makes trees and takes them away again, exclusively each: none may be there before, or missing after."""
    for turn in work.turns():
        top = f"{work.here}/t{turn}"
        os.mkdir(top, 0o700)
        os.mkdir(f"{top}/inner")
        for number in range(5):
            descriptor = os.open(f"{top}/inner/{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640)
            os.write(descriptor, b"%d" % number)
            os.close(descriptor)
        os.symlink("inner/3", f"{top}/symlink")
        os.link(f"{top}/inner/4", f"{top}/link")
        os.rename(f"{top}/inner", f"{top}/renamed")
        assert sorted(os.listdir(f"{top}/renamed")) == ["0", "1", "2", "3", "4"]
        assert os.readlink(f"{top}/symlink") == "inner/3"
        assert os.stat(f"{top}/link").st_nlink == 2
        for number in range(5):
            with open(f"{top}/renamed/{number}", "rb") as file:
                same(file.read(), b"%d" % number, "made")
            os.unlink(f"{top}/renamed/{number}")
        os.rmdir(f"{top}/renamed")
        os.unlink(f"{top}/symlink")
        os.unlink(f"{top}/link")
        os.rmdir(top)
        assert not os.path.exists(top)
        work.did(24)


def listing(work: Work) -> None:
    """Lists a directory of 300 entries, and another that changes: what stays is seen exactly once."""
    stays = {f"{'stays' * 8}-{number}" for number in range(300)}
    for name in stays:
        os.close(os.open(f"{work.here}/{name}", os.O_CREAT | os.O_WRONLY))
    for turn in work.turns():
        comes = f"{work.here}/comes-{turn}"
        os.close(os.open(comes, os.O_CREAT | os.O_WRONLY))
        with os.scandir(work.here) as entries:
            found = [entry.name for entry in entries]
        assert len(found) == len(set(found)), "an entry is there twice"
        assert stays <= set(found), f"{len(stays - set(found))} entries are missing"
        os.unlink(comes)
        work.did(3)


def sharing(work: Work) -> None:
    """Two processes append whole lines to one file: none is lost, doubled or torn."""
    name = f"{work.here}/shared"
    other = os.fork()
    who, lines = (b"a" if other else b"b"), 0
    with open(name, "ab", buffering=0) as file:
        for _ in work.turns():
            file.write(who + b"%07d\n" % lines)
            lines += 1
    if not other:
        os._exit(0)
    assert os.waitpid(other, 0)[1] == 0
    with open(name, "rb") as file:
        found = file.read().splitlines()
    mine = [line for line in found if line.startswith(b"a")]
    theirs = [line for line in found if line.startswith(b"b")]
    assert mine == [b"a%07d" % at for at in range(lines)], f"{len(mine)} of {lines} lines"
    assert theirs == [b"b%07d" % at for at in range(len(theirs))]
    work.did(len(found))


def collecting(work: Work) -> None:
    """Writes results, has them collected, and reads by reference what was spilled."""
    for _ in work.turns():
        contents = {}
        for number in range(8):
            name = f"result-{number}"
            data = contents[name] = work.chance.randbytes(work.chance.choice((50, 200, 20_000, 300_000)))
            with open(f"{work.mount}/{name}", "wb") as file:
                file.write(data)
        for name, data in contents.items():
            done = subprocess.run([work.cat, f"{work.mount}/{name}"], capture_output=True, check=False)
            # each is a collector of its own, so what another has read to its end may be missing: not here, they differ
            assert done.returncode == 0, f"{name}: {done.stderr.decode()}"
            shown = done.stdout
            if shown != data:
                assert len(shown) == 87, f"{name}: {len(shown)} bytes of {len(data)}"
                with open(f"{work.mount}/.ref/{shown.decode().rpartition('/')[2]}", "rb") as file:
                    shown = pieces(file)
            assert hashlib.sha256(shown).digest() == hashlib.sha256(data).digest(), name
            with open(f"{work.mount}/{name}", "rb") as file:
                same(file.read(), data, "the file itself")
            work.did(3)


def main() -> None:
    """One client."""
    kind, mount, stop, cat = sys.argv[1:]
    work = Work(kind, mount, stop, cat)
    globals()[kind](work)
    print(work.count)


if __name__ == "__main__":
    main()
