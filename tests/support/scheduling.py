"""A generation scheduler driven without a thread or a clock."""

from collections.abc import Callable

from inference_svc.engine.costs import StepCosts
from inference_svc.engine.plans import GenerationLimits
from inference_svc.engine.scheduler import GenerationScheduler
from inference_svc.requests import Context, Event, Failed, Finished, Generation, Priority, Tokens

from support.echo import EchoRunner, EchoTokenizer


class Harness:
    """Turns of a scheduler over an echo runner; `events` by key, `steps` as lists of (key, tokens)."""

    def __init__(self, *, slots=4, budget=32, prompt_bound=None, aging=1000, weights=None, cache=None, context=512):
        self.runner = EchoRunner(slot_count=slots, max_context_tokens=context, cache_token_count=cache)
        self.costs = StepCosts(budget)
        limits = GenerationLimits(slots, cache or slots * context, budget, prompt_bound, aging, weights or {})
        self.scheduler = GenerationScheduler(limits, EchoTokenizer(), self.costs)
        self.events: dict[int, list[Event]] = {}
        self.steps: list[list[tuple[int, int]]] = []
        self.now = 0.0
        self._open: set[int] = set()

    def submit(self, key: int, work: Generation) -> None:
        self._hear([(key, end)] if (end := self.scheduler.submit(key, work, self.now)) else [])

    def turn(self, count: int = 1, before: Callable[[], None] = lambda: None) -> None:
        for _ in range(count):
            before()
            self._hear(self.scheduler.expire(self.now))
            placements, refused = self.scheduler.place(self.now)
            self._hear(refused)
            self.close()
            for placed in placements:
                self.scheduler.opened(placed.key, self.runner.open(placed.slot, placed.generation) or 0)
                self._open.add(placed.slot)
            step = self.scheduler.next_step(self.now)
            if step is None:
                return
            self.steps.append([(k, len(row.token_ids)) for k, row in zip(step.keys, step.rows, strict=True)])
            self._hear(self.scheduler.commit(step, self.runner.step(step.rows), self.now))
            self.close()

    def run(self, until: Callable[[], bool], most: int = 2000) -> int:
        """Turns taken until it is so."""
        for count in range(most):
            if until():
                return count
            self.turn()
        raise AssertionError(f"not so after {most} turns")

    def close(self) -> None:
        for slot in self.scheduler.take_closed():
            self._open.remove(slot)
            self.runner.close(slot)

    def ids(self, key: int) -> list[int]:
        return [i for event in self.events.get(key, []) if isinstance(event, Tokens) for i in event.ids]

    def end(self, key: int) -> Event | None:
        ends = [event for event in self.events.get(key, []) if isinstance(event, Finished | Failed)]
        return ends[0] if ends else None

    def error(self, key: int) -> Exception:
        end = self.end(key)
        assert isinstance(end, Failed)
        return end.error

    def _hear(self, events) -> None:
        for key, event in events:
            self.events.setdefault(key, []).append(event)


def of(priority: Priority = Priority.NORMAL, **more) -> Context:
    return Context(priority=priority, **more)
