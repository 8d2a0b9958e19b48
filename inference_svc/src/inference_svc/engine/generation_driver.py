"""Drives one causal model: the scheduler decides, the runner computes, what goes wrong stays with its request."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from inference_svc.engine.costs import StepCosts
from inference_svc.engine.device_time import Cause, DeviceTime
from inference_svc.engine.door import Facts
from inference_svc.engine.driver import News
from inference_svc.engine.isolation import Isolation
from inference_svc.engine.plans import GenerationLimits, Placement
from inference_svc.engine.runner import BlockCache, DeviceLost, GenerationRunner, Row, SampledToken, TextDecoder
from inference_svc.engine.scheduler import GenerationScheduler
from inference_svc.engine.step_budget import StepBudget
from inference_svc.engine.step_tally import StepTally
from inference_svc.errors import SeamError, StepFailed
from inference_svc.requests import Encoding, Failed, Generation


class GenerationDriver:
    def __init__(
        self,
        runner: GenerationRunner,
        decoder: TextDecoder,
        limits: GenerationLimits,
        costs: StepCosts,
        clock: Callable[[], float],
        time: DeviceTime,
        tally: StepTally,
    ) -> None:
        self._runner = runner
        self._limits = limits
        self._costs = costs
        self._clock = clock
        self._time = time
        self._tally = tally
        sharing = runner if isinstance(runner, BlockCache) else None
        self._scheduler = GenerationScheduler(limits, decoder, costs, sharing)
        self._budget = StepBudget(limits.step_token_budget)
        self._open: set[int] = set()
        self._last_end: float | None = None  # of the step before, if there has been work ever since

    def submit(self, key: int, work: Generation | Encoding, now: float) -> News:
        assert isinstance(work, Generation)
        ended = self._scheduler.submit(key, work, now)
        return [] if ended is None else [(key, ended)]

    def remove(self, key: int) -> bool:
        return self._scheduler.remove(key)

    def grant(self, key: int, credits: int) -> None:
        self._scheduler.grant(key, credits)

    def expire(self, now: float) -> list[tuple[int, Failed]]:
        return self._scheduler.expire(now)

    def next_deadline(self) -> float | None:
        return self._scheduler.next_deadline()

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work

    @property
    def keys(self) -> tuple[int, ...]:
        return self._scheduler.keys

    def facts(self) -> Facts:
        facts = self._scheduler.facts()
        return Facts(
            waiting=facts.waiting,
            stalled=facts.stalled,
            running=facts.running,
            backlog_tokens=facts.backlog_tokens,
            slots=self._limits.slot_count,
            yielding=facts.yielding,
            free_cache_tokens=facts.free_cache_tokens,
        )

    def tidy(self) -> None:
        for slot in self._scheduler.take_closed():
            if slot in self._open:
                self._open.remove(slot)
                self._runner.close(slot)

    def step(self) -> News:
        began = self._clock()
        news: News = []
        self.tidy()  # what the cache holds is looked at next
        placements, refused = self._scheduler.place(began)
        news += refused
        self.tidy()
        for placement in placements:
            news += self._take_slot(placement)
        for key, slot in self._scheduler.prompting():
            self._scheduler.found(key, self._runner.look_again(slot))
        step = self._scheduler.next_step(began)
        if step is None:
            return news
        apart: Isolation[Row, SampledToken | None] = Isolation(self._compute, _tokens_of, _halves)
        started = self._clock()
        self._time.switch(Cause.COMPUTING, started)
        try:
            results = apart.run(step.rows)
        finally:
            ended = self._clock()
            self._time.switch(Cause.HOST, ended)
        self._scheduler.token_budget = self._budget.stepped(apart.too_big)
        news += self._scheduler.commit(step, results, ended)
        self._tally.stepped(step.prompt_tokens, step.decode_rows, len(step.rows), self._limits.step_token_budget)
        self._tally.stalls += self._scheduler.take_stalls()
        turn_began = began if self._last_end is None else self._last_end
        self._costs.stepped(step.prompt_tokens, ended - started, ended - turn_began)
        self._last_end = ended if self.has_work else None
        return news

    def _compute(self, rows: Sequence[Row]) -> list[SampledToken | None]:
        sampled = self._runner.step(rows)
        if len(sampled) != len(rows):
            raise RuntimeError(f"{len(sampled)} results for {len(rows)} rows")
        return sampled

    def _take_slot(self, placement: Placement) -> News:
        try:
            reused = self._runner.open(placement.slot, placement.generation)
        except DeviceLost:
            raise
        except Exception as error:
            self._scheduler.remove(placement.key)
            return [(placement.key, Failed(_refusal(error)))]
        self._open.add(placement.slot)
        self._scheduler.opened(placement.key, reused or 0)
        return []


def _refusal(error: Exception) -> SeamError:
    if isinstance(error, SeamError):
        return error
    refusal = StepFailed(f"the model could not begin this request: {type(error).__name__}")
    refusal.__cause__ = error
    return refusal


def _tokens_of(row: Row) -> int:
    return len(row.token_ids)


def _halves(row: Row) -> tuple[Row, Row] | None:
    middle = len(row.token_ids) // 2
    if not middle:
        return None
    first = replace(row, token_ids=row.token_ids[:middle], samples=False)
    return first, replace(row, start=row.start + middle, token_ids=row.token_ids[middle:])
