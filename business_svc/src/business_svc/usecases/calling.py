"""One call: who makes it and how long it may take, the same for every use case."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from business_svc.domain.access import Caller
from business_svc.domain.fields import Renaming, from_inference, renamed
from business_svc.domain.inference import Context, Timings
from business_svc.errors import Reason, SeamError
from business_svc.observing import CallWatch, Operation, UnwatchedWork, WorkWatch

Clock = Callable[[], float]  # the event loop's, in seconds


@dataclass(frozen=True, slots=True)
class Call:
    """`timeout` is the time that the caller still waits, in seconds; None is as long as the server allows. `watch` is
    who watches the call, where somebody does; its trace goes before the call's own."""

    caller: Caller
    timeout: float | None = None
    traceparent: str = ""
    tracestate: str = ""
    watch: CallWatch | None = None

    def allowed(self, max_seconds: float) -> float:
        """How long it may take, in seconds."""
        return max_seconds if self.timeout is None else min(self.timeout, max_seconds)

    def work(self, operation: Operation, model: str) -> WorkWatch:
        """To be told of one operation, in a `with` block."""
        if self.watch is None:
            return UnwatchedWork(self.traceparent, self.tracestate)
        return self.watch.work(operation, model)


def context_of(call: Call, now: float, max_seconds: float, work: WorkWatch | None = None) -> Context:
    """Raises DEADLINE_EXPIRED. Nothing runs without a bound: `max_seconds` holds where the caller sets none. The trace
    is that of `work`, where it is given."""
    if call.timeout is not None and call.timeout <= 0:
        raise SeamError(Reason.DEADLINE_EXPIRED, "the deadline had passed when the call arrived")
    return Context(
        tenant=call.caller.tenant,
        deadline=now + call.allowed(max_seconds),
        traceparent=(work or call).traceparent,
        tracestate=(work or call).tracestate,
    )


@contextmanager
def in_callers_words(*renamings: Renaming) -> Generator[None, None, None]:
    """Errors of inference leave with paths of the caller's own request."""
    try:
        yield
    except SeamError as error:
        if not error.violations:
            raise
        raise renamed(error, from_inference, *renamings) from error


def with_total(timings: Timings, total: float) -> Timings:
    return Timings(timings.queue, timings.prefill, timings.decode, total)
