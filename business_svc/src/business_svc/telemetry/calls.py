"""Calls at the edges and operations inside them: spans, metrics, and the line of log at the end."""

from collections.abc import Sequence
from types import TracebackType
from typing import Literal, Self

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from seam_telemetry.carrying import parent_of, strings_of, trace_id_of
from seam_telemetry.conventions import PROVIDER, told_usage
from seam_telemetry.moments import Moments
from seam_telemetry.providers import Telemetry

from business_svc.domain.access import Caller
from business_svc.domain.inference import FinishReason, Timings, Usage
from business_svc.errors import Reason, SeamError
from business_svc.observing import Arrival, Edge, Operation
from business_svc.telemetry.instruments import Instruments

_SERVERS_FAULT = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)  # the codes that make a server's span an error, by the conventions for RPC


class WatchedWork:
    """Implements observing.WorkWatch."""

    def __init__(self, call: "WatchedCall", operation: Operation, model: str) -> None:
        self._call = call
        self.operation, self.model = operation, model
        self.request_id: str | None = None
        self.usage: Usage | None = None
        self.timings: Timings | None = None
        self.first: float | None = None
        self.prompts: Sequence[str] | None = None
        self.pieces: list[str] | None = [] if call.telemetry.log_content else None
        self._finish = FinishReason.NONE
        self._began = Moments.now()
        self._span: Span = call.telemetry.tracer.start_span(
            f"{operation.value} {model[:100]}",
            set_span_in_context(call.span),
            SpanKind.INTERNAL,
            {
                "gen_ai.operation.name": operation.value,
                "gen_ai.provider.name": PROVIDER,
                "gen_ai.request.model": model[:100],
            },
            start_time=call.moments.unix(self._began),
        )
        self.traceparent, self.tracestate = strings_of(self._span)
        if not self.traceparent:
            self.traceparent, self.tracestate = call.traceparent, call.tracestate

    def asked(self, texts: Sequence[str]) -> None:
        if self._call.telemetry.log_content:
            self.prompts = texts

    def started(self, request_id: str) -> None:
        self.request_id = request_id

    def said(self, text: str) -> None:
        if self.first is None:
            self.first = Moments.now() - self._began
        if self.pieces is not None:
            self.pieces.append(text)

    def finished(self, usage: Usage, timings: Timings, reason: FinishReason = FinishReason.NONE) -> None:
        self.usage, self.timings, self._finish = usage, timings, reason

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        if self.usage is not None:  # the caller has it all, whatever the connection does then
            error = None
        failure = None if error is None else _failure(error)
        if failure is not None:
            self._call.failed(failure)
        self._record(failure)
        self._close(failure)
        return False

    def _record(self, failure: SeamError | None) -> None:
        instruments = self._call.instruments
        name = instruments.models.proved(self.model) if self.usage else instruments.models.claimed(self.model)
        labels = {
            "gen_ai.operation.name": self.operation.value,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": name,
        }
        if self.usage is not None:
            used = ("input", self.usage.input_token_count), ("output", self.usage.output_token_count)
            for kind, count in used if self.operation is Operation.CHAT else used[:1]:
                instruments.token_usage.record(count, {**labels, "gen_ai.token.type": kind})
        if failure is not None:
            labels["error.type"] = failure.reason.value
        instruments.operation.record(Moments.now() - self._began, labels)

    def _close(self, failure: SeamError | None) -> None:
        span = self._span
        if span.is_recording():
            if self.usage is not None:
                span.set_attributes(_told(self.usage, self._finish, self.request_id))
            if self.first is not None:
                span.add_event("first token", timestamp=self._call.moments.unix(self._began + self.first))
            if failure is not None:
                fail(span, failure)
        span.end(self._call.moments.unix(Moments.now()))


