"""Certificates for tests, as each side is told of them."""

from pathlib import Path
from typing import Any

from business_svc.link.tls import TlsFiles
from seam_local.certificates import BUSINESS, INFERENCE, LinkCertificates


def link_settings(certificates: LinkCertificates | None, who: str) -> dict[str, Any]:
    """Fields of the inference server's settings; none without certificates."""
    if certificates is None:
        return {}
    certificate, key = getattr(certificates, who)
    return {
        "link_ca": certificates.ca,
        "link_certificate": certificate,
        "link_key": key,
        "link_clients": (BUSINESS,),
    }


def link_files(certificates: LinkCertificates, server: str | None = INFERENCE) -> TlsFiles:
    """The business's files."""
    certificate, key = certificates.business
    return TlsFiles(certificates.ca, certificate, key, server)


def put(files: tuple[Path, Path], certificate: bytes, key: bytes) -> None:
    """Replaces both, as a rotation does: first the one, then the other."""
    for path, content in zip(files, (certificate, key), strict=True):
        draft = path.with_suffix(".draft")
        draft.write_bytes(content)
        draft.replace(path)
