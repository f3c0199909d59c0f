"""Moving a large content in blocks, several at a time, in bounded memory.

Up: at most `concurrency` parts in flight and one being filled: part size x (concurrency + 1) bytes.
Down: `concurrency` blocks in flight or waiting their turn, and the one that the caller has.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from resultsfs.errors import ContentMismatch, UploadAbandoned
from resultsfs.retry import Stop, check
from resultsfs.store_backend import Part


class Checked:
    """Passes chunks on and compares SHA-256 and size; what does not fit is abandoned as early as it shows."""

    def __init__(self, chunks: Iterator[bytes], sha256: str, size: int) -> None:
        self._chunks = chunks
        self._sha256 = sha256
        self._size = size
        self._seen = 0
        self._hash = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._seen += len(chunk)
            if self._seen > self._size:
                raise UploadAbandoned(f"{self._sha256}: more than its {self._size} bytes: it changed while it was sent")
            self._hash.update(chunk)
            yield chunk

    def verify(self) -> None:
        """Raise UploadAbandoned unless exactly the named content has passed."""
        if self._seen != self._size or self._hash.hexdigest() != self._sha256:
            raise UploadAbandoned(
                f"{self._sha256}: {self._seen} of {self._size} bytes with SHA-256 {self._hash.hexdigest()} were read: "
                "it changed while it was sent"
            )


class Parts:
    """Buffers of `size` bytes each, filled over and over: `count` of them are all the memory that is used.

    Allocated once, for parts that come and go leave holes in the heap of each thread, which cost as much again.
    """

    def __init__(self, size: int, count: int) -> None:
        self._size = size
        self._free = [bytearray(size) for _ in range(count)]  # zero pages: no memory yet

    def cut(self, chunks: Iterator[bytes]) -> Iterator[memoryview]:
        """The same bytes in pieces of exactly `size`, but for the last; each is to be given back."""
        filled = 0
        buffer = self._free.pop()
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                taken = min(len(view), self._size - filled)
                buffer[filled : filled + taken] = view[:taken]
                view, filled = view[taken:], filled + taken
                if filled == self._size:
                    yield memoryview(buffer)
                    filled, buffer = 0, self._free.pop()
        if filled:
            yield memoryview(buffer)[:filled]

    def give_back(self, part: memoryview) -> None:
        """The piece is not used any more."""
        buffer = part.obj
        assert isinstance(buffer, bytearray)
        self._free.append(buffer)


def send(
    chunks: Iterator[bytes], part_size: int, concurrency: int, write: Callable[[int, Part, Stop], None], stop: Stop
) -> None:
    """Call `write(number, part, stop)` for all parts, `concurrency` at a time; the first failure ends the others."""
    failed = threading.Event()
    parts = Parts(part_size, concurrency + 1)

    def given_up() -> bool:
        return failed.is_set() or stop()

    def written(number: int, part: memoryview) -> None:
        try:
            write(number, part, given_up)
        finally:
            parts.give_back(part)

    running: set[Future[None]] = set()
    with ThreadPoolExecutor(concurrency, "store-upload") as pool:
        try:
            for number, part in enumerate(parts.cut(chunks)):
                if len(running) == concurrency:
                    running = _after_one(running)
                check(stop, "upload")
                running.add(pool.submit(written, number, part))
            while running:
                running = _after_one(running)
        finally:
            failed.set()


def _after_one(running: set[Future[None]]) -> set[Future[None]]:
    """Wait until one has ended, raise if it failed; those that still run."""
    done, rest = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return rest


def receive(
    read: Callable[[int, memoryview, Stop], None], start: int, end: int, block: int, concurrency: int, stop: Stop
) -> Generator[bytes, None, None]:
    """The bytes from `start` to `end` in order, in blocks, read ahead by `read(from, buffer, stop)`."""
    spans = [(at, min(block, end - at)) for at in range(start, end, block)]
    if not spans:
        return
    concurrency = min(concurrency, len(spans))
    buffers = deque(bytearray(block if len(spans) > 1 else end - start) for _ in range(concurrency))
    closed = threading.Event()
    ahead: deque[tuple[Future[None], memoryview]] = deque()

    def given_up() -> bool:
        return closed.is_set() or stop()

    with ThreadPoolExecutor(concurrency, "store-download") as pool:
        try:
            for at, length in spans:
                if not buffers:
                    yield _after_first(ahead, buffers)
                part = memoryview(buffers.popleft())[:length]
                ahead.append((pool.submit(read, at, part, given_up), part))
            while ahead:
                yield _after_first(ahead, buffers)
        finally:
            closed.set()
            for future, _ in ahead:
                future.cancel()


def _after_first(ahead: deque[tuple[Future[None], memoryview]], free: deque[bytearray]) -> bytes:
    """Wait for the block whose turn it is; its bytes, and its buffer is free."""
    future, part = ahead.popleft()
    future.result()
    data = bytes(part)
    buffer = part.obj
    assert isinstance(buffer, bytearray)
    free.append(buffer)
    return data


def verified(blocks: Generator[bytes, None, None], sha256: str, what: str) -> Generator[bytes, None, None]:
    """The same blocks; the last one only if all together have that SHA-256, else ContentMismatch."""
    digest = hashlib.sha256()
    held = b""
    with contextlib.closing(blocks):  # ends the requests ahead when the caller stops early
        for block in blocks:
            if held:
                yield held
            digest.update(block)
            held = block
    if digest.hexdigest() != sha256:
        raise ContentMismatch(f"{what}: the store returned content with SHA-256 {digest.hexdigest()}")
    if held:
        yield held
