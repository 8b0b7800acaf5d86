"""Who is who on the broker: a certificate authority of the operator's own, in a folder, with an identity a daemon.

A certificate's common name is the MQTT user name the broker's ACL goes by: `controller`, or a site's id. Keys are
P-256, files with keys are readable by their owner alone, and nothing that exists is overwritten unless it is asked for.
Needs the package `cryptography` (the extra `tls`).
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS: Final = 3_650
IDENTITY_DAYS: Final = 825
_EARLY: Final = timedelta(hours=1)
"""Certificates are valid a little before they are made: clocks on site are not always right."""


class IdentityError(Exception):
    """Nothing was written; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One identity's files."""

    cert: Path
    key: Path
    expires: datetime


class Authority:
    """The certificate authority in a folder: `ca.pem`, which everyone gets, and `ca.key`, which stays where it is."""

    def __init__(self, folder: Path, cert: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.folder = folder
        self._cert, self._key = cert, key

    @property
    def path(self) -> Path:
        """What brokers and clients are to trust."""
        return self.folder / "ca.pem"

    def issue(
        self, name: str, now: datetime, *, hosts: Sequence[str] = (), days: int = IDENTITY_DAYS, renew: bool = False
    ) -> Identity:
        """`NAME.pem` and `NAME.key`: a client's, or with `hosts` a server's that answers to those names or addresses.

        Raises `IdentityError` where the identity exists already and `renew` is not asked for.
        """
        cert_path, key_path = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        if cert_path.exists() and not renew:
            raise IdentityError(f"{cert_path} exists; --renew makes a new one in its place")
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = _builder(name, self._cert.subject, key.public_key(), now, days).add_extension(
            x509.ExtendedKeyUsage([usage]), critical=False
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False
            )
        cert = builder.sign(self._key, hashes.SHA256())
        write_secret(key_path, _private(key))
        cert_path.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        return Identity(cert_path, key_path, cert.not_valid_after_utc)


def authority(folder: Path, now: datetime) -> Authority:
    """The authority of a folder, made where there is none. Raises `IdentityError` on one that cannot be read."""
    cert_path, key_path = folder / "ca.pem", folder / "ca.key"
    if cert_path.exists() and key_path.exists():
        try:
            cert = x509.load_pem_x509_certificate(cert_path.read_bytes())
            key = serialization.load_pem_private_key(key_path.read_bytes(), None)
        except ValueError as error:
            raise IdentityError(f"{folder}: ca.pem or ca.key is no certificate or key: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != cert.public_key():
            raise IdentityError(f"{folder}: ca.key does not belong to ca.pem")
        return Authority(folder, cert, key)
    if cert_path.exists() or key_path.exists():
        raise IdentityError(f"{folder}: ca.pem and ca.key belong together, and one of them is missing")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Wattshift site authority")])
    made = (
        _builder("Wattshift site authority", subject, new.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(new, hashes.SHA256())
    )
    write_secret(key_path, _private(new))
    cert_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return Authority(folder, made, new)


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that its owner alone may read, also where it existed with wider rights."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLY)
        .not_valid_after(now + timedelta(days=days))
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
