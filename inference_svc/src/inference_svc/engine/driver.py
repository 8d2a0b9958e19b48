"""What the engine asks of whatever drives one model."""

from typing import Protocol

from inference_svc.engine.door import Facts
from inference_svc.requests import Encoding, Event, Failed, Generation

News = list[tuple[int, Event]]


class Driver(Protocol):
    """Owned by the model thread. Keys are the engine's own; every key that was submitted and not removed ends in
    exactly one Finished or Failed."""

    def submit(self, key: int, work: Generation | Encoding, now: float) -> News: ...

    def remove(self, key: int) -> bool:
        """True where the request was alive; nothing more comes of it."""
        ...

    def grant(self, key: int, credits: int) -> None: ...

    def expire(self, now: float) -> list[tuple[int, Failed]]: ...

    def step(self) -> News:
        """One step of the model. Raises DeviceLost."""
        ...

    def tidy(self) -> None:
        """Give back to the runner what nobody holds any more."""
        ...

    def facts(self) -> Facts: ...

    def next_deadline(self) -> float | None: ...

    @property
    def has_work(self) -> bool: ...

    @property
    def keys(self) -> tuple[int, ...]: ...
