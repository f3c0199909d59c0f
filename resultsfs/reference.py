"""References: the short strings that stand for spilled content.

A reference is `/tekton/results/.ref/<run>.<digest>`: `<run>` the 128-bit UID of the topmost owning run,
`<digest>` the content's SHA-256, both base64url without padding; 22 and 43 characters, 87 bytes in all,
plain ASCII. The namespace is never in it: it comes from whoever is entitled to say it.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from resultsfs.errors import InvalidReference

RESULTS_DIR = "/tekton/results"
REF_DIR = ".ref"
PREFIX = f"{RESULTS_DIR}/{REF_DIR}/"
LENGTH = len(PREFIX) + 22 + 1 + 43
"""Length of every reference in bytes: 87."""
WHOLE_ARRAY = "[*]"

# The last character of each part carries 2 (run) or 4 (digest) significant bits: only the canonical
# spelling is a reference, so that one content has one reference.
_NAME = r"(?P<run>[A-Za-z0-9_-]{21}[AQgw])\.(?P<digest>[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048])"
_NAME_ONLY = re.compile(_NAME)
_REFERENCE = re.compile(re.escape(PREFIX) + _NAME)
_FIND = re.compile(re.escape(PREFIX) + _NAME + r"(?P<whole>\[\*\])?")


def _encode(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass(frozen=True, slots=True)
class Reference:
    """One spilled content: `run` the UID of the owning run, `digest` its SHA-256 (32 bytes)."""

    run: UUID
    digest: bytes

    def __post_init__(self) -> None:
        if len(self.digest) != 32:
            raise InvalidReference(f"a digest has 32 bytes, this one {len(self.digest)}")

    @property
    def name(self) -> str:
        """`<run>.<digest>`: the file's name below `.ref`."""
        return f"{_encode(self.run.bytes)}.{_encode(self.digest)}"

    @property
    def sha256(self) -> str:
        """The content's SHA-256 in hex."""
        return self.digest.hex()

    def __str__(self) -> str:
        return PREFIX + self.name

    @classmethod
    def of(cls, run: UUID, sha256_hex: str) -> Reference:
        """The reference to the content with that SHA-256 (hex) in that run."""
        return cls(run, bytes.fromhex(sha256_hex))

    @classmethod
    def from_name(cls, name: str) -> Reference | None:
        """Parse `<run>.<digest>`; None when it is not exactly that."""
        return _build(_NAME_ONLY.fullmatch(name))

    @classmethod
    def match(cls, text: str) -> Reference | None:
        """Parse a whole string; None when it is anything but exactly one reference."""
        return _build(_REFERENCE.fullmatch(text))

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse a reference as a person may give it: the whole path or `<run>.<digest>`.

        Raises InvalidReference, naming the text and the form.
        """
        found = cls.match(text) or cls.from_name(text)
        if found is None:
            raise InvalidReference(
                f"{text!r} is not a reference: expected {PREFIX}<run>.<digest> with 22 and 43 base64url characters"
            )
        return found


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A reference found inside a longer text, at `start` up to `end` (including a `[*]` behind it)."""

    start: int
    end: int
    reference: Reference
    whole_array: bool


def _build(match: re.Match[str] | None) -> Reference | None:
    if match is None:
        return None
    return Reference(UUID(bytes=_decode(match["run"])), _decode(match["digest"]))


def find(text: str) -> Iterator[Occurrence]:
    """Yield all references in `text`, left to right; what follows one directly is the user's own text."""
    if PREFIX not in text:
        return
    for match in _FIND.finditer(text):
        reference = _build(match)
        assert reference is not None
        yield Occurrence(match.start(), match.end(), reference, match["whole"] is not None)
