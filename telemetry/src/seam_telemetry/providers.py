"""Where a service's spans and metrics go, made from settings and ended with it."""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from opentelemetry.metrics import CallbackOptions, Meter, NoOpMeterProvider, Observation
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import sampling
from opentelemetry.trace import Tracer

from seam_telemetry.endpoint import serve_metrics
from seam_telemetry.lean_spans import LeanTracer
from seam_telemetry.naming import NamingTracer
from seam_telemetry.request_log import RequestLog
from seam_telemetry.settings import TelemetrySettings
from seam_telemetry.span_queue import SpanQueue

SCOPE = "seam"


@dataclass(frozen=True, slots=True, eq=False)
class Telemetry:
    """What a service tells through. `tracer` and `meter` swallow everything where nobody is to be told; `metered` is
    whether anybody reads metrics. `metrics_address` is "host:port" as bound, empty where there is none."""

    tracer: Tracer
    meter: Meter
    log: RequestLog
    log_content: bool = False
    traced: bool = False
    metered: bool = False
    metrics_address: str = ""


@contextmanager
def telemetry_of(settings: TelemetrySettings) -> Iterator[Telemetry]:
    """Raises OSError where the address for metrics cannot be had. Leaving it flushes, for a few seconds at most."""
    with ExitStack() as stack:
        resource = Resource.create(
            {"service.name": settings.service, "service.namespace": "seam", "service.instance.id": uuid.uuid4().hex}
        )
        spans = _span_queue(settings)
        address, readers = _readers(settings, stack)
        meter: Meter = NoOpMeterProvider().get_meter(SCOPE)
        tracer: Tracer = NamingTracer()
        if readers:
            metering = MeterProvider(
                readers, resource, exemplar_filter=AlwaysOffExemplarFilter(), shutdown_on_exit=False
            )
            stack.callback(metering.shutdown, 3000)
            meter = metering.get_meter(SCOPE)
        if spans is not None:
            stack.callback(spans.shutdown)
            tracer = LeanTracer(SCOPE, resource, _sampler(settings), spans.ended)
            _count_dropped(meter, spans)
        yield Telemetry(
            tracer=tracer,
            meter=meter,
            log=RequestLog(settings.log_style, settings.service),
            log_content=settings.log_content,
            traced=spans is not None,
            metered=bool(readers),
            metrics_address=address,
        )


def _span_queue(settings: TelemetrySettings) -> SpanQueue | None:
    if not settings.otlp_traces:
        return None
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # half a second to import

    return SpanQueue.of_environment(OTLPSpanExporter(endpoint=settings.otlp_traces))


def _readers(settings: TelemetrySettings, stack: ExitStack) -> tuple[str, list[MetricReader]]:
    readers: list[MetricReader] = []
    address = ""
    if settings.metrics_listen:
        reader, address = stack.enter_context(serve_metrics(settings.metrics_listen))
        readers.append(reader)
    if settings.otlp_metrics:
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=settings.otlp_metrics)))
    return address, readers


def _sampler(settings: TelemetrySettings) -> sampling.Sampler:
    root: sampling.Sampler
    match settings.sampler.removeprefix("parentbased_"):
        case "always_off":
            root = sampling.ALWAYS_OFF
        case "traceidratio":
            root = sampling.TraceIdRatioBased(settings.sampler_ratio)
        case _:
            root = sampling.ALWAYS_ON
    return sampling.ParentBased(root) if settings.sampler.startswith("parentbased_") else root


def _count_dropped(meter: Meter, spans: SpanQueue) -> None:
    def dropped(_: CallbackOptions) -> Iterator[Observation]:
        yield Observation(spans.dropped)

    meter.create_observable_counter(
        "seam.telemetry.spans.dropped", [dropped], "{span}", "Spans lost because too many waited to be exported"
    )
