"""Drives one encoder: the former decides, the runner computes, each request gets its vectors or scores."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from inference_svc.engine.costs import StepCosts
from inference_svc.engine.device_time import Cause, DeviceTime
from inference_svc.engine.door import Facts
from inference_svc.engine.driver import News
from inference_svc.engine.encoder_former import Computed, EncoderFormer, EncoderLimits
from inference_svc.engine.isolation import Isolation
from inference_svc.engine.runner import EncoderRunner
from inference_svc.engine.step_budget import StepBudget
from inference_svc.engine.step_tally import StepTally
from inference_svc.errors import InternalFault
from inference_svc.requests import (
    EmbedWork,
    EncodedInput,
    Encoding,
    Failed,
    Finished,
    FinishReason,
    Generation,
    ModelInfo,
    Score,
    Scores,
    ScoreWork,
    Timings,
    Usage,
    Vector,
    Vectors,
)
from inference_svc.results import finish_scores, finish_vectors

Floats = npt.NDArray[np.float32]


class EncodingDriver:
    def __init__(
        self,
        runner: EncoderRunner,
        info: ModelInfo,
        limits: EncoderLimits,
        costs: StepCosts,
        clock: Callable[[], float],
        time: DeviceTime,
        tally: StepTally,
    ) -> None:
        self._runner = runner
        self._info = info
        self._costs = costs
        self._clock = clock
        self._time = time
        self._tally = tally
        self._capacity = limits.pass_token_budget
        self._former = EncoderFormer(limits, costs)
        self._budget = StepBudget(limits.pass_token_budget)
        self._last_end: float | None = None  # of the pass before, if there has been work ever since

    def submit(self, key: int, work: Generation | Encoding, now: float) -> News:
        assert isinstance(work, Encoding)
        self._former.submit(key, work, now)
        return []

    def remove(self, key: int) -> bool:
        return self._former.remove(key)

    def grant(self, key: int, credits: int) -> None:
        """Credits are for generation only."""

    def expire(self, now: float) -> list[tuple[int, Failed]]:
        return self._former.expire(now)

    def next_deadline(self) -> float | None:
        return self._former.next_deadline()

    @property
    def has_work(self) -> bool:
        return not self._former.is_idle

    @property
    def keys(self) -> tuple[int, ...]:
        return self._former.keys

    def facts(self) -> Facts:
        return Facts(waiting=self._former.waiting)

    def tidy(self) -> None:
        """An encoder holds nothing between passes."""

    def step(self) -> News:
        began = self._clock()
        planned = self._former.next_pass(began)
        if planned is None:
            return []
        apart: Isolation[EncodedInput, Floats] = Isolation(self._encode, _tokens_of, lambda _: None)
        started = self._clock()
        self._time.switch(Cause.COMPUTING, started)
        try:
            rows = apart.run(planned.inputs)
        finally:
            ended = self._clock()
            self._time.switch(Cause.HOST, ended)
        self._former.token_budget = self._budget.stepped(apart.too_big)
        self._tally.stepped(planned.tokens, 0, len(planned.inputs), self._capacity)
        turn_began = began if self._last_end is None else self._last_end
        self._costs.stepped(planned.tokens, ended - started, ended - turn_began)
        computed, failed = self._former.commit(planned, rows)
        self._last_end = ended if self.has_work else None
        news: News = list(failed)
        for part in computed:
            news += self._told(part, ended)
        return news

    def _encode(self, inputs: Sequence[EncodedInput]) -> list[Floats]:
        rows = self._runner.encode(inputs)
        if len(rows) != len(inputs):
            raise RuntimeError(f"{len(rows)} rows for {len(inputs)} inputs")
        return list(rows)

    def _told(self, part: Computed, now: float) -> News:
        try:
            news: News = [(part.key, self._results(part))]
        except Exception as error:
            self._former.remove(part.key)
            fault = InternalFault("the model's output could not be turned into results")
            fault.__cause__ = error
            return [(part.key, Failed(fault))]
        if part.ended:
            tokens = sum(len(given.token_ids) for given in part.encoding.inputs)
            timings = Timings(queue=part.began - part.arrived, prefill=now - part.began)
            news.append((part.key, Finished(FinishReason.NONE, Usage(tokens), timings)))
        return news

    def _results(self, part: Computed) -> Vectors | Scores:
        match part.encoding.work:
            case EmbedWork() as work:
                vectors = finish_vectors(work, self._info, part.rows)
                return Vectors(
                    tuple(
                        Vector(given.index, row, len(given.token_ids), given.truncated)
                        for given, row in zip(part.inputs, vectors, strict=True)
                    )
                )
            case ScoreWork() as work:
                scores = finish_scores(work, self._info, part.rows)
                return Scores(
                    tuple(
                        Score(given.index, self._labelled(row), len(given.token_ids), given.truncated)
                        for given, row in zip(part.inputs, scores, strict=True)
                    )
                )

    def _labelled(self, row: Floats) -> tuple[tuple[str, float], ...]:
        return tuple((label, float(value)) for label, value in zip(self._info.labels, row, strict=True))


def _tokens_of(given: EncodedInput) -> int:
    return len(given.token_ids)
