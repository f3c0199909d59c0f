"""One file in a collection, from its snapshot to its publication: a result, or several that lead to it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from uuid import UUID

from resultsfs import publication
from resultsfs.manifest import ManifestEntry
from resultsfs.publication import Candidate, Decision, Form
from resultsfs.reference import Reference
from resultsfs.uploads import FileSource, Upload


@dataclass
class Collected:
    """What a collector finds at one result's name, or at several that lead to one file.

    The first of its `names` stands for all. `inode` is the file's number. `content` is the snapshot where it is small enough to be held, `digest` its SHA-256 (hex) as soon as it is
    known, `uploads` what is being stored by element (-1: the whole content). `publication` is None while the
    collector has to wait; `staged` is what it is about to become. `source` is None where the content is held and another
    server took the snapshot. `cut`: what is published is not the whole content, and Tekton will refuse it. `delivered`: a
    collector has read it to its end.
    """

    names: tuple[str, ...]
    inode: int
    source: FileSource | None
    size: int
    content: bytes | None
    digest: str | None
    candidate: Candidate
    decision: Decision = field(default_factory=lambda: Decision(Form.INLINE))
    uploads: dict[int, Upload] = field(default_factory=dict)
    publication: bytes | None = None
    staged: bytes | None = None
    cut: bool = False
    delivered: bool = False
    _closed: bool = False

    @property
    def name(self) -> str:
        """The first of its names."""
        return self.names[0]

    @property
    def label(self) -> str:
        """Its names, for a sentence that begins with them."""
        if len(self.names) == 1:
            return f"result {self.name!r}"
        return f"results {' and '.join(map(repr, self.names))}, which are one file,"

    @property
    def pending(self) -> bool:
        """Whether a collector has to wait for it."""
        return self.publication is None

    @property
    def shown(self) -> bytes | None:
        """The publication, also while it is only staged; None while it is not known yet."""
        return self.publication if self.staged is None else self.staged

    @property
    def file(self) -> FileSource:
        """The file itself, where the content is not held."""
        assert self.source is not None
        return self.source

    def carries(self, other: Collected) -> bool:
        """Whether what is published here is, whole, the content that another collector found at the same name."""
        if self.cut:
            return False
        if self.digest is not None and other.digest is not None:
            return self.digest == other.digest
        upload = self.uploads.get(-1)
        return upload is not None and other.source is not None and upload.state == other.source.state()

    def commit(self) -> None:
        """Let the collector have what is staged."""
        if self.staged is not None:
            self.publication, self.staged = self.staged, None

    def take_stored(self) -> None:
        """Take size and digest from the upload: the file may have changed until then."""
        stored = self.uploads[-1].stored if -1 in self.uploads else None
        if stored is not None:
            self.digest, self.size = stored.sha256, stored.size

    def render(self, run: UUID) -> bytes:
        """The publication of what is stored now."""
        references = {at: _reference(run, upload) for at, upload in self.uploads.items()}
        if self.decision.form is Form.SKELETON:
            assert self.candidate.elements is not None
            return self.candidate.elements.render(references)
        if self.decision.form is Form.WHOLE_ARRAY:
            return publication.whole_array(run, references[-1].sha256)
        return str(references[-1]).encode()

    def entries(self) -> list[ManifestEntry]:
        """Its lines in the manifest, one for each name."""
        assert self.digest is not None
        spilled, now = self.decision.form is not Form.INLINE, time.time()
        return [ManifestEntry(name, self.size, self.digest, self.candidate.type, spilled, now) for name in self.names]

    def let_go(self) -> None:
        """Give back the file, and content that may have up to skeleton-size-limit."""
        self.content, self.candidate = None, replace(self.candidate, elements=None)
        if not self._closed and self.source is not None:
            self._closed = True
            self.source.close()


def _reference(run: UUID, upload: Upload) -> Reference:
    assert upload.stored is not None
    return Reference.of(run, upload.stored.sha256)
