"""The server's TLS context, whose certificate is replaced while it serves."""

from __future__ import annotations

import os
import ssl
import tempfile
from dataclasses import dataclass

from resultsfs.errors import InvalidSetting


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate chain and its key, in PEM."""

    certificate: bytes
    key: bytes


def server_context() -> ssl.SSLContext:
    """A context without a certificate yet: handshakes fail until `use` gave it one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def use(context: ssl.SSLContext, pair: Pair) -> None:
    """Take a pair for all handshakes from now on; connections that are open go on. Raises InvalidSetting."""
    with tempfile.TemporaryDirectory(prefix="resultsfs-tls-") as directory:
        paths = [os.path.join(directory, name) for name in ("tls.crt", "tls.key")]
        for path, data in zip(paths, (pair.certificate, pair.key), strict=True):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
        try:
            context.load_cert_chain(*paths)
        except (ssl.SSLError, ValueError) as error:
            raise InvalidSetting(f"the certificate and key cannot be used: {error}") from None


def read_pair(directory: str) -> Pair:
    """`tls.crt` and `tls.key` of a directory, as Kubernetes mounts a Secret. Raises InvalidSetting."""
    try:
        # Through the one link that the kubelet swaps, so that both are of one version.
        base = os.path.realpath(os.path.join(directory, "..data"))
        base = base if os.path.isdir(base) else directory
        found = []
        for name in ("tls.crt", "tls.key"):
            with open(os.path.join(base, name), "rb") as file:
                found.append(file.read())
    except OSError as error:
        raise InvalidSetting(f"certificate: {error.filename}: {error.strerror}") from None
    return Pair(*found)
