"""W3C trace context as strings, the way it rides in messages and metadata."""

from opentelemetry.context import Context
from opentelemetry.trace import Span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_PROPAGATOR = TraceContextTextMapPropagator()
_NOWHERE = Context()


def parent_of(traceparent: str, tracestate: str = "") -> Context:
    """What a span is begun under; what cannot be read begins a trace of its own."""
    if not traceparent:
        return _NOWHERE
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
