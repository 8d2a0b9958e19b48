"""Spans that cost little to make.

The SDK's own span copies and checks every attribute under a lock, calls every sampler and processor there may be, and
takes 57 us, export apart, for what a request needs six times. Here attributes are taken as they are given (our own
few, whose types we know), and the SDK's ReadableSpan is made once, at the end, for its exporters.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    NoOpTracer,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
)

Ended = Callable[[ReadableSpan], None]
_UNSET = Status(StatusCode.UNSET)
_SAMPLED, _UNSAMPLED = TraceFlags(TraceFlags.SAMPLED), TraceFlags(TraceFlags.DEFAULT)


class LeanTracer(NoOpTracer):
    """Begins spans; `ended` is given each that is sampled, when it ends. With a ParentBased sampler a span that has a
    parent is sampled as that is, whatever else the sampler may have been told of parents."""

    def __init__(self, scope: str, resource: Resource, sampler: Sampler, ended: Ended) -> None:
        self.scope = InstrumentationScope(scope)
        self.resource = resource
        self.ended = ended
        self._sampler = sampler
        self._follows_parents = isinstance(sampler, ParentBased)
        self._ids = RandomIdGenerator()

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Span:
        """`attributes` are kept, not copied."""
        parent = get_current_span(context).get_span_context()
        has_parent = parent.is_valid
        trace_id = parent.trace_id if has_parent else self._ids.generate_trace_id()
        state = parent.trace_state if has_parent else None
        if has_parent and self._follows_parents:
            is_sampled = parent.trace_flags.sampled
        else:
            found = self._sampler.should_sample(context, trace_id, name, kind, attributes, links)
            is_sampled, state = found.decision is Decision.RECORD_AND_SAMPLE, found.trace_state
        flags = _SAMPLED if is_sampled else _UNSAMPLED
        own = SpanContext(trace_id, self._ids.generate_span_id(), False, flags, state)
        if not is_sampled:
            return NonRecordingSpan(own)
        began = time.time_ns() if start_time is None else start_time
        return LeanSpan(self, name, own, parent if has_parent else None, kind, attributes or {}, links or (), began)


class LeanSpan(Span):
    """Of one thread. What is told after its end is left out."""

    def __init__(
        self,
        tracer: LeanTracer,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: dict[str, Any],
        links: Sequence[Link],
        began: int,
    ) -> None:
        self._tracer, self._name, self._context, self._parent = tracer, name, context, parent
        self._kind, self._attributes, self._links, self._began = kind, attributes, links, began
        self._events: list[Event] = []
        self._status = _UNSET
        self._is_over = False

    def get_span_context(self) -> SpanContext:
        return self._context

    def is_recording(self) -> bool:
        return not self._is_over

    def set_attribute(self, key: str, value: Any) -> None:
        self._attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        self._attributes.update(attributes)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        self._events.append(Event(name, attributes, time.time_ns() if timestamp is None else timestamp))

    def update_name(self, name: str) -> None:
        self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self._status = status if isinstance(status, Status) else Status(status, description)

    def record_exception(
        self, exception: BaseException, attributes: Any = None, timestamp: int | None = None, escaped: bool = False
    ) -> None:
        told = {"exception.type": type(exception).__qualname__, "exception.message": str(exception)}
        self.add_event("exception", {**told, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._tracer.ended(
            ReadableSpan(
                self._name,
                self._context,
                self._parent,
                self._tracer.resource,
                self._attributes,
                self._events,
                self._links,
                self._kind,
                status=self._status,
                start_time=self._began,
                end_time=time.time_ns() if end_time is None else end_time,
                instrumentation_scope=self._tracer.scope,
            )
        )
        self._attributes, self._events = {}, []  # an exporter has those now
