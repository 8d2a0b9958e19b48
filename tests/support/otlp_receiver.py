"""A receiver of OTLP over gRPC that keeps what it gets, as a test's collector."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True)
class Received:
    """A span with the name of the service that sent it. Times in nanoseconds."""

    service: str
    span: Span

    @property
    def name(self) -> str:
        return self.span.name

    @property
    def attributes(self) -> dict[str, Any]:
        return {one.key: getattr(one.value, one.value.WhichOneof("value") or "") for one in self.span.attributes}

    @property
    def duration(self) -> int:
        return self.span.end_time_unix_nano - self.span.start_time_unix_nano

    def holds(self, inner: "Received", slack: int = 0) -> bool:
        """Whether `inner` lies within it in time, but for `slack` nanoseconds."""
        begins = self.span.start_time_unix_nano - slack <= inner.span.start_time_unix_nano
        return begins and inner.span.end_time_unix_nano <= self.span.end_time_unix_nano + slack


class OtlpReceiver(trace_service_pb2_grpc.TraceServiceServicer, metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self) -> None:
        self.endpoint = ""
        self._spans: list[Received] = []
        self.metric_names: set[str] = set()
        self._changed = threading.Condition()

    def Export(self, request: Any, context: Any) -> Any:
        with self._changed:
            if isinstance(request, metrics_service_pb2.ExportMetricsServiceRequest):
                for resource in request.resource_metrics:
                    for scope in resource.scope_metrics:
                        self.metric_names |= {metric.name for metric in scope.metrics}
                self._changed.notify_all()
                return metrics_service_pb2.ExportMetricsServiceResponse()
            for resource in request.resource_spans:
                told = {one.key: one.value.string_value for one in resource.resource.attributes}
                for scope in resource.scope_spans:
                    self._spans += [Received(told["service.name"], span) for span in scope.spans]
            self._changed.notify_all()
            return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Received]:
        with self._changed:
            return list(self._spans)

    def wait_for(self, true: Callable[["OtlpReceiver"], bool], what: str, seconds: float = 60.0) -> None:
        """Until it holds; fails with what was received."""
        with self._changed:
            if not self._changed.wait_for(lambda: true(self), seconds):
                raise AssertionError(f"no {what} among {[(one.service, one.name) for one in self._spans]}")

    def trace(self, trace_id: bytes) -> list[Received]:
        return [one for one in self._spans if one.span.trace_id == trace_id]

    async def trace_with(self, trace_id: bytes, *names: str) -> list[Received]:
        """The spans of a trace once each of these names is among them, as often as it is given."""

        def whole(receiver: "OtlpReceiver") -> bool:
            found = [one.name for one in receiver.trace(trace_id)]
            return all(found.count(name) >= names.count(name) for name in names)

        await asyncio.to_thread(self.wait_for, whole, f"trace of {names}")
        return self.trace(trace_id)


@contextmanager
def otlp_receiver() -> Iterator[OtlpReceiver]:
    receiver = OtlpReceiver()
    server = grpc.server(ThreadPoolExecutor(4), options=(("grpc.so_reuseport", 0),))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    receiver.endpoint = f"http://127.0.0.1:{port}"
    try:
        yield receiver
    finally:
        server.stop(None).wait()
