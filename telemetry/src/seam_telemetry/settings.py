"""What is told, and to whom. Names of OpenTelemetry's own specification where it has one."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

SAMPLERS = tuple(
    f"{parent}{name}" for parent in ("", "parentbased_") for name in ("always_on", "always_off", "traceidratio")
)
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "")
_OTLP = "OTEL_EXPORTER_OTLP_ENDPOINT"
Choice = TypeVar("Choice", bound=Enum)


class LogStyle(Enum):
    """Of the lines about requests."""

    OFF = "off"
    CONSOLE = "console"
    JSON = "json"


class TelemetrySettingsError(Exception):
    """A variable is wrong; the message names it and says how."""


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """Nothing is told unless it is said to whom. `metrics_listen` is host:port for Prometheus (port 0 takes a free
    one); `otlp_traces` and `otlp_metrics` are endpoints of an OTLP receiver; empty is none. `sampler` is one of
    SAMPLERS, `sampler_ratio` the share of traces where it counts. `log_content`: request lines hold prompts and answers
    too. Batching, headers, certificates and resource attributes are read by the SDK from its own variables."""

    service: str = "seam"
    metrics_listen: str = ""
    otlp_traces: str = ""
    otlp_metrics: str = ""
    sampler: str = "parentbased_always_on"
    sampler_ratio: float = 1.0
    log_style: LogStyle = LogStyle.OFF
    log_content: bool = False


def read_telemetry_settings(
    environment: Mapping[str, str], service: str, metrics_variable: str, log_style: LogStyle = LogStyle.CONSOLE
) -> TelemetrySettings:
    """`log_style` holds where the environment says nothing. Raises TelemetrySettingsError."""
    disabled = _flag(environment, "OTEL_SDK_DISABLED")
    return TelemetrySettings(
        service=environment.get("OTEL_SERVICE_NAME") or service,
        metrics_listen=_address(environment, metrics_variable),
        otlp_traces="" if disabled else _endpoint(environment, "TRACES"),
        otlp_metrics="" if disabled else _endpoint(environment, "METRICS"),
        sampler=_sampler(environment),
        sampler_ratio=_ratio(environment),
        log_style=_choice(environment, "SEAM_LOG_REQUESTS", log_style),
        log_content=_flag(environment, "SEAM_LOG_CONTENT"),
    )


def _endpoint(environment: Mapping[str, str], signal: str) -> str:
    exporter = environment.get(f"OTEL_{signal}_EXPORTER", "otlp").strip()
    if exporter not in ("otlp", "none"):
        raise TelemetrySettingsError(f"OTEL_{signal}_EXPORTER: otlp or none, was {exporter!r}")
    endpoint = environment.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or environment.get(_OTLP, "")
    return endpoint if exporter == "otlp" else ""


def _sampler(environment: Mapping[str, str]) -> str:
    name = environment.get("OTEL_TRACES_SAMPLER") or "parentbased_always_on"
    if name not in SAMPLERS:
        raise TelemetrySettingsError(f"OTEL_TRACES_SAMPLER: one of {', '.join(SAMPLERS)}, was {name[:100]!r}")
    return name


def _ratio(environment: Mapping[str, str]) -> float:
    told = environment.get("OTEL_TRACES_SAMPLER_ARG") or "1"
    try:
        ratio = float(told)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise TelemetrySettingsError(f"OTEL_TRACES_SAMPLER_ARG: a number from 0 to 1, was {told[:100]!r}")
    return ratio


def _address(environment: Mapping[str, str], variable: str) -> str:
    address = environment.get(variable, "")
    host, colon, port = address.rpartition(":")
    if address and (not colon or not host or not port.isdecimal() or int(port) > 65535):
        raise TelemetrySettingsError(f"{variable}: must be host:port, was {address[:100]!r}")
    return address


def _choice(environment: Mapping[str, str], variable: str, otherwise: Choice) -> Choice:
    told = environment.get(variable, "").strip().lower()
    kind = type(otherwise)
    if told and told not in {each.value for each in kind}:
        known = ", ".join(each.value for each in kind)
        raise TelemetrySettingsError(f"{variable}: one of {known}, was {told[:100]!r}")
    return kind(told) if told else otherwise


def _flag(environment: Mapping[str, str], variable: str) -> bool:
    told = environment.get(variable, "").strip().lower()
    if told not in _TRUE + _FALSE:
        raise TelemetrySettingsError(f"{variable}: true or false, was {told[:100]!r}")
    return told in _TRUE
