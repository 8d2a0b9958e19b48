"""Throwaway certificates: an authority that lives in this process alone, and what it signed. For one machine and one
run; nothing here keeps an authority's key."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

BUSINESS = "spiffe://seam.local/business"
INFERENCE = "spiffe://seam.local/inference"
LIFETIME = timedelta(days=30)
EARLIER = timedelta(hours=1)  # clocks of one machine agree, those of a container and its host nearly


@dataclass(frozen=True, slots=True)
class Pair:
    """PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """NAME.pem and NAME.key, each whole or not at all, the key for this user's eyes only."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        write_private(key, self.key)
        write_private(certificate, self.certificate)
        return certificate, key


@dataclass(frozen=True, slots=True)
class LinkCertificates:
    """Files of both services, and who is who."""

    ca: Path
    business: tuple[Path, Path]
    inference: tuple[Path, Path]

    def of_business(self) -> dict[str, str]:
        """The business server's variables."""
        return self._variables(*self.business)

    def of_inference(self) -> dict[str, str]:
        """An inference server's variables."""
        return self._variables(*self.inference)

    def _variables(self, certificate: Path, key: Path) -> dict[str, str]:
        return {
            "SEAM_LINK_CA": str(self.ca),
            "SEAM_LINK_CERTIFICATE": str(certificate),
            "SEAM_LINK_KEY": str(key),
            "SEAM_LINK_SERVER": INFERENCE,
            "SEAM_LINK_CLIENTS": BUSINESS,
            "SEAM_LINK_PLAINTEXT": "false",
        }


class Authority:
    """Its key never leaves this object."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        now = datetime.now(UTC)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # signs certificates
        self._certificate = (
            _begun(self._name, self._name, self._key, now - EARLIER, now + LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return self._certificate.public_bytes(Encoding.PEM)

    def issue(self, name: str, *identities: str, valid: tuple[datetime, datetime] | None = None) -> Pair:
        """A certificate for both ends of TLS. An identity is a URI, an IP address or a DNS name."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        begins, ends = valid or (now - EARLIER, now + LIFETIME)
        certificate = (
            _begun(_named(name), self._name, key, begins, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([_identity(one) for one in identities]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Pair(certificate.public_bytes(Encoding.PEM), private)


def make_link_certificates(folder: Path) -> LinkCertificates:
    """In a folder that only this user may enter."""
    authority = Authority("seam-up")
    ca = folder / "ca.pem"
    write_private(ca, authority.pem)
    business = authority.issue("business", BUSINESS).write(folder, "business")
    inference = authority.issue("inference", INFERENCE).write(folder, "inference")
    return LinkCertificates(ca, business, inference)


def write_private(path: Path, content: bytes) -> None:
    """In one move, so that whoever reads the path again never reads half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
    draft.replace(path)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _identity(identity: str) -> x509.GeneralName:
    if "://" in identity:
        return x509.UniformResourceIdentifier(identity)
    try:
        return x509.IPAddress(ip_address(identity))
    except ValueError:
        return x509.DNSName(identity)
