"""What the doors of this server need behind them: something that admits requests, and something that answers what was
admitted. The engine and its admission are one pair of these; a recording that is replayed is another."""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from inference_svc.engine.desk import Outlet
from inference_svc.requests import Accepted, Context, Loads, ModelTotals, Prompt, Request

Ready = TypeVar("Ready")  # what was admitted; only the pair knows what is in it
Taken = TypeVar("Taken", contravariant=True)


class Admits(Protocol[Ready]):
    """Every refusal is raised, as the request's own SeamError, before anything is queued."""

    def is_quick(self, request: Request) -> bool:
        """Whether `admit_now` may be called on the event loop."""
        ...

    def admit_now(self, request: Request) -> Ready: ...

    async def admit(self, request: Request) -> Ready:
        """As `admit_now`, off the event loop where that would hold it up."""
        ...

    def accepted(self, ready: Ready) -> Accepted:
        """What the reader is told first."""
        ...

    async def count(self, name: str, prompt: Prompt, context: Context) -> tuple[list[int], int]:
        """Ids of a prompt, and the model's context limit."""
        ...


class Answers(Protocol[Taken]):
    """A request that `submit` took ends in exactly one Finished or Failed, told to its outlet, unless that is closed.
    Cancels and grants of requests that are not known are ignored: they may come late."""

    @property
    def alive(self) -> bool:
        """False once nothing will be answered any more: sessions say so, and take no work."""
        ...

    def submit(self, outlet: Outlet, request_id: int, work: Taken) -> None: ...

    def cancel(self, outlet: Outlet, request_id: int) -> None: ...

    def grant(self, outlet: Outlet, request_id: int, credits: int) -> None: ...

    def close_outlet(self, outlet: Outlet) -> None:
        """Cancels everything of it; it is told nothing more."""
        ...

    def loads(self) -> Loads: ...

    def totals(self) -> Sequence[ModelTotals]:
        """What each model did since the start."""
        ...

    def idle_seconds(self) -> Mapping[str, float]:
        """The model thread's time since the start, by cause; empty where there is none."""
        ...
