"""Decides how a server is reached: encryption, what is retried, how long is waited, how large a message may be."""

import ipaddress
import json
import math
from dataclasses import dataclass
from pathlib import Path

import grpc

DEFAULT_TARGET = "localhost:50051"
DEFAULT_TIMEOUT = 60.0
"""Seconds a call may take, the whole answer included."""
DEFAULT_MAX_REQUEST_BYTES = 4 * 1024 * 1024
"""As the server's own default."""
DEFAULT_MAX_RESPONSE_BYTES = 64 * 1024 * 1024

# Three tries in all, and only of what cannot have been answered in part: gRPC itself never retries a call whose first
# message has arrived. It waits as the trailer grpc-retry-pushback-ms says, where the server sends one. The throttle
# keeps a failing server from being asked three times as often by everyone.
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.5},
}
_KEEPALIVE_MS = 30_000
_KEEPALIVE_ANSWER_MS = 10_000
_CONNECT_MS = 5_000
_LOCAL_SCHEMES = ("unix", "unix-abstract")
_IP_SCHEMES = ("ipv4", "ipv6")


@dataclass(frozen=True, slots=True)
class Tls:
    """How the server is checked, and who this side is. Files are PEM and are read when the client is made.

    Without `ca_file` the server's certificate is checked against the roots that gRPC brings (or those of
    GRPC_DEFAULT_SSL_ROOTS_FILE_PATH). `certificate_file` and `key_file` go together, for servers that want to know the
    client. `server_name` is the name in the server's certificate where it is not the target's.
    """

    ca_file: str | Path | None = None
    certificate_file: str | Path | None = None
    key_file: str | Path | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("tls: certificate_file and key_file go together")


@dataclass(frozen=True, slots=True, repr=False)
class Connection:
    """Everything a client needs to make a channel. `credentials` is None for plaintext."""

    target: str
    options: tuple[tuple[str, str | int], ...]
    credentials: grpc.ChannelCredentials | None
    metadata: tuple[tuple[str, str], ...]
    timeout: float | None
    max_request_bytes: int

    def __repr__(self) -> str:
        # The metadata holds the API key.
        return f"Connection(target={self.target!r}, {'plaintext' if self.credentials is None else 'TLS'})"

    @property
    def shown(self) -> str:
        """The target as an error names it: with the encryption, because that is what is wrong most often."""
        return self.target if is_local(self.target) else f"{self.target} ({'TLS' if self.credentials else 'plaintext'})"

    def seconds(self, timeout: float | None) -> float | None:
        """The time limit of one call: its own, else the client's; None is no limit."""
        return self.timeout if timeout is None else checked_timeout(timeout)


def connection(
    target: str = DEFAULT_TARGET,
    *,
    api_key: str | None = None,
    timeout: float | None = DEFAULT_TIMEOUT,
    tls: Tls | bool = False,
    plaintext: bool = False,
    max_request_bytes: int = DEFAULT_MAX_REQUEST_BYTES,
    max_response_bytes: int = DEFAULT_MAX_RESPONSE_BYTES,
    user_agent: str = "seam-client",
) -> Connection:
    """Raises ValueError for what cannot be meant, OSError for a certificate that cannot be read.

    Plaintext goes only to this machine (localhost, 127.0.0.0/8, ::1, a Unix socket) or where `plaintext=True` says so
    by name; any other target gets TLS, because the API key travels with every call.
    """
    if not target:
        raise ValueError("target is empty: say HOST:PORT or unix:/path")
    if plaintext and tls:
        raise ValueError("plaintext and tls exclude each other")
    encrypted = bool(tls) or not (plaintext or is_local(target))
    options: dict[str, str | int] = {
        "grpc.primary_user_agent": user_agent,
        "grpc.service_config": json.dumps(_SERVICE_CONFIG),
        "grpc.max_receive_message_length": max_response_bytes,
        # The size is checked before the call, with an error that says what to do.
        "grpc.max_send_message_length": -1,
        # A dead server is noticed by pings while an answer is awaited, and never on an idle connection, for which
        # servers punish. Seam's business server allows a ping every 5 s.
        "grpc.keepalive_time_ms": _KEEPALIVE_MS,
        "grpc.keepalive_timeout_ms": _KEEPALIVE_ANSWER_MS,
        "grpc.keepalive_permit_without_calls": 0,
        "grpc.http2.max_pings_without_data": 0,
        # An address that swallows packets is given up after this long (gRPC's own default is 20 s).
        "grpc.min_reconnect_backoff_ms": _CONNECT_MS,
        "grpc.initial_reconnect_backoff_ms": 200,
        "grpc.max_reconnect_backoff_ms": _CONNECT_MS,
    }
    if is_local(target):
        # An http_proxy in the environment is not meant for this machine.
        options["grpc.enable_http_proxy"] = 0
    given = tls if isinstance(tls, Tls) else Tls()
    if given.server_name:
        options["grpc.ssl_target_name_override"] = given.server_name
    return Connection(
        target=target,
        options=tuple(options.items()),
        credentials=_credentials(given) if encrypted else None,
        metadata=(("authorization", f"Bearer {_checked_key(api_key)}"),) if api_key else (),
        timeout=None if timeout is None else checked_timeout(timeout),
        max_request_bytes=max_request_bytes,
    )


def checked_timeout(seconds: float) -> float | None:
    """Infinity is no limit. Raises ValueError for what no call can keep."""
    if math.isnan(seconds) or seconds <= 0:
        raise ValueError(f"timeout is {seconds}: it must be above 0 seconds")
    return None if math.isinf(seconds) else seconds


def is_local(target: str) -> bool:
    """Whether the target cannot leave this machine."""
    scheme, _, rest = target.partition(":")
    if scheme in _LOCAL_SCHEMES:
        return True
    if scheme in _IP_SCHEMES:
        return all(_is_loopback(_host(address)) for address in rest.split(","))
    if scheme == "dns":
        return _is_loopback(_host(rest.rpartition("/")[2]))
    return "://" not in target and _is_loopback(_host(target))


def _host(address: str) -> str:
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address if address.count(":") > 1 else address.partition(":")[0]


def _is_loopback(host: str) -> bool:
    if host.lower() in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _checked_key(key: str) -> str:
    if not all("!" <= character <= "~" for character in key):
        raise ValueError("api_key holds a space or a character that cannot be sent: only visible ASCII can")
    return key


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=_read(tls.ca_file),
        private_key=_read(tls.key_file),
        certificate_chain=_read(tls.certificate_file),
    )


def _read(path: str | Path | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
