"""Settings: one dataclass, read from the ConfigMap `resultsfs`, narrowed by annotations.

A setting's key is its field's name with dashes. Unknown keys and bad values are errors that name the key,
the value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from resultsfs import annotations as known
from resultsfs import chains, strict_yaml
from resultsfs.errors import InvalidSetting
from resultsfs.reference import LENGTH as REFERENCE_LENGTH
from resultsfs.setting_kinds import COUNT, DURATION, FLAG, NAMES, PERCENT, SIZE, TEXT, setting

SANDBOXES = ("gvisor", "runsc", "kata", "kata-*")


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. `scripts/settings_doc.py` makes `docs/settings.md` of these fields: unit, default, range, meaning."""

    result_size_threshold: int = setting(
        SIZE,
        4096,
        "A result larger than this is spilled to the store. The default keeps in status what fits stock Tekton; "
        "lower it to keep etcd smaller.",
        least=REFERENCE_LENGTH,
        most=1_572_864,
        narrowable=True,
    )
    result_size_limit: int = setting(
        SIZE, 10 << 30, "A write that would make one file on the volume larger than this fails with EFBIG.", least=4096
    )
    volume_size_limit: int = setting(
        SIZE,
        20 << 30,
        "A write that would make all files of one TaskRun's volume together larger than this fails with ENOSPC.",
        least=4096,
    )
    volume_open_files: int = setting(
        COUNT, 8192, "A file beyond so many that are open on one TaskRun's volume is not opened: EMFILE.", least=64
    )
    volume_file_limit: int = setting(
        COUNT,
        200_000,
        "Making an entry (file, directory, link) beyond so many on one TaskRun's volume fails with ENOSPC.",
        least=16,
    )
    skeleton_size_limit: int = setting(
        SIZE,
        16 << 20,
        "Array and object results up to this size become skeletons (same arity, same keys). A larger array becomes a "
        "whole-array reference, a larger object fails by Tekton's own limit.",
        least=4096,
    )
    spill_delay: float = setting(
        DURATION,
        1.0,
        "How long a result must have been quiet after its last writer closed it before it is uploaded in the "
        "background. Collection never waits for it.",
        least=0,
        most=3600,
    )
    spill_deadline: float = setting(
        DURATION,
        300.0,
        "How long a collector waits for a store that accepts not one byte, before it is given the file as it is "
        "(which then works or fails as in stock Tekton). A slow upload that moves goes on.",
        least=0,
        most=86_400,
    )
    param_inline_limit: int = setting(
        SIZE,
        90 << 10,
        "How many bytes of spilled content may be put back into the params of one TaskRun, in all.",
        least=0,
        most=1 << 20,
        narrowable=True,
    )
    params_as_path: bool = setting(
        FLAG,
        False,
        "Leave references in params instead of putting the content back: the consumer gets the path of a file to read.",
        narrowable=True,
    )
    chains_results: tuple[str, ...] = setting(
        NAMES,
        chains.NAMES,
        "Names of results (with `*`) that Tekton Chains reads from status: never spilled by the threshold, and by the "
        "message's budget last.",
    )
    store: str = setting(
        TEXT,
        "",
        "Where spilled content lives: an fsspec URL such as `s3://bucket/prefix`, `gs://…`, `abfs://…`, "
        "`file:///directory` or `memory://`. Empty: a directory below the user's data directory.",
    )
    s3_endpoint: str = setting(TEXT, "", "URL of the S3 endpoint; empty for the one of the region.")
    s3_region: str = setting(TEXT, "", "S3 region; empty for the environment's.")
    s3_addressing_style: str = setting(TEXT, "auto", "How a bucket is addressed.", choices=("auto", "path", "virtual"))
    s3_profile: str = setting(
        TEXT,
        "",
        "Profile in the shared AWS configuration; empty for the default chain (environment, files, web identity, "
        "instance role).",
    )
    s3_sse: str = setting(
        TEXT,
        "",
        "Server-side encryption: empty (the bucket's default), AES256 (SSE-S3) or aws:kms (SSE-KMS).",
        choices=("", "AES256", "aws:kms"),
    )
    s3_sse_kms_key_id: str = setting(TEXT, "", "Key id for `s3-sse: aws:kms`; empty for the account's default key.")
    store_part_size: int = setting(
        SIZE,
        8 << 20,
        "Size of one part of a multipart upload; what is at most this large is sent in one request from memory.",
        least=5 << 20,
        most=1 << 30,
    )
    store_concurrency: int = setting(
        COUNT,
        4,
        "Parts in flight for one upload. Memory for one is at most part size x (this + 1).",
        least=1,
        most=64,
    )
    store_timeout: float = setting(
        DURATION, 60.0, "How long one request to the store may go without an answer.", least=0.1, most=3600
    )
    store_retries: int = setting(
        COUNT,
        5,
        "How often one request is tried again after a temporary failure, with growing, jittered pauses.",
        least=0,
        most=100,
    )
    upload_workers: int = setting(COUNT, 2, "Results uploaded at the same time by one mounter.", least=1, most=64)
    cache_size_limit: int = setting(
        SIZE, 10 << 30, "Disk for content fetched through `.ref`; what was used longest ago goes first.", least=0
    )

    node_spool_limit: int = setting(
        SIZE,
        0,
        "Disk for the files of all volumes of one node together; beyond it writes fail with ENOSPC. 0: as much as "
        "`node-disk-reserve` leaves.",
        least=0,
    )
    node_file_limit: int = setting(
        COUNT,
        500_000,
        "Making an entry (file, directory, link) beyond so many on all volumes of one node fails with ENOSPC; a quarter "
        "is kept for volumes with fewer than 1,000.",
        least=1024,
    )
    node_disk_reserve: int = setting(
        PERCENT,
        15,
        "What must stay free on the disk of a node's spools and cache, of inodes too. Below it cached content goes, then writes fail "
        "with ENOSPC. The default is more than the 10% below which a kubelet evicts pods.",
        least=0,
        most=90,
    )

    observe: bool = setting(
        FLAG,
        False,
        "Pods are admitted and counted, and nothing is changed: to learn what would be spilled before anything is. Pods "
        "that were handed paths have their volume still.",
        narrowable=True,
    )
    skipped_runtime_classes: tuple[str, ...] = setting(
        NAMES, SANDBOXES, "RuntimeClasses (with `*`) whose pods have no volume; one that was handed paths is refused."
    )
    retention: float = setting(
        DURATION,
        0.0,
        "How long after a run's completion its content is kept; 0: as long as the run itself. Of a namespace.",
        least=0,
        narrowable=True,
    )
    retention_size: int = setting(
        SIZE,
        0,
        "How many bytes of completed runs' content one namespace keeps; beyond it the content of those that "
        "completed longest ago goes first. 0: no limit. Of a namespace.",
        least=0,
        narrowable=True,
    )
    retain_after_delete: float = setting(
        DURATION,
        0.0,
        "How long content is kept after its run was found deleted, beyond `garbage-grace`. Of a namespace.",
        least=0,
        narrowable=True,
    )
    garbage_grace: float = setting(
        DURATION,
        600.0,
        "How long content stays when no run is there any more to which it belongs.",
        least=0,
        most=31 * 86_400,
    )
    garbage_interval: float = setting(
        DURATION,
        3600.0,
        "How often the whole store is compared with all runs, for what the watch missed.",
        least=1,
        most=7 * 86_400,
    )
    upload_abandoned_after: float = setting(
        DURATION, 86_400.0, "Unfinished uploads begun longer ago than this are removed from the store.", least=600
    )
    api_redirect: bool = setting(
        FLAG,
        False,
        "The HTTP API answers with a redirect to a presigned URL where the store can sign one. Whoever has the URL "
        "reads that content until it expires, and its SHA-256 is for the reader to check.",
    )
    api_redirect_expiry: float = setting(DURATION, 60.0, "How long a presigned URL is valid.", least=1, most=7 * 86_400)
    api_request_rate: int = setting(
        COUNT, 600, "Requests a minute that the HTTP API takes from one caller.", least=1, most=1_000_000
    )
    api_downloads: int = setting(
        COUNT, 4, "Contents that one replica of the HTTP API streams at the same time.", least=1, most=256
    )
    tekton_namespace: str = setting(
        TEXT, "tekton-pipelines", "Where Tekton runs: its ConfigMap `feature-flags` is read there."
    )

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            _check(key_of(spec), spec, getattr(self, spec.name))
        if self.s3_sse_kms_key_id and self.s3_sse != "aws:kms":
            raise InvalidSetting(
                f"s3-sse-kms-key-id is {self.s3_sse_kms_key_id!r} but s3-sse is {self.s3_sse!r}: set s3-sse to aws:kms"
            )
        if self.store and not urlsplit(self.store).scheme:
            raise InvalidSetting(
                f"store is {self.store!r}: expected a URL such as s3://bucket/prefix or file:///directory"
            )

    def is_chains_name(self, result: str) -> bool:
        """Whether Tekton Chains reads a result of this name."""
        return any(fnmatch.fnmatchcase(result, pattern) for pattern in self.chains_results)

    def narrowed(self, annotations: Mapping[str, str]) -> Settings:
        """These settings with the annotations `resultsfs.dev/<setting>` of a namespace or run applied.

        Annotations of other owners are left alone. Raises InvalidSetting for a bad value, for a setting that only
        the administrator may set, and for one of ours that means nothing.
        """
        changes: dict[str, Any] = {}
        known.is_held(annotations)
        for annotation, text in annotations.items():
            ours = annotation.startswith(known.PREFIX)
            if not ours or annotation in (*known.BY_PEOPLE, *known.BY_ADMISSION):
                continue
            spec = _FIELDS.get(annotation.removeprefix(known.PREFIX))
            if spec is None:
                raise InvalidSetting(
                    f"annotation {annotation} ({text!r}) is unknown; known are {', '.join(_known_annotations())}"
                )
            if not spec.metadata["narrowable"]:
                raise InvalidSetting(f"annotation {annotation} is not allowed: only the administrator may set it")
            changes[spec.name] = _parse(annotation, spec, text)
        return dataclasses.replace(self, **changes)


