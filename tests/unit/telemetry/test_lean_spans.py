"""What an exporter is given is what the SDK's own spans would have given it."""

from collections.abc import Callable

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Encoded
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer
from seam_telemetry.carrying import parent_of
from seam_telemetry.lean_spans import LeanTracer

RESOURCE = Resource({"service.name": "test"})
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-1] + "0"


class Kept(SpanProcessor):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def of_sdk(sampler: Sampler) -> tuple[Tracer, list[ReadableSpan]]:
    kept, provider = Kept(), TracerProvider(sampler, RESOURCE, shutdown_on_exit=False)
    provider.add_span_processor(kept)
    return provider.get_tracer("seam"), kept.spans


def lean(sampler: Sampler) -> tuple[Tracer, list[ReadableSpan]]:
    spans: list[ReadableSpan] = []
    return LeanTracer("seam", RESOURCE, sampler, spans.append), spans


def told(tracer: Tracer, parent: str) -> None:
    """All that services tell of a span."""
    link = Link(SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1)))
    attributes = {"text": "a", "number": 5, "share": 0.5, "yes": True, "list": ["a", "b"]}
    span = tracer.start_span("before", parent_of(parent), SpanKind.SERVER, attributes, [link], start_time=1_000)
    span.set_attribute("text", "changed")
    span.set_attributes({"more": 7})
    span.update_name("name")
    span.add_event("first token", timestamp=1_500)
    span.add_event("resume", {"seam.reason": "REPLICA_LOST"}, 1_600)
    span.set_status(Status(StatusCode.ERROR, "why"))
    span.end(2_000)
    span.end(3_000)


def encoded(make: Callable[[Sampler], tuple[Tracer, list[ReadableSpan]]], sampler: Sampler, parent: str) -> Encoded:
    tracer, spans = make(sampler)
    told(tracer, parent)
    (span,) = spans
    (resource,) = encode_spans([span]).resource_spans
    assert [each.value.string_value for each in resource.resource.attributes] == ["test"]
    (scope,) = resource.scope_spans
    assert scope.scope.name == "seam"
    found = Encoded()
    found.CopyFrom(scope.spans[0])
    found.attributes.sort(key=lambda each: each.key)  # the SDK moves what is set anew to the end
    assert len(found.span_id) == 8
    found.span_id = b""
    if not parent:
        assert len(found.trace_id) == 16
        found.trace_id = b""
    return found


@pytest.mark.parametrize("parent", ["", PARENT])
def test_an_exporter_is_given_the_same(parent: str) -> None:
    sampler = ParentBased(ALWAYS_ON)
    assert encoded(lean, sampler, parent) == encoded(of_sdk, sampler, parent)


@pytest.mark.parametrize("parent", ["", PARENT, UNSAMPLED])
@pytest.mark.parametrize(
    "sampler",
    [ALWAYS_ON, ALWAYS_OFF, ParentBased(ALWAYS_ON), ParentBased(ALWAYS_OFF), TraceIdRatioBased(0.0)],
    ids=lambda sampler: sampler.get_description(),
)
def test_the_same_are_sampled_and_said_to_be(sampler: Sampler, parent: str) -> None:
    found = []
    for make in (lean, of_sdk):
        tracer, spans = make(sampler)
        span = tracer.start_span("call", parent_of(parent))
        flags = span.get_span_context().trace_flags
        recording = span.is_recording()
        span.end()
        found.append((flags.sampled, recording, len(spans)))
    assert found[0] == found[1]


def test_nothing_is_told_after_the_end() -> None:
    tracer, spans = lean(ALWAYS_ON)
    span = tracer.start_span("call")
    span.end(5)
    assert not span.is_recording()
    span.set_attribute("late", 1)
    span.add_event("late")
    span.end(9)
    assert [(each.end_time, dict(each.attributes or {}), each.events) for each in spans] == [(5, {}, ())]


def test_inner_spans_belong_to_their_outer_one() -> None:
    tracer, spans = lean(ParentBased(ALWAYS_ON))
    outer = tracer.start_span("outer")
    context = outer.get_span_context()
    traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"
    tracer.start_span("inner", parent_of(traceparent)).end()
    (inner,) = spans
    assert inner.parent is not None
    assert inner.parent.span_id == context.span_id
    assert inner.context is not None
    assert inner.context.trace_id == context.trace_id
