"""What the environment says, read once. Every variable begins with SEAM_."""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from seam_telemetry.settings import TelemetrySettings, TelemetrySettingsError, read_telemetry_settings

from inference_svc.model import ModelSpec, PrefixSharing
from inference_svc.recording.settings import RecorderSettings
from inference_svc.requests import Task
from inference_svc.wire.tls import ServerFiles

PREFIX = "SEAM_"
UNIX = "unix:"
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
_SECRETS = frozenset({"record_key"})
_TASKS = {"chat": Task.GENERATE, "embed": Task.EMBED, "score": Task.SCORE}


class SettingsError(Exception):
    """A variable is wrong; the message names it and says how."""


class Settings(BaseSettings):
    """All of the inference server's settings.

    A model is a hub name, a local folder or "embedded:NAME"; empty is not served. A device is "cpu", "cuda" or
    "cuda:1". Limits of a model that are not set follow from the model and the device.
    `listen` is "host:port" (port 0 takes a free one), "unix:/path", several with commas between, or empty for none.
    Seconds are named so; sizes are bytes. A model that nobody asks for `idle_sleep_seconds` sleeps until it is asked.
    `allow_model_control`: whether models may be loaded, unloaded, put to sleep and woken by call; where it is not set,
    by anyone on this machine if it listens to nobody else, by nobody otherwise.
    `link_ca`, `link_certificate` and `link_key` are PEM files and go together; then only clients whose certificate has
    one of `link_clients` as a subject alternative name are answered on TCP ("*": all that the authority signed).
    `record_folder`, where set, is where sessions are recorded; texts are redacted unless `record_text` is "plain".
    `telemetry` has variables of its own: seam_telemetry.settings.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", populate_by_name=True)

    chat_model: str = "embedded:tiny-chat"
    chat_device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    chat_dtype: Dtype = "auto"
    chat_max_context_tokens: int | None = Field(default=None, ge=2)
    chat_cache_token_count: int | None = Field(default=None, ge=1)
    chat_cache_memory_share: float = Field(default=0.9, gt=0, le=1, allow_inf_nan=False)
    chat_slot_count: int | None = Field(default=None, ge=1)
    chat_prefix_cache: PrefixSharing = PrefixSharing.ALL
    chat_step_token_budget: int | None = Field(default=None, ge=1)
    chat_idle_sleep_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    embed_model: str = "embedded:minilm"
    embed_device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    embed_dtype: Dtype = "auto"
    embed_max_context_tokens: int | None = Field(default=None, ge=2)
    embed_step_token_budget: int | None = Field(default=None, ge=1)
    embed_idle_sleep_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    score_model: str = "embedded:tiny-score"
    score_device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    score_dtype: Dtype = "auto"
    score_max_context_tokens: int | None = Field(default=None, ge=2)
    score_step_token_budget: int | None = Field(default=None, ge=1)
    score_idle_sleep_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    listen: str = Field(
        default="127.0.0.1:50052", validation_alias=AliasChoices("SEAM_INFERENCE_LISTEN")
    )  # business servers of the same environment have addresses of their own
    link_ca: Path | None = None
    link_certificate: Path | None = None
    link_key: Path | None = None
    link_clients: Annotated[tuple[str, ...], NoDecode, BeforeValidator(lambda value: _names(value))] = ()
    link_plaintext: bool = False
    cache_folder: Path = Field(default_factory=lambda: default_cache_folder(os.environ.get("XDG_CACHE_HOME", "")))
    torch_threads: int | None = Field(default=None, ge=1)
    max_message_bytes: int = Field(default=16 * 1024 * 1024, ge=64 * 1024)
    max_live_requests: int = Field(default=2_048, ge=1)
    max_waiting_sequences: int = Field(default=4_096, ge=1)
    max_waiting_tokens: int = Field(default=1_000_000, ge=1)
    prompt_tokens_per_step: int | None = Field(default=None, ge=1)
    heartbeat_seconds: float = Field(default=0.5, gt=0, le=60, allow_inf_nan=False)
    drain_seconds: float = Field(default=20.0, ge=0, allow_inf_nan=False)
    allow_model_control: bool | None = None
    admission_threads: int = Field(default=2, ge=1)
    max_waiting_admissions: int = Field(default=256, ge=1)
    record_folder: Path | None = None
    record_text: Literal["redacted", "plain"] = "redacted"
    record_key: SecretStr | None = Field(default=None, min_length=16)
    record_file_bytes: int = Field(default=64 * 1024 * 1024, ge=1024 * 1024)
    record_file_count: int = Field(default=16, ge=1)
    telemetry: TelemetrySettings = TelemetrySettings()

    @field_validator("listen")
    @classmethod
    def _are_addresses(cls, listen: str) -> str:
        for address in _separated(listen):
            if not address.startswith(UNIX):
                _check_host_and_port(address)
            elif not address.removeprefix(UNIX):
                raise ValueError("unix: needs a path")
        return listen

    @model_validator(mode="after")
    def _serves_something(self) -> Self:
        if not self.model_specs() and not self.models_may_change:
            raise ValueError(
                "at least one of SEAM_CHAT_MODEL, SEAM_EMBED_MODEL, SEAM_SCORE_MODEL must not be empty where "
                "SEAM_ALLOW_MODEL_CONTROL does not allow to load one later"
            )
        return self

    @model_validator(mode="after")
    def _link_is_whole(self) -> Self:
        given = [path is not None for path in (self.link_ca, self.link_certificate, self.link_key)]
        if any(given) and not all(given):
            raise ValueError("SEAM_LINK_CA, SEAM_LINK_CERTIFICATE and SEAM_LINK_KEY must be set together")
        if all(given) and not self.link_clients:
            raise ValueError(
                "SEAM_LINK_CLIENTS: must name who may connect, as their certificates do, or * for all of the authority"
            )
        if any(given) and self.link_plaintext:
            raise ValueError("SEAM_LINK_PLAINTEXT: cannot be set beside SEAM_LINK_CERTIFICATE")
        return self

    def check_link(self) -> None:
        """Raises SettingsError where a network would carry everything in the clear without being asked to."""
        in_the_clear = [address for address in self.addresses if not address.startswith(UNIX)]
        if in_the_clear and not self.link_files and not self.link_plaintext:
            raise SettingsError(
                f"SEAM_INFERENCE_LISTEN: {', '.join(in_the_clear)} needs SEAM_LINK_CA, SEAM_LINK_CERTIFICATE and "
                "SEAM_LINK_KEY for TLS, or SEAM_LINK_PLAINTEXT=true"
            )

    @property
    def link_files(self) -> ServerFiles | None:
        if self.link_ca is None or self.link_certificate is None or self.link_key is None:
            return None
        return ServerFiles(self.link_certificate, self.link_key, self.link_ca)

    @property
    def recording_key(self) -> str:
        """Empty where there is none."""
        return self.record_key.get_secret_value() if self.record_key else ""

    def recorder(self) -> RecorderSettings | None:
        if self.record_folder is None:
            return None
        return RecorderSettings(
            self.record_folder,
            plain=self.record_text == "plain",
            key=self.recording_key,
            file_bytes=self.record_file_bytes,
            file_count=self.record_file_count,
        )

    @property
    def addresses(self) -> tuple[str, ...]:
        return _separated(self.listen)

    @property
    def models_may_change(self) -> bool:
        if self.allow_model_control is not None:
            return self.allow_model_control
        return all(_is_of_this_machine(address) for address in self.addresses)

    def model_specs(self) -> tuple[ModelSpec, ...]:
        """The models to serve, under the names of their roles."""
        return tuple(self._spec(name, task) for name, task in _TASKS.items() if getattr(self, f"{name}_model").strip())

    def _spec(self, name: str, task: Task) -> ModelSpec:
        return ModelSpec(
            name=name,
            task=task,
            source=getattr(self, f"{name}_model").strip(),
            device=getattr(self, f"{name}_device"),
            dtype=getattr(self, f"{name}_dtype"),
            max_context_tokens=getattr(self, f"{name}_max_context_tokens"),
            cache_token_count=getattr(self, f"{name}_cache_token_count", None),
            cache_memory_share=getattr(self, f"{name}_cache_memory_share", 0.9),
            prefix_cache=getattr(self, f"{name}_prefix_cache", PrefixSharing.OFF),
            slot_count=getattr(self, f"{name}_slot_count", None),
            step_token_budget=getattr(self, f"{name}_step_token_budget"),
            idle_sleep_seconds=getattr(self, f"{name}_idle_sleep_seconds"),
        )


def telemetry_settings(environment: Mapping[str, str]) -> TelemetrySettings:
    """What this server tells, and to whom. Raises SettingsError."""
    try:
        return read_telemetry_settings(environment, "seam-inference", f"{PREFIX}INFERENCE_METRICS_LISTEN")
    except TelemetrySettingsError as error:
        raise SettingsError(str(error)) from error


def read_settings(**overrides: Any) -> Settings:
    """The environment's settings; `overrides` go before it. Raises SettingsError with every variable that is wrong."""
    try:
        return Settings(**{"telemetry": overrides.get("telemetry") or telemetry_settings(os.environ), **overrides})
    except ValidationError as error:
        raise SettingsError("; ".join(_told(found) for found in error.errors())) from error


def default_cache_folder(xdg_cache_home: str) -> Path:
    """Where models made by seed are kept (XDG Base Directory specification: relative paths count as unset)."""
    base = Path(xdg_cache_home)
    return (base if base.is_absolute() else Path.home() / ".cache") / "seam"


def _separated(listen: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in listen.split(",") if part.strip())


def _is_of_this_machine(address: str) -> bool:
    if address.startswith(UNIX):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _names(value: Any) -> Any:
    return _separated(value) if isinstance(value, str) else value


def _check_host_and_port(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"must be host:port or unix:/path, was {address!r}")


def _told(found: Any) -> str:
    said = str(found["msg"]).removeprefix("Value error, ")
    if not found["loc"]:
        return said
    name = str(found["loc"][0])
    variable = name if name.startswith(PREFIX) else PREFIX + ("INFERENCE_LISTEN" if name == "listen" else name.upper())
    if name in _SECRETS:
        return f"{variable}: {said}"
    return f"{variable}: {said}, was {str(found['input'])[:100]!r}"
