"""Requests on their way from replica to replica: one span a stay, linked to the stay before."""

from dataclasses import replace

from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind
from seam_telemetry.carrying import parent_of, strings_of
from seam_telemetry.moments import Moments
from seam_telemetry.providers import Telemetry

from business_svc.domain.inference import Context, Usage
from business_svc.errors import SeamError
from business_svc.telemetry.calls import fail
from business_svc.telemetry.instruments import Instruments

SESSION = "seam.inference.v1.InferenceService/Session"


class WatchedTrail:
    """Implements observing.Trail."""

    def __init__(
        self,
        telemetry: Telemetry,
        instruments: Instruments,
        moments: Moments,
        model: str,
        context: Context,
    ) -> None:
        self._telemetry, self._instruments, self._moments = telemetry, instruments, moments
        self._model, self._context = model, context
        self._stay: Span | None = None
        self._before: Span = INVALID_SPAN
        self._number = 0
        self._resumed = False

    def departs(self, address: str, replica_id: str, given: int) -> Context:
        self._number += 1
        attributes: dict[str, str | int] = {
            "rpc.system.name": "grpc",
            "rpc.method": SESSION,
            "server.address": address,
            "seam.replica.id": replica_id,
            "seam.attempt": self._number,
        }
        if given:
            attributes["seam.resumed.tokens"] = given
        before = self._before.get_span_context()
        self._stay = self._telemetry.tracer.start_span(
            f"attempt {self._number}",
            parent_of(self._context.traceparent, self._context.tracestate),
            SpanKind.CLIENT,
            attributes,
            [Link(before)] if before.is_valid else None,
            start_time=self._now(),
        )
        traceparent, tracestate = strings_of(self._stay)
        return replace(self._context, traceparent=traceparent, tracestate=tracestate) if traceparent else self._context

    def answered(self, usage: Usage) -> None:
        if (stay := self._ends("answered")) is None:
            return
        if stay.is_recording():
            stay.set_attribute("gen_ai.usage.output_tokens", usage.output_token_count)
        stay.end(self._now())
        self._told_resume("finished")

    def failed(self, error: SeamError, then: str) -> None:
        if (stay := self._ends("failed")) is None:
            return
        if stay.is_recording():
            stay.add_event(then, {"seam.reason": error.reason.value}, self._now())
            fail(stay, error)
        stay.end(self._now())
        match then:
            case "resume":
                self._resumed = True
            case "give up":
                self._told_resume("failed")
            case _:
                self._instruments.retries.add(1, error.reason.value)

    def left(self) -> None:
        if (stay := self._ends("left")) is None:
            return
        if stay.is_recording():
            stay.add_event("the reader left", timestamp=self._now())
        stay.end(self._now())
        self._told_resume("left")

    def nowhere(self, error: SeamError) -> None:
        """A stay of no length says what the pool said."""
        stay = self._telemetry.tracer.start_span(
            "no replica",
            parent_of(self._context.traceparent, self._context.tracestate),
            SpanKind.INTERNAL,
            {"gen_ai.request.model": self._model[:100]},
        )
        fail(stay, error)
        stay.end()
        self._told_resume("failed")

    def _ends(self, how: str) -> Span | None:
        stay, self._stay = self._stay, None
        if stay is not None:
            self._before = stay
            self._instruments.attempts.add(1, how)
        return stay

    def _told_resume(self, outcome: str) -> None:
        if self._resumed:
            self._resumed = False
            self._instruments.resumes.add(1, outcome)

    def _now(self) -> int:
        return self._moments.unix(Moments.now())
