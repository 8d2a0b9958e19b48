"""Decides which inputs an encoder pass computes together. Pure, as the generation scheduler is."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from inference_svc.engine.costs import StepCosts
from inference_svc.engine.waiting_count import Waiting, WaitingCount
from inference_svc.engine.waiting_line import Entry, WaitingLine
from inference_svc.errors import DeadlineExpired, NumericalFault, SeamError
from inference_svc.requests import EncodedInput, Encoding, Failed

_LOOKAHEAD = 32  # inputs too long for what is left of a pass that are passed over to fill it

Content = tuple[tuple[int, ...], tuple[int, ...] | None]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EncoderLimits:
    """`pass_token_budget` bounds a pass; an input longer than that is a pass of its own."""

    pass_token_budget: int
    aging_steps: int = 256
    tenant_weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pass:
    """Different inputs to compute together."""

    inputs: tuple[EncodedInput, ...]
    tokens: int
    began: float


@dataclass(frozen=True, slots=True)
class Computed:
    """Inputs of one request that a pass computed: rows `(inputs, width) float32`. `ended` when none is left."""

    key: int
    encoding: Encoding
    inputs: tuple[EncodedInput, ...]
    rows: Floats
    ended: bool
    arrived: float
    began: float


@dataclass(slots=True, eq=False)
class _Request:
    key: int
    encoding: Encoding
    arrived: float
    waiting: dict[int, EncodedInput]  # by the input's key in the line
    began: float | None = None


@dataclass(slots=True, eq=False)
class _Waiter:
    request: _Request
    given: EncodedInput


class EncoderFormer:
    """Each input waits for itself. Inputs take turns by tokens: an input's turn is the turn of its request plus the
    tokens of the request before it, so one request of many inputs and many of one share alike; a deadline that leaves
    less than that moves it forward. Equal inputs that wait at the same time are computed once, for all of them.
    """

    def __init__(self, limits: EncoderLimits, costs: StepCosts) -> None:
        self._limits = limits
        self.token_budget = limits.pass_token_budget  # the driver lowers it after a pass that was too big
        self._costs = costs
        self._requests: dict[int, _Request] = {}
        self._line: WaitingLine[_Waiter] = WaitingLine(limits.tenant_weights, limits.aging_steps)
        self._equal: dict[Content, dict[int, _Waiter]] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._turn = 0.0  # tokens: the turn of the newest input served
        self._inputs = 0
        self._step = 0
        self._waiting = WaitingCount()

    def submit(self, key: int, encoding: Encoding, now: float) -> None:
        """Whether there is room for it was decided at the door."""
        request = self._requests[key] = _Request(key, encoding, now, {})
        context = encoding.context
        deadline = min((m for m in (context.deadline, context.first_token_deadline) if m is not None), default=None)
        if deadline is not None:
            heapq.heappush(self._deadlines, (deadline, key))
        turn, latest = self._turn, self._latest_turn(encoding, deadline, now)
        for given in encoding.inputs:
            self._inputs += 1
            waiter = _Waiter(request, given)
            request.waiting[self._inputs] = given
            self._equal.setdefault(_content(given), {})[self._inputs] = waiter
            self._waiting.add(context.priority, len(given.token_ids))
            self._line.push(
                waiter,
                key=self._inputs,
                priority=context.priority,
                tenant=context.tenant,
                step=self._step,
                rank=min(turn, latest),
                order=self._inputs,
            )
            turn += len(given.token_ids)

    def remove(self, key: int) -> bool:
        """Forget a request and what of it is not yet computed. False where it was over or never known."""
        request = self._requests.pop(key, None)
        if request is None:
            return False
        for number, given in request.waiting.items():
            self._line.remove(number)
            self._forget_equal(number, given)
            self._waiting.drop(request.encoding.context.priority, len(given.token_ids))
        if len(self._deadlines) > 2 * len(self._requests) + 64:
            self._deadlines = [each for each in self._deadlines if each[1] in self._requests]
            heapq.heapify(self._deadlines)
        return True

    def expire(self, now: float) -> list[tuple[int, Failed]]:
        ended: list[tuple[int, Failed]] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, key = heapq.heappop(self._deadlines)
            if self.remove(key):
                ended.append((key, Failed(DeadlineExpired("the deadline passed before all was computed"))))
        return ended

    def next_pass(self, now: float) -> Pass | None:
        """None: nothing waits."""
        self._line.age(self._step)
        chosen: dict[Content, EncodedInput] = {}
        passed_over: list[Entry[_Waiter]] = []
        tokens = 0
        while len(passed_over) < _LOOKAHEAD and tokens < self.token_budget and (entry := self._line.pop()) is not None:
            given = entry.waiter.given
            size = len(given.token_ids)
            if chosen and tokens + size > self.token_budget:
                passed_over.append(entry)
                continue
            tokens += size
            chosen[_content(given)] = given
            self._line.charge(entry.tenant, size)
            self._turn = max(self._turn, min(entry.rank, self._turn + size))
            self._take_out_of_line(given, now)
        for entry in passed_over:
            self._line.put_back(entry)
        if not chosen:
            return None
        self._step += 1
        return Pass(tuple(chosen.values()), tokens, now)

    def commit(self, done: Pass, rows: list[Floats | SeamError]) -> tuple[list[Computed], list[tuple[int, Failed]]]:
        """`rows` has a row `(width,)` or an error for each of the pass's inputs."""
        failed: list[tuple[int, Failed]] = []
        results: dict[int, list[tuple[EncodedInput, Floats]]] = {}
        for given, row in zip(done.inputs, rows, strict=True):
            waiters = list(self._equal.get(_content(given), {}).items())
            if not isinstance(row, SeamError) and not np.isfinite(row).all():
                row = NumericalFault("the model's output was not a finite number")
            for number, waiter in waiters:
                key = waiter.request.key
                if isinstance(row, SeamError):
                    if self.remove(key):
                        results.pop(key, None)
                        failed.append((key, Failed(row)))
                elif key in self._requests:
                    self._computed(number, waiter)
                    results.setdefault(key, []).append((waiter.given, row))
        return [self._result(key, parts, done) for key, parts in results.items()], failed

    def next_deadline(self) -> float | None:
        while self._deadlines and self._deadlines[0][1] not in self._requests:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    @property
    def is_idle(self) -> bool:
        return not self._requests

    @property
    def keys(self) -> tuple[int, ...]:
        return tuple(self._requests)

    @property
    def waiting(self) -> Waiting:
        return self._waiting.snapshot()

    def _latest_turn(self, encoding: Encoding, deadline: float | None, now: float) -> float:
        """When the request must begin to be through in time."""
        if deadline is None or not self._costs.seconds_per_prompt_token:
            return float("inf")
        tokens = sum(len(given.token_ids) for given in encoding.inputs)
        return self._turn + (deadline - now) / self._costs.seconds_per_prompt_token - tokens

    def _take_out_of_line(self, given: EncodedInput, now: float) -> None:
        """Everyone who waits for the same."""
        for number, waiter in self._equal[_content(given)].items():
            self._line.remove(number)
            if waiter.request.began is None:
                waiter.request.began = now

    def _computed(self, number: int, waiter: _Waiter) -> None:
        del waiter.request.waiting[number]
        self._forget_equal(number, waiter.given)
        self._waiting.drop(waiter.request.encoding.context.priority, len(waiter.given.token_ids))

    def _forget_equal(self, number: int, given: EncodedInput) -> None:
        content = _content(given)
        equal = self._equal[content]
        del equal[number]
        if not equal:
            del self._equal[content]

    def _result(self, key: int, parts: list[tuple[EncodedInput, Floats]], done: Pass) -> Computed:
        request = self._requests[key]
        if not request.waiting:
            del self._requests[key]
        return Computed(
            key=key,
            encoding=request.encoding,
            inputs=tuple(given for given, _ in parts),
            rows=np.stack([row for _, row in parts]),
            ended=not request.waiting,
            arrived=request.arrived,
            began=done.began if request.began is None else request.began,
        )


def _content(given: EncodedInput) -> Content:
    return given.token_ids, given.type_ids
