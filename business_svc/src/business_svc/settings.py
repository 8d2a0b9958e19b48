"""What the environment says, read once. Every variable begins with SEAM_."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from seam_telemetry.settings import TelemetrySettings, TelemetrySettingsError, read_telemetry_settings

from business_svc.domain.access import MIN_KEY_CHARACTERS, ApiKey
from business_svc.domain.prompting import PLACE
from business_svc.edge_tls import EdgeFiles
from business_svc.link.discovery import Source, sources_of
from business_svc.link.tls import TlsFiles

PREFIX = "SEAM_"
DEFAULT_TENANT = "default"
_HASHED = re.compile(r"sha256=([0-9a-f]{64})")


class SettingsError(Exception):
    """A variable is missing or wrong; the message names it, and shows no secret."""


def _separated(value: Any) -> Any:
    """A comma list; blanks around and between commas mean nothing."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _api_keys(value: Any) -> Any:
    parts = _separated(value)
    return tuple(part if isinstance(part, ApiKey) else _api_key(part) for part in parts)


def _api_key(entry: str) -> ApiKey:
    tenant, colon, secret = entry.partition(":")
    if not colon:
        tenant, secret = DEFAULT_TENANT, entry
    if not tenant:
        raise ValueError("a key has an empty name before its colon")
    hashed = _HASHED.fullmatch(secret)
    if hashed:
        return ApiKey(tenant, bytes.fromhex(hashed[1]))
    if secret.startswith("sha256="):
        raise ValueError(f"the hash of a key of {tenant!r} must be 64 lower-case hexadecimal digits")
    if len(secret) < MIN_KEY_CHARACTERS:
        raise ValueError(f"a key of {tenant!r} has fewer than {MIN_KEY_CHARACTERS} characters; make it random")
    return ApiKey.of_secret(tenant, secret)


