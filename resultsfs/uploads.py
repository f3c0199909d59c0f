"""Uploads: content on its way to the store, in the background or awaited by a collector.

An upload is the state of one content. What a reference names is always a state that the file really had: a file is
hashed, hashed again while it is sent, and the upload completed only if the digest is the key's; when the file changes
meanwhile, the work starts again, and after three restarts a private copy is sent.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from resultsfs.errors import StoreError, UploadAbandoned
from resultsfs.nodes import Node
from resultsfs.spool import FileState, Spool
from resultsfs.store import Key, Store

CHUNK = 1 << 20
"""Bytes read from a file at once."""
RESTARTS = 3
"""How often a changing file is begun again before a private copy is taken."""
SETTLED = 50_000_000
"""Nanoseconds after which a file's ctime surely tells a later write from the last one."""
_FIRST_PAUSE, _LAST_PAUSE = 0.2, 10.0  # seconds between tries, after the store's own retries


@dataclass(frozen=True, slots=True)
class Stored:
    """Content that is durable in the store: SHA-256 (hex) and size (bytes)."""

    sha256: str
    size: int


class Source(Protocol):
    """Where an upload's bytes come from."""

    def state(self) -> object:
        """Something that differs whenever the content has changed."""
        ...

    def settle(self) -> None:
        """Have all that was written so far in the content; may take some time."""
        ...

    def size(self) -> int:
        """The content's length in bytes."""
        ...

    def chunks(self) -> Iterator[bytes]:
        """The content from its beginning; can be asked for again."""
        ...

    def private(self) -> Source:
        """A copy that does not change any more."""
        ...

    def note_stored(self, sha256: str, state: object) -> None:
        """Called when the content that had that state is durable."""
        ...

    def close(self) -> None:
        """Give back what the source holds."""
        ...


class MemorySource:
    """Content held in memory: small results, and the elements of skeletons."""

    def __init__(self, content: bytes, spool: Spool) -> None:
        self._content = content
        self._spool = spool

    def state(self) -> object:
        """Constant: memory does not change."""
        return None

    def settle(self) -> None:
        """Nothing is written to it."""

    def size(self) -> int:
        """Length in bytes."""
        return len(self._content)

    def chunks(self) -> Iterator[bytes]:
        """The content in one piece."""
        yield self._content

    def private(self) -> Source:
        """Itself."""
        return self

    def note_stored(self, sha256: str, state: object) -> None:
        """Journal it."""
        self._spool.note_stored(sha256)

    def close(self) -> None:
        """Nothing is held."""


