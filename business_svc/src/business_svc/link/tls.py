"""Who this side is and whom it believes to be a replica, from files that are read again at every connect."""

import asyncio
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Never

import grpc
from cryptography import x509

from business_svc.link.duplex import DuplexLost

_FIRST_FRAME_BYTES = 9  # of HTTP/2, which a server sends as soon as it takes the connection
_PROVING_SECONDS = 5.0


class PeerRefused(DuplexLost):
    """One side does not believe the other, or has nothing to show: somebody has to do something about it."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. `server_name` is the identity that the replica must prove as a subject alternative name, where it is
    not its address: a DNS name, an IP address, or a URI as SPIFFE has them."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    async def prove(self, target: str) -> "Proof":
        """Both sides show who they are, on a connection for that alone. gRPC would say little more than "socket
        closed" of what goes wrong here, and knows no URIs. Raises PeerRefused, or DuplexLost where nobody listens."""
        context = await asyncio.to_thread(self._context)
        host, port = _host_and_port(target)
        expected = self.server_name or host
        is_uri = "://" in expected
        context.check_hostname = not is_uri
        try:
            async with asyncio.timeout(_PROVING_SECONDS):
                # A URI is no name to ask a server for.
                connecting = asyncio.open_connection(
                    host, port, ssl=context, server_hostname=host if is_uri else expected
                )
                reader, writer = await connecting
                try:
                    shown: ssl.SSLObject = writer.get_extra_info("ssl_object")
                    if is_uri:
                        _check_uri(target, shown, expected)
                    await self._be_taken(target, reader)
                    return self._proof(target, shown, expected, is_uri)
                finally:
                    writer.transport.abort()
        except ssl.SSLCertVerificationError as error:
            raise PeerRefused(
                f"the replica at {target} does not prove to be {expected}: {error.verify_message} "
                f"(by the authorities of {self.ca})"
            ) from error
        except ssl.SSLError as error:
            raise self._not_taken(target, str(error)) from error
        except TimeoutError:
            raise DuplexLost(f"no handshake with {target} within {_PROVING_SECONDS:g} s") from None
        except OSError as error:
            raise DuplexLost(f"{target} cannot be reached: {error.strerror or error}") from error

    async def _be_taken(self, target: str, reader: asyncio.StreamReader) -> None:
        """A server that does not take our certificate closes after what looks to us like a whole handshake."""
        try:
            await reader.readexactly(_FIRST_FRAME_BYTES)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise self._not_taken(target, "it hung up") from error

    def _not_taken(self, target: str, why: str) -> PeerRefused:
        mine = "none was shown" if self.certificate is None else describe(self.certificate)
        return PeerRefused(f"the replica at {target} does not take this side's certificate ({mine}): {why}")

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(["h2"])
        try:
            context.load_verify_locations(self.ca)
        except ssl.SSLError as error:
            raise PeerRefused(f"{self.ca} holds no PEM certificate of an authority") from error
        except OSError as error:
            raise PeerRefused(f"{self.ca} cannot be read: {error.strerror}") from error
        if self.certificate is not None:
            self._load_own(context)
        return context

    def _load_own(self, context: ssl.SSLContext) -> None:
        assert self.certificate is not None
        for path in filter(None, (self.certificate, self.key)):
            try:
                path.read_bytes()
            except OSError as error:
                raise PeerRefused(f"{path} cannot be read: {error.strerror}") from error
        try:
            context.load_cert_chain(self.certificate, self.key, _no_password)
        except ssl.SSLError as error:
            why = "do not belong together" if error.reason == "KEY_VALUES_MISMATCH" else f"cannot be used: {error}"
            raise PeerRefused(f"the certificate {self.certificate} and the key {self.key} {why}") from error
        except ValueError as error:
            raise PeerRefused(f"the key {self.key} {error}") from error

    def _proof(self, target: str, shown: ssl.SSLObject, expected: str, is_uri: bool) -> "Proof":
        certificate = shown.getpeercert(binary_form=True)
        assert certificate is not None
        pinned = ssl.DER_cert_to_PEM_cert(certificate).encode() if is_uri else None
        return Proof(self, pinned, _name_for_grpc(target, certificate) if is_uri else expected)


@dataclass(frozen=True, slots=True)
class Proof:
    """What the next connection must show again. gRPC matches names of hosts only: where a URI was proved, it is to
    trust that very certificate, under any name that the certificate has."""

    files: TlsFiles
    pinned: bytes | None
    name: str

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises OSError."""
        files = self.files
        return grpc.ssl_channel_credentials(
            root_certificates=self.pinned or files.ca.read_bytes(),
            private_key=files.key.read_bytes() if files.key is not None else None,
            certificate_chain=files.certificate.read_bytes() if files.certificate is not None else None,
        )


def describe(certificate: Path) -> str:
    """A certificate for people: its file, who it says one is, and whether it is out of date."""
    try:
        shown = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError):
        return f"{certificate}, which cannot be read"
    ends = shown.not_valid_after_utc
    ended = f", expired at {ends:%Y-%m-%d %H:%M} UTC" if ends < datetime.now(UTC) else ""
    return f"{certificate} of {', '.join(_names(shown)) or 'nobody'}{ended}"


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]


def _check_uri(target: str, shown: ssl.SSLObject, expected: str) -> None:
    peer = shown.getpeercert() or {}
    names: tuple[tuple[str, str], ...] = peer.get("subjectAltName", ())  # type: ignore[assignment]
    if ("URI", expected) not in names:
        found = ", ".join(name for _, name in names) or "no name at all"
        raise PeerRefused(f"the replica at {target} does not prove to be {expected}: its certificate says {found}")


def _name_for_grpc(target: str, der: bytes) -> str:
    certificate = x509.load_der_x509_certificate(der)
    hosts = [name for name in _names(certificate) if "://" not in name]
    common = [str(one.value) for one in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    if not hosts and not common:
        raise PeerRefused(
            f"the certificate of the replica at {target} has a URI alone; gRPC needs a common name beside it"
        )
    return (hosts or common)[0]


def _host_and_port(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _no_password() -> Never:
    """Asked for where a key is encrypted; without it, the library would ask the terminal."""
    raise ValueError("is protected by a password: give one that is not")