class Settings(BaseSettings):
    """All of the business server's settings.

    `api_keys`: comma list of KEY, NAME:KEY, or NAME:sha256=HEX with the SHA-256 of the key, so that the environment
    holds no secret. NAME is the tenant ("default" without one); several keys may share it.
    Addresses are "host:port" (port 0 takes a free one); `grpc_listen` may be "unix:/path".
    `replicas`: comma list of "host:port", "unix:/path", "dns:///name:port" (every address of the name, asked again each
    `replicas_refresh_seconds`) and "file:///path" (watched; one address a line).
    `heartbeat_timeout_seconds`: of silence, until a replica is taken for dead.
    `link_...` are PEM files for the way to the replicas and go together; a replica must prove to be `link_server`, or
    its address where that is not set. `edge_...` are those that callers see; with
    `edge_client_ca` callers show one too. `telemetry` has variables of its own: seam_telemetry.settings.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True, arbitrary_types_allowed=True
    )

    api_keys: Annotated[tuple[ApiKey, ...], NoDecode, BeforeValidator(_api_keys)]
    replicas: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_separated)] = ()
    replicas_refresh_seconds: float = Field(default=5.0, gt=0, allow_inf_nan=False)
    heartbeat_timeout_seconds: float = Field(default=2.0, ge=0.1, le=300, allow_inf_nan=False)
    link_ca: Path | None = None
    link_certificate: Path | None = None
    link_key: Path | None = None
    link_server: str | None = Field(default=None, min_length=1)
    link_plaintext: bool = False
    grpc_listen: str = "127.0.0.1:50051"
    http_listen: str = "127.0.0.1:8080"
    edge_certificate: Path | None = None
    edge_key: Path | None = None
    edge_client_ca: Path | None = None
    predict_template: str = PLACE
    system_prompt: str = ""
    default_max_output_tokens: int = Field(default=256, ge=1)
    max_request_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    max_request_seconds: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    drain_seconds: float = Field(default=20.0, ge=0, allow_inf_nan=False)
    telemetry: TelemetrySettings = TelemetrySettings()

    @field_validator("api_keys")
    @classmethod
    def _some_key(cls, keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        if not keys:
            raise ValueError("at least one key is needed, or nobody may ask")
        return keys

    @field_validator("predict_template")
    @classmethod
    def _has_one_place(cls, template: str) -> str:
        if template.count(PLACE) != 1:
            raise ValueError(f"must have {PLACE} exactly once")
        return template

    @field_validator("replicas")
    @classmethod
    def _name_replicas(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        sources_of(entries, 1.0)
        return entries

    @field_validator("grpc_listen", "http_listen")
    @classmethod
    def _is_address(cls, address: str) -> str:
        if not address.startswith("unix:"):
            host_and_port(address)
        return address

    @model_validator(mode="after")
    def _certificates_are_whole(self) -> Self:
        given = [path is not None for path in (self.link_ca, self.link_certificate, self.link_key)]
        if any(given) and not all(given):
            raise ValueError("SEAM_LINK_CA, SEAM_LINK_CERTIFICATE and SEAM_LINK_KEY must be set together")
        if any(given) and self.link_plaintext:
            raise ValueError("SEAM_LINK_PLAINTEXT: cannot be set beside SEAM_LINK_CERTIFICATE")
        if (self.edge_certificate is None) != (self.edge_key is None):
            raise ValueError("SEAM_EDGE_CERTIFICATE and SEAM_EDGE_KEY must be set together")
        if self.edge_client_ca is not None and self.edge_certificate is None:
            raise ValueError("SEAM_EDGE_CLIENT_CA: needs SEAM_EDGE_CERTIFICATE and SEAM_EDGE_KEY")
        return self

    def replica_sources(self) -> tuple[Source, ...]:
        return sources_of(self.replicas, self.replicas_refresh_seconds)

    def check_link(self) -> None:
        """Raises SettingsError where a network would carry everything in the clear without being asked to."""
        in_the_clear = [entry for entry in self.replicas if not entry.startswith("unix:")]
        if in_the_clear and not self.link_files and not self.link_plaintext:
            raise SettingsError(
                f"SEAM_REPLICAS: {', '.join(in_the_clear)} needs SEAM_LINK_CA, SEAM_LINK_CERTIFICATE and SEAM_LINK_KEY "
                "for TLS, or SEAM_LINK_PLAINTEXT=true"
            )

    @property
    def link_files(self) -> TlsFiles | None:
        if self.link_ca is None or self.link_certificate is None or self.link_key is None:
            return None
        return TlsFiles(self.link_ca, self.link_certificate, self.link_key, self.link_server)

    @property
    def edge_files(self) -> EdgeFiles | None:
        if self.edge_certificate is None or self.edge_key is None:
            return None
        return EdgeFiles(self.edge_certificate, self.edge_key, self.edge_client_ca)


def host_and_port(address: str) -> tuple[str, int]:
    """Of "host:port" or "[ipv6]:port". Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"must be host:port, was {address!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def telemetry_settings(environment: Mapping[str, str]) -> TelemetrySettings:
    """What this server tells, and to whom. Raises SettingsError."""
    try:
        return read_telemetry_settings(environment, "seam-business", f"{PREFIX}METRICS_LISTEN")
    except TelemetrySettingsError as error:
        raise SettingsError(str(error)) from error


def read_settings(**overrides: Any) -> Settings:
    """The environment's settings; `overrides` go before it. Raises SettingsError with every variable that is wrong."""
    try:
        return Settings(**{"telemetry": overrides.get("telemetry") or telemetry_settings(os.environ), **overrides})
    except ValidationError as error:
        wrong = [f"{_variable(found['loc'])}{_said(found)}" for found in error.errors(include_input=False)]
        raise SettingsError("; ".join(wrong)) from error


def _variable(loc: tuple[int | str, ...]) -> str:
    return f"{PREFIX}{str(loc[0]).upper()}: " if loc else ""  # several variables together name themselves


def _said(found: Any) -> str:
    return "must be set" if found["type"] == "missing" else str(found["msg"]).removeprefix("Value error, ")
