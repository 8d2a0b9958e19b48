"""W3C trace context as strings, the way it rides in messages and metadata."""

import re

from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_PROPAGATOR = TraceContextTextMapPropagator()
_NOWHERE = Context()
_PLAIN = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def parent_of(traceparent: str, tracestate: str = "") -> Context:
    """What a span is begun under; what cannot be read begins a trace of its own."""
    if not traceparent:
        return _NOWHERE
    plain = None if tracestate else _PLAIN.fullmatch(traceparent)
    if plain is not None:  # what our own side sends; the library reads it at ten times the cost
        trace_id, span_id, flags = (int(part, 16) for part in plain.groups())
        context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
        return set_span_in_context(NonRecordingSpan(context), _NOWHERE) if context.is_valid else _NOWHERE
    carrier = {"traceparent": traceparent}
    if tracestate:
        carrier["tracestate"] = tracestate
    return _PROPAGATOR.extract(carrier, context=_NOWHERE)


def strings_of(span: Span) -> tuple[str, str]:
    """traceparent and tracestate; empty where the span belongs to no trace."""
    context = span.get_span_context()
    if not context.is_valid:
        return "", ""
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    return parent, context.trace_state.to_header() if context.trace_state else ""


def trace_id_of(span: Span) -> str:
    """As tools show it; empty where the span belongs to no trace."""
    context = span.get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""
