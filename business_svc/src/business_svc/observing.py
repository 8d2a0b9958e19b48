"""What is told of each call while it is made, and to whom: ports without a wire, and what stands there when nobody
watches. Told once a call or once a replica, never once a token."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Literal, Protocol, Self

from business_svc.domain.access import Caller
from business_svc.domain.inference import Context, FinishReason, Timings, Usage
from business_svc.errors import SeamError


class Operation(Enum):
    """What is asked of a model, by the names of the semantic conventions for generative AI."""

    CHAT = "chat"
    EMBEDDINGS = "embeddings"
    SCORE = "score"


class Edge(Enum):
    GRPC = "grpc"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A call as it came. `method` is "package.Service/Method" over gRPC, the verb over HTTP."""

    edge: Edge
    method: str
    traceparent: str = ""
    tracestate: str = ""


class WorkWatch(Protocol):
    """One operation of a model for a caller. Used in a `with` block: what is raised inside is how it failed."""

    @property
    def traceparent(self) -> str: ...

    @property
    def tracestate(self) -> str: ...

    def asked(self, texts: Sequence[str]) -> None:
        """What was asked, for those who want to keep it."""
        ...

    def started(self, request_id: str) -> None: ...

    def said(self, text: str) -> None:
        """A piece of an answer; the first is the first token."""
        ...

    def finished(self, usage: Usage, timings: Timings, reason: FinishReason = FinishReason.NONE) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]: ...


class CallWatch(Protocol):
    """One call at an edge."""

    @property
    def traceparent(self) -> str: ...

    @property
    def tracestate(self) -> str: ...

    def known(self, caller: Caller) -> None: ...

    def work(self, operation: Operation, model: str) -> WorkWatch: ...

    def failed(self, error: SeamError) -> None: ...

    def ended(self, code: str, route: str = "") -> None:
        """`code` is the name of the gRPC code or the HTTP status that the caller was told; `route` the template of the
        path over HTTP. What is told afterwards is ignored."""
        ...


class Trail(Protocol):
    """One request on its way from replica to replica."""

    def departs(self, address: str, replica_id: str, given: int) -> Context:
        """It goes to a replica, where `given` tokens were told before. What to send there."""
        ...

    def answered(self, usage: Usage) -> None: ...

    def failed(self, error: SeamError, then: str) -> None:
        """The replica failed it; `then` is what comes next: "move", "resume", "retry", "give up"."""
        ...

    def left(self) -> None:
        """Nobody reads any more. Ignored where the stay has ended."""
        ...

    def nowhere(self, error: SeamError) -> None:
        """No replica takes it."""
        ...


class Observer(Protocol):
    def call(self, arrival: Arrival) -> CallWatch: ...

    def trail(self, operation: Operation, model: str, context: Context) -> Trail: ...

    def session_ended(self, address: str, seconds: float, why: str, in_order: bool) -> None:
        """A stream to a replica, the whole of it."""
        ...


class UnwatchedWork:
    """The caller's trace goes on to the replicas, though nothing is added to it here."""

    def __init__(self, traceparent: str, tracestate: str) -> None:
        self.traceparent, self.tracestate = traceparent, tracestate

    def asked(self, texts: Sequence[str]) -> None: ...

    def started(self, request_id: str) -> None: ...

    def said(self, text: str) -> None: ...

    def finished(self, usage: Usage, timings: Timings, reason: FinishReason = FinishReason.NONE) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        return False


class _UnwatchedCall:
    def __init__(self, traceparent: str, tracestate: str) -> None:
        self.traceparent, self.tracestate = traceparent, tracestate

    def known(self, caller: Caller) -> None: ...

    def work(self, operation: Operation, model: str) -> WorkWatch:
        return UnwatchedWork(self.traceparent, self.tracestate)

    def failed(self, error: SeamError) -> None: ...

    def ended(self, code: str, route: str = "") -> None: ...


class _UnwatchedTrail:
    def __init__(self, context: Context) -> None:
        self._context = context

    def departs(self, address: str, replica_id: str, given: int) -> Context:
        return self._context

    def answered(self, usage: Usage) -> None: ...

    def failed(self, error: SeamError, then: str) -> None: ...

    def left(self) -> None: ...

    def nowhere(self, error: SeamError) -> None: ...


class Unobserved:
    """An Observer that keeps nothing."""

    def call(self, arrival: Arrival) -> CallWatch:
        return _UnwatchedCall(arrival.traceparent, arrival.tracestate)

    def trail(self, operation: Operation, model: str, context: Context) -> Trail:
        return _UnwatchedTrail(context)

    def session_ended(self, address: str, seconds: float, why: str, in_order: bool) -> None: ...


UNOBSERVED = Unobserved()
