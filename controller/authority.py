"""Certificates that the controller makes for itself: an authority of its own, and a server certificate by it.

Also a program that does one such thing and ends (see `certificates`): the library takes 8 MB that a replica would keep.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controller.tls import Pair

_BACKDATED = datetime.timedelta(minutes=10)  # the API server's clock may be behind ours


@dataclass(frozen=True, slots=True)
class Made:
    """A new pair, and the certificate (PEM) of the authority that signed it, whose key nobody has any more."""

    pair: Pair
    authority: bytes


def make(hosts: Sequence[str], life: datetime.timedelta) -> Made:
    """A server certificate for these DNS names and addresses."""
    now = datetime.datetime.now(datetime.UTC)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"resultsfs {now:%Y-%m-%dT%H:%M:%S}Z")])
    authority = (
        _builder(authority_name, authority_name, authority_key.public_key(), now, life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "resultsfs-controller")])
    certificate = (
        _builder(subject, authority_name, key.public_key(), now, life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_name(host) for host in hosts]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Made(Pair(certificate.public_bytes(pem), private), authority.public_bytes(pem))


def renewal(pair: Pair) -> datetime.datetime:
    """When a pair is to be replaced: after two thirds of its life."""
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin + (end - begin) * 2 / 3


def signed_by(pair: Pair, bundle: bytes) -> bool:
    """Whether an authority in the bundle signed the pair, or a certificate between that the pair brings along."""
    chain = x509.load_pem_x509_certificates(pair.certificate)
    authorities = x509.load_pem_x509_certificates(bundle)
    return any(_signed(certificate, authority) for certificate in chain for authority in authorities)


def _signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):  # another's name, another kind of key, another key
        return False
    return True


def still_valid(bundle: bytes) -> bytes:
    """The bundle without the authorities that have expired; nothing of one that cannot be read."""
    now = datetime.datetime.now(datetime.UTC)
    try:
        found = x509.load_pem_x509_certificates(bundle)
    except ValueError:
        found = []
    return b"".join(
        certificate.public_bytes(serialization.Encoding.PEM)
        for certificate in found
        if certificate.not_valid_after_utc > now
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    life: datetime.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + life)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _made(request: dict[str, Any]) -> dict[str, Any]:
    made = make(request["hosts"], datetime.timedelta(seconds=request["life"]))
    bundle = still_valid(request["bundle"].encode()) + made.authority
    return {"certificate": made.pair.certificate.decode(), "key": made.pair.key.decode(), "bundle": bundle.decode()}


def _known(request: dict[str, Any]) -> dict[str, Any]:
    pair, bundle = Pair(request["certificate"].encode(), b""), request["bundle"].encode()
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    return {
        "expiry": certificate.not_valid_after_utc.isoformat(),
        "renewal": renewal(pair).isoformat(),
        "signed": bool(bundle.strip()) and signed_by(pair, bundle),
    }


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    json.dump({"make": _made, "know": _known}[asked["what"]](asked), sys.stdout)
