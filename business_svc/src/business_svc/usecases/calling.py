"""One call: who makes it and how long it may take, the same for every use case."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from business_svc.domain.access import Caller
from business_svc.domain.fields import Renaming, from_inference, renamed
from business_svc.domain.inference import Context, Timings
from business_svc.errors import Reason, SeamError

Clock = Callable[[], float]  # the event loop's, in seconds


@dataclass(frozen=True, slots=True)
class Call:
    """`timeout` is the time that the caller still waits, in seconds; None is as long as the server allows."""

    caller: Caller
    timeout: float | None = None
    traceparent: str = ""
    tracestate: str = ""


def context_of(call: Call, now: float, max_seconds: float) -> Context:
    """Raises DEADLINE_EXPIRED. Nothing runs without a bound: `max_seconds` holds where the caller sets none."""
    if call.timeout is not None and call.timeout <= 0:
        raise SeamError(Reason.DEADLINE_EXPIRED, "the deadline had passed when the call arrived")
    allowed = max_seconds if call.timeout is None else min(call.timeout, max_seconds)
    return Context(
        tenant=call.caller.tenant,
        deadline=now + allowed,
        traceparent=call.traceparent,
        tracestate=call.tracestate,
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
