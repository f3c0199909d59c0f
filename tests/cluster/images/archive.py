"""Images, and the OCI archives that `ctr images import` takes."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import IO, Any

from tests.cluster.images.layers import Layer

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True)
class Image:
    """An image: layers, the lowest first, and how a container of it starts."""

    repository: str
    layers: tuple[Layer, ...]
    tag: str | None = None
    """None: named by its content."""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    user: str = ""
    directory: str = "/"

    @property
    def reference(self) -> str:
        """The name by which pods ask for it. Never `:latest`, which the kubelet would try to pull."""
        return f"{self.repository}:{self.tag or self.digest[7:19]}"

    @property
    def digest(self) -> str:
        """`sha256:…` of the image's manifest."""
        return _digest(self._manifest)

    @property
    def size(self) -> int:
        """Bytes of all layers."""
        return sum(layer.size for layer in self.layers)

    @cached_property
    def _config(self) -> bytes:
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        environment = {"PATH": path, **self.environment}
        config: dict[str, Any] = {"Env": [f"{key}={value}" for key, value in sorted(environment.items())]}
        config |= {"Entrypoint": list(self.entrypoint)} if self.entrypoint else {}
        config |= {"Cmd": list(self.command)} if self.command else {}
        config |= {"User": self.user} if self.user else {}
        config["WorkingDir"] = self.directory
        return _json(
            {
                "architecture": ARCHITECTURE,
                "os": "linux",
                "created": "1970-01-01T00:00:00Z",
                "config": config,
                "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in self.layers]},
            }
        )

    @cached_property
    def _manifest(self) -> bytes:
        return _json(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": _descriptor(_CONFIG, self._config),
                "layers": [{"mediaType": _LAYER, "digest": layer.digest, "size": layer.size} for layer in self.layers],
            }
        )

    def blobs(self) -> dict[str, bytes | Layer]:
        """All that the image is made of, by digest."""
        found: dict[str, bytes | Layer] = {layer.digest: layer for layer in self.layers}
        return found | {_digest(self._config): self._config, self.digest: self._manifest}

    def descriptor(self) -> dict[str, Any]:
        """The image's entry in an index, with the name that containerd gives it."""
        names = {"io.containerd.image.name": self.reference, "org.opencontainers.image.ref.name": self.reference}
        target = {"architecture": ARCHITECTURE, "os": "linux"}
        return _descriptor(_MANIFEST, self._manifest) | {"annotations": names, "platform": target}


def write(file: IO[bytes], images: Sequence[Image], without: Collection[str] = ()) -> None:
    """Write images as one OCI archive, without seeking; a layer that several share is in it once.

    Layers whose digests are in `without` are left out: whoever reads the archive has them.
    """
    blobs: dict[str, bytes | Layer] = {}
    for image in images:
        blobs |= {
            digest: blob for digest, blob in image.blobs().items() if isinstance(blob, bytes) or digest not in without
        }
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [image.descriptor() for image in images]}
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.GNU_FORMAT) as out:
        _add(out, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(out, "index.json", _json(index))
        for digest, blob in sorted(blobs.items()):
            name = f"blobs/sha256/{digest.removeprefix('sha256:')}"
            if isinstance(blob, bytes):
                _add(out, name, blob)
            else:
                info = tarfile.TarInfo(name)
                info.size = blob.size
                with blob.path.open("rb") as content:
                    out.addfile(info, content)


def _add(out: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    out.addfile(info, io.BytesIO(content))


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}
