"""Names in the store: what is where, and which names are ours.

    <namespace>/<run uid>/<sha256>                         a content
    <namespace>/<run uid>/runs/<taskrun>/<pod uid>.json    what one TaskRun's volume spilled
    <namespace>/<run uid>/.gone                            a note: the run was found deleted

Names are checked in both directions: what we ask for, and what a listing tells us. A name that begins with a
dot is never a namespace: the store keeps its own things (probes, unfinished files) below such names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

from resultsfs.errors import InvalidKey
from resultsfs.reference import Reference

MANIFESTS = "runs"
PROBES = ".probe"
UNFINISHED = ".unfinished"
OWNER = ".owner"
"""Note at the top: which cluster collects the garbage of this store."""
GONE = ".gone"
"""Note of a run: since when it is known to be deleted."""

# The forms that Kubernetes allows (RFC 1123): a namespace is a label, a TaskRun's name a subdomain.
_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_NAMESPACE = re.compile(_LABEL)
_TASKRUN = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Key:
    """One content: whose (`namespace`, `run`), and which (`sha256`, 64 lower-case hex digits).

    Raises InvalidKey for anything that is not exactly that, so that a key cannot lead out of its namespace.
    """

    namespace: str
    run: UUID
    sha256: str

    def __post_init__(self) -> None:
        run_path(self.namespace, self.run)
        if not is_sha256(self.sha256):
            raise InvalidKey(f"SHA-256 {self.sha256!r}: expected 64 lower-case hexadecimal digits")

    @classmethod
    def of(cls, namespace: str, reference: Reference) -> Key:
        """The key of what `reference` names, in a namespace that somebody entitled to says."""
        return cls(namespace, reference.run, reference.sha256)

    @property
    def path(self) -> str:
        """`<namespace>/<run uid>/<sha256>`."""
        return f"{run_path(self.namespace, self.run)}/{self.sha256}"

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class Manifest:
    """One stored manifest: of which TaskRun's pod, and its bytes."""

    taskrun: str
    pod_uid: UUID
    data: bytes


def is_sha256(text: str) -> bool:
    """Whether `text` is a SHA-256 as the store spells it."""
    return _SHA256.fullmatch(text) is not None


def is_namespace(text: str) -> bool:
    """Whether `text` can be the name of a Kubernetes namespace."""
    return _NAMESPACE.fullmatch(text) is not None


def is_taskrun(text: str) -> bool:
    """Whether `text` can be the name of a TaskRun."""
    return _TASKRUN.fullmatch(text) is not None


def as_uid(text: str) -> UUID | None:
    """The UID spelled by `text`; None unless it is the canonical spelling."""
    try:
        uid = UUID(text)
    except ValueError:
        return None
    return uid if str(uid) == text else None


def as_pod_uid(file_name: str) -> UUID | None:
    """The pod whose manifest has that file name; None when it is no manifest's name."""
    return as_uid(file_name.removesuffix(".json")) if file_name.endswith(".json") else None


def namespace_path(namespace: str) -> str:
    """`<namespace>`. Raises InvalidKey."""
    if not isinstance(namespace, str) or not is_namespace(namespace):
        raise InvalidKey(f"namespace {namespace!r}: expected a DNS label of at most 63 characters")
    return namespace


def run_path(namespace: str, run: UUID) -> str:
    """`<namespace>/<run uid>`. Raises InvalidKey."""
    if not isinstance(run, UUID):
        raise InvalidKey(f"run {run!r}: expected a UUID")
    return f"{namespace_path(namespace)}/{run}"


def gone_path(namespace: str, run: UUID) -> str:
    """`<namespace>/<run uid>/.gone`. Raises InvalidKey."""
    return f"{run_path(namespace, run)}/{GONE}"


def manifests_path(namespace: str, run: UUID) -> str:
    """`<namespace>/<run uid>/runs`. Raises InvalidKey."""
    return f"{run_path(namespace, run)}/{MANIFESTS}"


def manifest_path(namespace: str, run: UUID, taskrun: str, pod_uid: UUID) -> str:
    """`<namespace>/<run uid>/runs/<taskrun>/<pod uid>.json`. Raises InvalidKey."""
    if not isinstance(taskrun, str) or not is_taskrun(taskrun):
        raise InvalidKey(f"TaskRun {taskrun!r}: expected a DNS subdomain of at most 253 characters")
    if not isinstance(pod_uid, UUID):
        raise InvalidKey(f"pod {pod_uid!r}: expected a UUID")
    return f"{manifests_path(namespace, run)}/{taskrun}/{pod_uid}.json"
