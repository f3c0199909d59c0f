"""Certificates of a cluster: one authority signs servers and clients; and kubeconfigs with them."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALID = timedelta(days=365)
_SKEW = timedelta(hours=1)


@dataclass(frozen=True)
class Pair:
    """The files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """Signs for one cluster; writes into a directory that only root can read."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "resultsfs-cluster")])
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        unsigned = self._builder(self._name, self._key).add_extension(constraints, True).add_extension(usage, True)
        self._certificate = unsigned.sign(self._key, hashes.SHA256())
        self.pair = self._write("ca", self._certificate, self._key)

    def server(self, name: str, addresses: Sequence[str]) -> Pair:
        """A certificate of a server that is called by these names and IP addresses, also of a client."""
        return self._issue(name, name, (), addresses)

    def client(self, name: str, user: str, *groups: str) -> Pair:
        """A certificate of a Kubernetes user in groups."""
        return self._issue(name, user, groups, ())

    def signing_key(self, name: str) -> Pair:
        """A key pair without a certificate; `certificate` is the public key."""
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        pair = Pair(self._directory / f"{name}.pub", self._directory / f"{name}.key")
        write_private(pair.certificate, public)
        write_private(pair.key, _pem(key))
        return pair

    def _issue(self, name: str, common_name: str, groups: Sequence[str], addresses: Sequence[str]) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if addresses else [])]
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        unsigned = (
            self._builder(subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
            .add_extension(usage, True)
            .add_extension(x509.ExtendedKeyUsage(purposes), False)
        )
        if addresses:
            unsigned = unsigned.add_extension(x509.SubjectAlternativeName([_name(a) for a in addresses]), False)
        return self._write(name, unsigned.sign(self._key, hashes.SHA256()), key)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + _VALID)
        )

    def _write(self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
        pair = Pair(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        write_private(pair.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        write_private(pair.key, _pem(key))
        return pair


def kubeconfig(server: str, authority: Pair, client: Pair) -> bytes:
    """A kubeconfig with everything in it."""
    user = {"client-certificate-data": _encoded(client.certificate), "client-key-data": _encoded(client.key)}
    content: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "resultsfs",
                "cluster": {"server": server, "certificate-authority-data": _encoded(authority.certificate)},
            }
        ],
        "users": [{"name": "resultsfs", "user": user}],
        "contexts": [{"name": "resultsfs", "context": {"cluster": "resultsfs", "user": "resultsfs"}}],
        "current-context": "resultsfs",
    }
    return json.dumps(content, indent=1).encode()


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