class FileSource:
    """A spool file, by a descriptor of its own; its node counts the writes that the daemon has seen.

    Without a node it is a private copy, which nobody writes to. `settle` fetches what is written but not in the spool.
    """

    def __init__(
        self, descriptor: int, node: Node | None, spool: Spool, settle: Callable[[Node], None] | None = None
    ) -> None:
        self._descriptor = descriptor
        self._node = node
        self._spool = spool
        self._settle = settle

    def settle(self) -> None:
        """Have the spool hold what writers that are still open have written."""
        if self._settle is not None and self._node is not None:
            self._settle(self._node)

    def state(self) -> tuple[FileState, int]:
        """Inode, size, ctime and the count of writes."""
        return FileState.of(self._descriptor), self._node.generation if self._node is not None else 0

    def digest(self) -> str | None:
        """The SHA-256 of the content as it is now, if it has been computed before and the state tells every change."""
        if self.mapped:
            return None
        state = self.state()
        if self._node is not None and self._node.digest is not None and self._node.digest[0] == state:
            return self._node.digest[1]
        return self._spool.digests.get(state[0])

    @property
    def mapped(self) -> bool:
        """Whether its content may change while its state stays."""
        return self._node is not None and self._node.mapped

    @property
    def inode(self) -> int:
        """The file's inode number."""
        return os.fstat(self._descriptor).st_ino

    def hash(self) -> str | None:
        """The SHA-256 of the whole content; None when it changed meanwhile."""
        self.settle()
        state, hasher = self.state(), hashlib.sha256()
        for chunk in self.chunks():
            hasher.update(chunk)
            if self.state() != state:
                return None
        return hasher.hexdigest() if self.state() == state else None

    def head(self, most: int) -> bytes:
        """The first `most` bytes, or all there are: never more, however fast the file grows."""
        found = bytearray()
        while len(found) < most and (part := os.pread(self._descriptor, min(CHUNK, most - len(found)), len(found))):
            found += part
        return bytes(found)

    def size(self) -> int:
        """The size now, in bytes."""
        return os.fstat(self._descriptor).st_size

    def chunks(self) -> Iterator[bytes]:
        """The file's content, a MiB at a time."""
        offset = 0
        while chunk := os.pread(self._descriptor, CHUNK, offset):
            yield chunk
            offset += len(chunk)

    def private(self) -> Source:
        """A nameless copy on the same disk."""
        self.settle()
        copy = self._spool.private_copy(self._descriptor)
        return FileSource(copy, None, self._spool)

    def note_stored(self, sha256: str, state: object) -> None:
        """Journal it with the file's state, so that it is not hashed again after a restart."""
        assert isinstance(state, tuple)
        file: FileState = state[0]
        # a write in the same tick of the clock as the last one seen would leave the same ctime
        settled = self._node is not None and not self.mapped and time.time_ns() - file.changed > SETTLED
        if self._node is not None:
            self._node.digest = (state, sha256)
        self._spool.note_stored(sha256, file if settled else None)

    def duplicate(self) -> FileSource:
        """Another source for the same file, with a descriptor of its own."""
        return FileSource(os.dup(self._descriptor), self._node, self._spool, self._settle)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a volume's uploads go, and who is told: `moved(n)` for every n bytes the store has accepted,
    `failed(error)` for each try that failed, `stored(bytes, seconds)` when a content has become durable."""

    store: Callable[[], Store]
    namespace: str
    run: UUID
    moved: Callable[[int], None]
    failed: Callable[[StoreError | OSError], None]
    stored: Callable[[int, float], None] = lambda size, seconds: None


class Upload:
    """One content on its way to the store. `done` is set when it is stored or given up.

    While it is `persistent` (a collector waits) it is tried until it is stored or abandoned, also while the
    file keeps changing; otherwise one failure or change ends it, and the volume schedules another.
    """

    def __init__(self, source: Source, target: Target, known: str | None = None, *, persistent: bool = False) -> None:
        self.persistent = persistent
        self.started = False
        self._lock = threading.Lock()
        self.source = source
        self.state = source.state()
        self.done = threading.Event()
        self.stored: Stored | None = None
        self._known = known
        self._target = target
        self._abandoned = threading.Event()

    def abandon(self) -> None:
        """Stop as soon as possible; nothing half-sent stays in the store."""
        self._abandoned.set()
        if self._claim():  # nobody will carry it out any more
            self.source.close()
            self.done.set()

    def _claim(self) -> bool:
        with self._lock:
            claimed, self.started = not self.started, True
            return claimed

    @property
    def failed(self) -> bool:
        """Whether it ended without being stored."""
        return self.done.is_set() and self.stored is None

    def run(self) -> None:
        """Carry it out in this thread; errors go to the target, `stored` tells the outcome."""
        if not self._claim():
            return
        source, restarts, pause, begun = self.source, 0, _FIRST_PAUSE, time.monotonic()
        try:
            while not self._abandoned.is_set():
                try:
                    self.stored = self._attempt(source)
                    self._target.stored(self.stored.size, time.monotonic() - begun)
                    return
                except UploadAbandoned:
                    if not self.persistent:
                        return
                    restarts += 1
                    if restarts > RESTARTS and source is self.source:
                        source = self._private_copy()
                except (StoreError, OSError) as error:
                    self._target.failed(error)
                    if not self.persistent:
                        return
                    self._abandoned.wait(pause)
                    pause = min(pause * 2, _LAST_PAUSE)
        finally:
            if source is not self.source:
                source.close()
            self.source.close()
            self.done.set()

    def _private_copy(self) -> Source:
        try:
            return self.source.private()
        except OSError as error:  # no room for a copy: go on with the file itself
            self._target.failed(error)
            return self.source

    def _attempt(self, source: Source) -> Stored:
        source.settle()
        state = source.state()

        def changed() -> bool:
            return self._abandoned.is_set() or source.state() != state

        digest, size = self._known, source.size()
        if digest is None or source is not self.source or state != self.state:
            hasher, size = hashlib.sha256(), 0
            for chunk in source.chunks():
                hasher.update(chunk)
                size += len(chunk)
                if changed():
                    raise UploadAbandoned("the content changed while it was hashed")
            digest = hasher.hexdigest()
        key = Key(self._target.namespace, self._target.run, digest)
        self._target.store().put(key, source.chunks, size, moved=self._target.moved, stop=changed)
        source.note_stored(digest, state)
        return Stored(digest, size)


class Errand:
    """Something small that the store must be told, tried until it is done or abandoned."""

    def __init__(
        self, act: Callable[[Callable[[], bool]], None], failed: Callable[[StoreError | OSError], None]
    ) -> None:
        self.done = threading.Event()
        self.succeeded = False
        self._act = act
        self._failed = failed
        self._abandoned = threading.Event()

    def abandon(self) -> None:
        """Stop as soon as possible."""
        self._abandoned.set()

    def run(self) -> None:
        """Carry it out in this thread; errors go to `failed`, `succeeded` tells the outcome."""
        pause = _FIRST_PAUSE
        try:
            while not self._abandoned.is_set():
                try:
                    self._act(self._abandoned.is_set)
                    self.succeeded = True
                    return
                except UploadAbandoned:
                    return
                except (StoreError, OSError) as error:
                    self._failed(error)
                    self._abandoned.wait(pause)
                    pause = min(pause * 2, _LAST_PAUSE)
        finally:
            self.done.set()
