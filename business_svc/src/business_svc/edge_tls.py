"""Certificates that both edges show, from files that may be replaced while they serve."""

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Never, TypeVar

import grpc
from cryptography import x509

_Loaded = TypeVar("_Loaded")
_log = logging.getLogger(__name__)


class TlsFault(Exception):
    """A file cannot be used; says which and why."""


@dataclass(frozen=True, slots=True)
class EdgeFiles:
    """PEM: the chain that is shown, its key, and the authorities of clients where those must show a certificate too."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def stamps(self) -> tuple[tuple[int, int, int], ...]:
        """Differ when a file was replaced or written. Raises TlsFault."""
        try:
            stats = [path.stat() for path in (self.certificate, self.key, self.client_ca) if path is not None]
        except OSError as error:
            raise TlsFault(f"{error.filename} cannot be read: {error.strerror}") from error
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)

    def context(self) -> ssl.SSLContext:
        """For HTTP/1.1. Raises TlsFault."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.certificate, self.key, _no_password)
            if self.client_ca is not None:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(self.client_ca)
        except ssl.SSLError as error:
            raise TlsFault(self._why(error)) from error
        except ValueError as error:
            raise TlsFault(f"the key {self.key} {error}") from error
        except OSError as error:
            names = ", ".join(str(path) for path in (self.certificate, self.key, self.client_ca) if path is not None)
            raise TlsFault(f"one of {names} cannot be read: {error.strerror}") from error
        return context

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """Raises TlsFault."""
        certificate, key = _read(self.certificate), _read(self.key)
        authorities = _read(self.client_ca) if self.client_ca is not None else None
        self.context()  # says what is wrong, where gRPC would go on with what it had and keep silent
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authorities)

    def _why(self, error: ssl.SSLError) -> str:
        for path in filter(None, (self.certificate, self.client_ca)):
            try:
                x509.load_pem_x509_certificates(_read(path))
            except ValueError:
                return f"{path} holds no PEM certificate"
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"the certificate {self.certificate} and the key {self.key} do not belong together"
        return f"the key {self.key} cannot be used: {error}"


class RotatingTls:
    """Looks at its files at every handshake. Connections that stand are left alone; files that cannot be used are told
    in the log, and those before them stay in use."""

    def __init__(self, files: EdgeFiles) -> None:
        """Raises TlsFault."""
        self._files = files
        stamps = files.stamps()
        self._newest = files.context()
        self._newest_for_http = _Newest(files, stamps)
        self._newest_for_grpc = _Newest(files, stamps)
        self.context = files.context()
        self.context.sni_callback = self._renew_http
        self.credentials = grpc.dynamic_ssl_server_credentials(
            files.configuration(),
            self._renewed_grpc,  # type: ignore[arg-type]  # the stubs forget that None means "no change"
            files.client_ca is not None,
        )

    def _renew_http(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """At every handshake, whether the client names a server or not."""
        renewed = self._newest_for_http.read(self._files.context)
        self._newest = renewed or self._newest
        connection.context = self._newest

    def _renewed_grpc(self) -> grpc.ServerCertificateConfiguration | None:
        return self._newest_for_grpc.read(self._files.configuration)


class _Newest:
    """Reads again what has changed since it last looked; what cannot be used is told once."""

    def __init__(self, files: EdgeFiles, stamps: tuple[tuple[int, int, int], ...]) -> None:
        self._files = files
        self._stamps = stamps

    def read(self, load: Callable[[], _Loaded]) -> _Loaded | None:
        try:
            stamps = self._files.stamps()
            if stamps == self._stamps:
                return None
            self._stamps = stamps
            return load()
        except TlsFault as fault:
            _log.error("the certificates before stay in use: %s", fault)
            return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsFault(f"{path} cannot be read: {error.strerror}") from error


def _no_password() -> Never:
    """Asked for where a key is encrypted; without it, the library would ask the terminal."""
    raise ValueError("is protected by a password: give one that is not")