def key_of(spec: dataclasses.Field[Any]) -> str:
    """A field's key in the ConfigMap: its name with dashes."""
    return spec.name.replace("_", "-")


_FIELDS: dict[str, dataclasses.Field[Any]] = {key_of(spec): spec for spec in dataclasses.fields(Settings)}


def _known_annotations() -> list[str]:
    narrowable = (known.PREFIX + key for key, spec in _FIELDS.items() if spec.metadata["narrowable"])
    return sorted((*known.BY_PEOPLE, *narrowable))


def allowed(spec: dataclasses.Field[Any]) -> str:
    """What values a field may have, in words; empty where any is fine."""
    meta = spec.metadata
    if meta["choices"] is not None:
        return "one of " + ", ".join(repr(choice) for choice in meta["choices"])
    bounds = [
        f"{word} {meta['kind'].format(bound)}"
        for word, bound in (("at least", meta["least"]), ("at most", meta["most"]))
        if bound is not None
    ]
    return " and ".join(bounds)


def _check(key: str, spec: dataclasses.Field[Any], value: Any, given: str | None = None) -> None:
    """Refuse a value out of bounds. `given` is its text, where there is one."""
    meta = spec.metadata
    bad = (
        (meta["least"] is not None and value < meta["least"])
        or (meta["most"] is not None and value > meta["most"])
        or (meta["choices"] is not None and value not in meta["choices"])
    )
    if bad:
        named = str(value) if given is None else given
        raise InvalidSetting(f"{key} is {named!r}: expected {allowed(spec)}")


