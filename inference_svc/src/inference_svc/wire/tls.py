"""Who this server is and whose certificates it takes, from files that may be replaced while it runs."""

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Never

import grpc
from cryptography import x509

_log = logging.getLogger(__name__)


class TlsFault(Exception):
    """A file cannot be used; says which and why."""


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """PEM: the chain that this server shows, its key, and the authorities whose clients it lets in."""

    certificate: Path
    key: Path
    client_ca: Path

    def stamps(self) -> tuple[tuple[int, int, int], ...]:
        """Differ when a file was replaced or written. Raises OSError."""
        stats = [path.stat() for path in (self.certificate, self.key, self.client_ca)]
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)

    def load(self, now: datetime) -> grpc.ServerCertificateConfiguration:
        """Raises TlsFault."""
        certificate, key, authorities = (_read(path) for path in (self.certificate, self.key, self.client_ca))
        _check_time(self.certificate, certificate, now)
        self._check_pair()
        _check_authorities(self.client_ca, authorities)
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authorities)

    def _check_pair(self) -> None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key, _no_password)
        except ssl.SSLError as error:
            why = "do not belong together" if error.reason == "KEY_VALUES_MISMATCH" else f"cannot be used: {error}"
            raise TlsFault(f"the certificate {self.certificate} and the key {self.key} {why}") from error
        except ValueError as error:
            raise TlsFault(f"the key {self.key} {error}") from error
        except OSError as error:  # replaced this very moment
            raise TlsFault(f"{self.certificate} or {self.key} cannot be read: {error.strerror}") from error


class RotatingCredentials:
    """Credentials of a server that looks at its files at every handshake. Connections that stand are left alone; files
    that cannot be used are told in the log, and those before them stay in use."""

    def __init__(self, files: ServerFiles, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Raises TlsFault."""
        self._files = files
        self._clock = clock
        self._stamps = _stamps(files)
        first = files.load(clock())
        # The stubs forget that None means "no change".
        self.credentials = grpc.dynamic_ssl_server_credentials(first, self._renewed, True)  # type: ignore[arg-type]

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """On gRPC's threads, which do without the connection where this raises."""
        try:
            stamps = _stamps(self._files)
            if stamps == self._stamps:
                return None
            self._stamps = stamps
            renewed = self._files.load(self._clock())
        except TlsFault as fault:
            _log.error("the certificates before stay in use: %s", fault)
            return None
        _log.info("certificates read again: %s", self._files.certificate)
        return renewed


def _stamps(files: ServerFiles) -> tuple[tuple[int, int, int], ...]:
    try:
        return files.stamps()
    except OSError as error:
        raise TlsFault(f"{error.filename} cannot be read: {error.strerror}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsFault(f"{path} cannot be read: {error.strerror}") from error


def _check_time(path: Path, certificate: bytes, now: datetime) -> None:
    try:
        shown = x509.load_pem_x509_certificate(certificate)
    except ValueError as error:
        raise TlsFault(f"{path} holds no PEM certificate") from error
    if shown.not_valid_after_utc < now:
        raise TlsFault(f"the certificate {path} expired at {shown.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")


def _check_authorities(path: Path, authorities: bytes) -> None:
    try:
        x509.load_pem_x509_certificates(authorities)
    except ValueError as error:
        raise TlsFault(f"{path} holds no PEM certificate of an authority") from error


def _no_password() -> Never:
    """Asked for where a key is encrypted; without it, the library would ask the terminal."""
    raise ValueError("is protected by a password: give one that is not")
