"""Requests at a replica: a span with its queue, prefill and decode, metrics, and the line of log at the end."""

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from seam_telemetry.carrying import parent_of, trace_id_of
from seam_telemetry.conventions import PROVIDER, told_usage
from seam_telemetry.moments import Moments
from seam_telemetry.providers import Telemetry

from inference_svc.errors import SeamError
from inference_svc.observing import Arrival
from inference_svc.requests import Failed, Finished, Timings
from inference_svc.telemetry.instruments import Instruments

_OPERATIONS = {"generate": "chat", "embed": "embeddings", "score": "score"}  # by the conventions for generative AI
_FAULT = "INTERNAL_FAULT"


class WatchedRequest:
    """Implements observing.RequestWatch."""

    def __init__(
        self, telemetry: Telemetry, instruments: Instruments, moments: Moments, replica: str, arrival: Arrival
    ) -> None:
        self._telemetry, self._instruments, self._moments = telemetry, instruments, moments
        self._arrival = arrival
        self._operation = _OPERATIONS.get(arrival.task, "unknown")
        self._replica = replica
        self._admitted: float | None = None
        self._over = False
        self._began = Moments.now()
        self._span: Span = telemetry.tracer.start_span(
            f"{self._operation} {arrival.model[:100]} at replica",
            parent_of(arrival.traceparent, arrival.tracestate),
            SpanKind.SERVER,
            self._attributes(),
            start_time=moments.unix(self._began),
        )

    def admitted(self) -> None:
        self._admitted = Moments.now()

    def ended(self, event: Finished | Failed) -> None:
        if self._over:
            return
        self._over = True
        now = Moments.now()
        reason = _reason(event) if isinstance(event, Failed) else None
        self._record(event, reason, now)
        if self._span.is_recording():
            self._close(event, reason, now)
        self._write(event, reason, now)

    def _attributes(self) -> dict[str, str | int]:
        attributes: dict[str, str | int] = {
            "gen_ai.operation.name": self._operation,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": self._arrival.model[:100],
            "seam.replica.id": self._replica,
        }
        if self._arrival.given:
            attributes["seam.resumed.tokens"] = self._arrival.given
        return attributes

    # --- metrics ---

    def _record(self, event: Finished | Failed, reason: str | None, now: float) -> None:
        instruments = self._instruments
        name = self._arrival.model
        model = instruments.models.proved(name) if reason is None else instruments.models.claimed(name)
        labels = {
            "gen_ai.operation.name": self._operation,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": model,
        }
        if isinstance(event, Finished):
            self._record_answer(event, labels)
        elif reason is not None:
            labels["error.type"] = reason
            instruments.refusals.add(1, model, reason)
        instruments.request.record(now - self._began, labels)

    def _record_answer(self, event: Finished, labels: dict[str, str]) -> None:
        usage, timings, instruments = event.usage, event.timings, self._instruments
        model = labels["gen_ai.request.model"]
        computed = usage.input_token_count - usage.cached_token_count
        instruments.tokens.add(computed, model, "input")
        if usage.cached_token_count:
            instruments.tokens.add(usage.cached_token_count, model, "cached")
        if not usage.output_token_count:
            return
        instruments.tokens.add(usage.output_token_count, model, "output")
        if not self._arrival.given:
            admitting = (self._admitted or self._began) - self._began
            instruments.first_token.record(admitting + timings.queue + timings.prefill, labels)
        if usage.output_token_count > 1:
            instruments.per_token.record(timings.decode / (usage.output_token_count - 1), labels)

    # --- trace ---

    def _close(self, event: Finished | Failed, reason: str | None, now: float) -> None:
        span, unix = self._span, self._moments.unix
        if isinstance(event, Finished):
            usage = event.usage
            counts = usage.input_token_count, usage.output_token_count, usage.cached_token_count
            span.set_attributes(told_usage(*counts, event.reason.value))
            self._tell_phases(event.timings, now)
        elif reason is not None:
            span.set_attribute("error.type", reason)
            span.add_event("refused" if self._admitted is None else "failed", {"seam.reason": reason}, unix(now))
            span.set_status(Status(StatusCode.ERROR, reason))
        span.end(unix(now))

    def _tell_phases(self, timings: Timings, now: float) -> None:
        """As the model thread measured them, one after the other from where the request was handed to it."""
        moment = self._admitted or self._began
        inside = set_span_in_context(self._span)
        phases = [("queue", timings.queue), ("prefill", timings.prefill)]
        if self._operation == "chat":
            phases.append(("decode", timings.decode))
        for name, seconds in phases:
            end = min(moment + seconds, now)
            phase = self._telemetry.tracer.start_span(name, inside, start_time=self._moments.unix(moment))
            phase.end(self._moments.unix(end))
            moment = end

    # --- log ---

    def _write(self, event: Finished | Failed, reason: str | None, now: float) -> None:
        if not self._telemetry.log.on:
            return
        facts: dict[str, object] = {}
        if isinstance(event, Finished):
            usage, timings = event.usage, event.timings
            facts = {
                "input_tokens": usage.input_token_count,
                "output_tokens": usage.output_token_count,
                "cached_tokens": usage.cached_token_count,
                "queue_ms": _milliseconds(timings.queue),
                "prefill_ms": _milliseconds(timings.prefill),
                "decode_ms": _milliseconds(timings.decode),
                "finish": event.reason.value,
            }
        self._telemetry.log.request(
            way=self._arrival.way,
            operation=self._operation,
            model=self._arrival.model[:100],
            tenant=self._arrival.tenant or None,
            trace_id=trace_id_of(self._span) or None,
            resumed_tokens=self._arrival.given or None,
            outcome="ok" if reason is None else "cancelled" if reason == "CANCELLED" else "failed",
            reason=reason,
            total_ms=_milliseconds(now - self._began),
            **facts,
        )


def _reason(event: Failed) -> str:
    return event.error.reason if isinstance(event.error, SeamError) else _FAULT


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
