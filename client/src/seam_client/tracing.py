"""The client's span of a call, in the tracer that the program has set up with OpenTelemetry. A program that has not
imported OpenTelemetry pays nothing for it: nothing is imported here, and calls carry nothing."""

import sys
import time
from typing import Any, Self

from google.protobuf.message import Message as Proto

from seam_client.errors import SeamError

Metadata = tuple[tuple[str, str], ...]
_SCOPE = "seam-client"
_PACKAGE = "seam.business.v1"
_METHODS = {
    "ChatRequest": "ChatService/Chat",
    "PredictRequest": "PredictService/Predict",
    "EmbedRequest": "EmbeddingService/Embed",
    "ScoreRequest": "ScoreService/Score",
    "ListModelsRequest": "OperationsService/ListModels",
    "GetStatusRequest": "OperationsService/GetStatus",
}
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


class CallSpan:
    """One call from its request to its end. `metadata` is the call's own, with the trace's context where there is one.

    In a `with` block it ends with it, badly where SeamError is raised inside.
    """

    def __init__(self, request: Proto, metadata: Metadata) -> None:
        self._method = f"{_PACKAGE}.{_METHODS[request.DESCRIPTOR.name]}"
        self._began = time.monotonic()
        self._span: Any = None
        self.metadata = metadata
        trace: Any = sys.modules.get("opentelemetry.trace")
        if trace is None:
            return
        attributes = {"rpc.system.name": "grpc", "rpc.method": self._method}
        self._span = trace.get_tracer(_SCOPE).start_span(
            self._method, kind=trace.SpanKind.CLIENT, attributes=attributes
        )
        self.metadata = (*metadata, *_carried(self._span.get_span_context()))

    def ended(self, code: str = "OK", reason: str = "") -> None:
        """What is told afterwards is ignored."""
        span, self._span = self._span, None
        if span is None:
            return
        labels = {"rpc.system.name": "grpc", "rpc.method": self._method, "rpc.response.status_code": code}
        if code != "OK":
            labels["error.type"] = reason or code
            trace: Any = sys.modules["opentelemetry.trace"]
            span.set_status(trace.Status(trace.StatusCode.ERROR, reason or code))
        span.set_attributes(labels)
        span.end()
        metrics: Any = sys.modules.get("opentelemetry.metrics")
        if metrics is not None:
            duration = metrics.get_meter(_SCOPE).create_histogram(
                "rpc.client.call.duration",
                "s",
                "Duration of calls that this service made",
                explicit_bucket_boundaries_advisory=list(_BUCKETS),
            )
            duration.record(time.monotonic() - self._began, labels)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None:
            self.ended()
        elif isinstance(error, SeamError):
            self.ended(error.code, error.reason)
        else:
            self.ended("CANCELLED")


def _carried(context: Any) -> Metadata:
    """W3C trace context."""
    if not context.is_valid:
        return ()
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    state = context.trace_state.to_header() if context.trace_state else ""
    return (("traceparent", parent), *((("tracestate", state),) if state else ()))
