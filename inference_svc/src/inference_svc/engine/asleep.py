"""Stands in for the driver of a model that sleeps: requests wait here, in the order they came, until it is awake."""

from dataclasses import dataclass, replace

from inference_svc.engine.door import Facts, Need
from inference_svc.engine.driver import Driver, News
from inference_svc.engine.waiting_count import WaitingCount
from inference_svc.errors import DeadlineExpired
from inference_svc.requests import Encoding, Failed, Generation


@dataclass(slots=True)
class _Waiter:
    work: Generation | Encoding
    arrived: float

    @property
    def deadline(self) -> float | None:
        context = self.work.context
        return min((m for m in (context.first_token_deadline, context.deadline) if m is not None), default=None)


class AsleepDriver:
    """A Driver that never has a step to take. Bounded by the model's door, which counts what waits here."""

    has_work = False

    def __init__(self) -> None:
        self._waiting: dict[int, _Waiter] = {}

    def submit(self, key: int, work: Generation | Encoding, now: float) -> News:
        self._waiting[key] = _Waiter(work, now)
        return []

    def remove(self, key: int) -> bool:
        return self._waiting.pop(key, None) is not None

    def grant(self, key: int, credits: int) -> None:
        waiter = self._waiting.get(key)
        if waiter is not None and isinstance(waiter.work, Generation) and waiter.work.credits is not None:
            waiter.work = replace(waiter.work, credits=waiter.work.credits + credits)

    def expire(self, now: float) -> list[tuple[int, Failed]]:
        late = [key for key, waiter in self._waiting.items() if waiter.deadline is not None and waiter.deadline <= now]
        for key in late:
            del self._waiting[key]
        return [(key, Failed(DeadlineExpired("the deadline passed while the model woke up"))) for key in late]

    def next_deadline(self) -> float | None:
        return min((w.deadline for w in self._waiting.values() if w.deadline is not None), default=None)

    def step(self) -> News:
        return []

    def tidy(self) -> None:
        """Nothing is held for what waits."""

    def facts(self) -> Facts:
        count = WaitingCount()
        for waiter in self._waiting.values():
            need = Need.of(waiter.work)
            count.add(waiter.work.context.priority, need.tokens, need.sequences)
        return Facts(waiting=count.snapshot())

    @property
    def keys(self) -> tuple[int, ...]:
        return tuple(self._waiting)

    def hand_over(self, driver: Driver) -> News:
        """All that waits goes to the driver of the model that is awake, as it came."""
        waiting, self._waiting = self._waiting, {}
        news: News = []
        for key, waiter in waiting.items():
            news += driver.submit(key, waiter.work, waiter.arrived)
        return news
