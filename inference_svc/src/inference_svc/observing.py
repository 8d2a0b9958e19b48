"""What is told of each request and of the engine, and to whom: ports without a wire, and what stands there when nobody
watches. Told once a request, once a frame or once a cancel, never once a token."""

from dataclasses import dataclass
from typing import Protocol

from inference_svc.requests import Failed, Finished


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as it came, before anything of it is checked. `way` is "session" or "call";
    `task` "generate", "embed" or "score"; `given` the tokens told on another replica."""

    way: str
    model: str
    task: str
    tenant: str = ""
    traceparent: str = ""
    tracestate: str = ""
    given: int = 0


class RequestWatch(Protocol):
    def admitted(self) -> None:
        """It goes to the engine at this moment."""
        ...

    def ended(self, event: Finished | Failed) -> None:
        """What is told afterwards is ignored."""
        ...


class RequestObserver(Protocol):
    """On the event loop."""

    def received(self, arrival: Arrival) -> RequestWatch: ...

    def frame(self, requests: int) -> None:
        """A frame goes out with news of so many requests, one or more."""
        ...


class EngineObserver(Protocol):
    """On the model thread."""

    def cancelled(self, model: str, seconds: float) -> None:
        """What a request held is free, this long after the cancel came."""
        ...


class _Unwatched:
    def admitted(self) -> None: ...

    def ended(self, event: Finished | Failed) -> None: ...


_UNWATCHED = _Unwatched()


class Unobserved:
    """An observer of both kinds that keeps nothing."""

    def received(self, arrival: Arrival) -> RequestWatch:
        return _UNWATCHED

    def frame(self, requests: int) -> None: ...

    def cancelled(self, model: str, seconds: float) -> None: ...


UNOBSERVED = Unobserved()