def _parse(key: str, spec: dataclasses.Field[Any], text: str) -> Any:
    try:
        value = spec.metadata["kind"].parse(text)
    except ValueError as error:
        raise InvalidSetting(f"{key} is {text!r}: {error}") from None
    _check(key, spec, value, text)
    return value


def from_mapping(data: Mapping[str, object], source: str = "settings") -> Settings:
    """Settings from the ConfigMap's `data`: keys with dashes, values as text (YAML scalars are taken too).

    Raises InvalidSetting that names `source`, the key, the value and what is allowed.
    """
    values: dict[str, Any] = {}
    for key, raw in data.items():
        spec = _FIELDS.get(key)
        if spec is None:
            raise InvalidSetting(f"{source}: unknown setting {key!r}; known are {', '.join(sorted(_FIELDS))}")
        if isinstance(raw, bool):
            raw = str(raw).lower()
        if not isinstance(raw, str | int | float):
            raise InvalidSetting(f"{source}: {key} is {raw!r}: expected text")
        values[spec.name] = _parse(f"{source}: {key}", spec, str(raw))
    try:
        return Settings(**values)
    except InvalidSetting as error:
        raise InvalidSetting(f"{source}: {error}") from None


def load(path: str | os.PathLike[str]) -> Settings:
    """Settings from a YAML file (the ConfigMap's manifest, or its `data` alone), or from a directory with one file a
    key, as Kubernetes mounts a ConfigMap. Raises InvalidSetting."""
    if os.path.isdir(path):
        return from_mapping(_directory(path), os.fspath(path))
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise InvalidSetting(f"{os.fspath(path)}: {error.strerror}") from None
    return from_text(text, os.fspath(path))


def from_text(text: str, source: str = "settings") -> Settings:
    """Settings from such a file's text. Raises InvalidSetting that names `source`."""
    try:
        found = [document for document in strict_yaml.documents(text) if document is not None]
    except ValueError as error:
        raise InvalidSetting(f"{source}: {error}") from None
    if len(found) > 1:
        raise InvalidSetting(f"{source}: {len(found)} YAML documents: expected one")
    document = found[0] if found else {}
    if isinstance(document, dict) and document.get("kind") == "ConfigMap":
        document = document.get("data") or {}
    if not isinstance(document, dict):
        raise InvalidSetting(f"{source}: expected a mapping of settings, found {type(document).__name__}")
    return from_mapping(document, source)


def _directory(path: str | os.PathLike[str]) -> dict[str, object]:
    """The files' contents by name, but for those that Kubernetes keeps beside them (`..data`)."""
    found: dict[str, object] = {}
    try:
        for name in os.listdir(path):
            if not name.startswith("."):
                with open(os.path.join(path, name), encoding="utf-8") as file:
                    found[name] = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"{os.fspath(path)}: {error}") from None
    return found


def to_mapping(settings: Settings) -> dict[str, str]:
    """What `from_mapping` reads back: only what differs from the defaults, exactly."""
    result = {}
    for key, spec in _FIELDS.items():
        value = getattr(settings, spec.name)
        if value != spec.default:
            kind = spec.metadata["kind"]
            result[key] = str(value) if kind is SIZE else kind.format(value)
    return result