class WatchedCall:
    """Implements observing.CallWatch."""

    def __init__(self, telemetry: Telemetry, instruments: Instruments, moments: Moments, arrival: Arrival) -> None:
        self.telemetry, self.instruments, self.moments = telemetry, instruments, moments
        self._arrival = arrival
        self._caller: Caller | None = None
        self._work: WatchedWork | None = None
        self._failure: SeamError | None = None
        self._over = False
        self._began = Moments.now()
        self.span: Span = telemetry.tracer.start_span(
            arrival.method,
            parent_of(arrival.traceparent, arrival.tracestate),
            SpanKind.SERVER,
            _of_arrival(arrival),
            start_time=moments.unix(self._began),
        )
        self.traceparent, self.tracestate = strings_of(self.span)
        if not self.traceparent:
            self.traceparent, self.tracestate = arrival.traceparent, arrival.tracestate
        instruments.inside[arrival.edge.value] += 1

    def known(self, caller: Caller) -> None:
        self._caller = caller

    def work(self, operation: Operation, model: str) -> WatchedWork:
        self._work = WatchedWork(self, operation, model)
        return self._work

    def failed(self, error: SeamError) -> None:
        self._failure = self._failure or error

    def ended(self, code: str, route: str = "") -> None:
        if self._over:
            return
        self._over = True
        self.instruments.inside[self._arrival.edge.value] -= 1
        if self._failure is None and code in ("CANCELLED", "499"):
            self._failure = SeamError(Reason.CANCELLED, "the caller went away")
        seconds = Moments.now() - self._began
        self._record(code, route, seconds)
        self._close(code, route)
        self._write(code, route, seconds)

    def _record(self, code: str, route: str, seconds: float) -> None:
        arrival, failure = self._arrival, self._failure
        if arrival.edge is Edge.GRPC:
            labels = {"rpc.system.name": "grpc", "rpc.method": arrival.method, "rpc.response.status_code": code}
            if code in _SERVERS_FAULT:
                labels["error.type"] = code
            self.instruments.rpc_server.record(seconds, labels)
        else:
            status: dict[str, str | int] = {
                "http.request.method": arrival.method,
                "http.route": route or "unmatched",
                "http.response.status_code": int(code),
                "url.scheme": "http",
            }
            if code >= "500":
                status["error.type"] = code
            self.instruments.http_server.record(seconds, status)
        if failure is not None:
            self.instruments.refusals.add(1, arrival.edge.value, failure.reason.value)

    def _close(self, code: str, route: str) -> None:
        span = self.span
        if span.is_recording():
            if self._arrival.edge is Edge.GRPC:
                span.set_attribute("rpc.response.status_code", code)
                at_fault = code in _SERVERS_FAULT
            else:
                span.set_attribute("http.response.status_code", int(code))
                if route:
                    span.set_attribute("http.route", route)
                    span.update_name(f"{self._arrival.method} {route}")
                at_fault = code >= "500"
            if self._caller is not None:
                span.set_attribute("seam.tenant", self._caller.tenant)
            if self._failure is not None:
                fail(span, self._failure, at_fault)
        span.end(self.moments.unix(Moments.now()))

    def _write(self, code: str, route: str, seconds: float) -> None:
        if not self.telemetry.log.on:
            return
        work, caller, failure = self._work, self._caller, self._failure
        self.telemetry.log.request(
            edge=self._arrival.edge.value,
            method=f"{self._arrival.method} {route}".rstrip(),
            code=code,
            outcome="ok" if failure is None else "cancelled" if failure.reason is Reason.CANCELLED else "failed",
            reason=None if failure is None else failure.reason.value,
            total_ms=_milliseconds(seconds),
            trace_id=trace_id_of(self.span) or None,
            tenant=None if caller is None else caller.tenant,
            key_id=None if caller is None else caller.key_id,
            **({} if work is None else _facts(work)),
        )


def fail(span: Span, failure: SeamError, at_fault: bool = True) -> None:
    """An error as the conventions have it; `at_fault` where it is this side's."""
    span.set_attribute("error.type", failure.reason.value)
    if at_fault:
        span.set_status(Status(StatusCode.ERROR, failure.reason.value))


def _failure(error: BaseException) -> SeamError:
    """Whatever is no SeamError is either the caller leaving or a fault of ours."""
    if isinstance(error, SeamError):
        return error
    if isinstance(error, Exception):
        return SeamError(Reason.INTERNAL_FAULT, type(error).__name__)
    return SeamError(Reason.CANCELLED, "the caller went away")


def _of_arrival(arrival: Arrival) -> dict[str, str]:
    if arrival.edge is Edge.GRPC:
        return {"rpc.system.name": "grpc", "rpc.method": arrival.method}
    return {"http.request.method": arrival.method, "url.scheme": "http"}


def _told(usage: Usage, finish: FinishReason, request_id: str | None) -> dict[str, str | int | list[str]]:
    told = told_usage(usage.input_token_count, usage.output_token_count, usage.cached_token_count, finish.value)
    if request_id:
        told["gen_ai.response.id"] = request_id
    return told


def _facts(work: WatchedWork) -> dict[str, object]:
    usage, timings = work.usage, work.timings
    facts: dict[str, object] = {
        "request_id": work.request_id,
        "operation": work.operation.value,
        "model": work.model[:100],
        "first_token_ms": None if work.first is None else _milliseconds(work.first),
    }
    if usage is not None:
        facts |= {
            "input_tokens": usage.input_token_count,
            "output_tokens": usage.output_token_count,
            "cached_tokens": usage.cached_token_count,
        }
    if timings is not None:
        facts |= {
            "queue_ms": _milliseconds(timings.queue),
            "prefill_ms": _milliseconds(timings.prefill),
            "decode_ms": _milliseconds(timings.decode),
        }
    if work.prompts is not None:
        facts["prompts"] = list(work.prompts)
        facts["answer"] = "".join(work.pieces or ())
    return facts


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
