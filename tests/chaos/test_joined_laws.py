"""Both sides of the link joined, as a state machine: the business' pool and its sessions against two inference
services over a way that is cut at any point, in any order of asking, reading, resting, leaving, stepping and cutting.

Laws, at every moment: a reader sees one acceptance, a prefix of the undisturbed answer that only grows, and one end;
on the wire a request ends at most once, and its credits are never overdrawn; the model computes no token for which
there is no credit. At the end every request that nobody left is whole, and nothing is held on either side.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack, aclosing
from typing import Any, TypeVar

from business_svc.domain.inference import (
    Accepted,
    Context,
    Finished,
    FinishReason,
    GenerateRequest,
    Message,
    Sampling,
    StopConditions,
    Tokens,
)
from business_svc.link.in_process_duplex import InProcessConnector
from business_svc.link.membership import ReconnectSettings
from business_svc.link.outliers import OutlierSettings
from business_svc.link.pool import Pool, PoolSettings
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from inference_svc.engine.runner import Row, SampledToken
from inference_svc.requests import Task
from inference_svc.wire.replica import SessionLimits
from support.chaos_clients import Reader
from support.echo import EchoRunner, EchoTokenizer, Gate, echo_model
from support.serving import serving_models
from support.tapped import Books, Cut, TappedConnector

_Result = TypeVar("_Result")
REPLICAS = (0, 1)
MOST_REQUESTS = 5
MOST_TOKENS = 24
A_WHILE = 12  # turns of the event loop, with a moment for the model's thread after each few


class CountingRunner(EchoRunner):
    """Looks into the books before it computes a token."""

    def __init__(self, books: Books) -> None:
        super().__init__(slot_count=2, gate=Gate())
        self._books = books

    def step(self, rows: "list[Row]") -> "list[SampledToken | None]":  # type: ignore[override]
        sampled = super().step(rows)
        for row in rows:
            if row.samples:
                text = EchoTokenizer().decode(self._slots[row.slot].generation.prompt_ids)
                asked = next(one for one in self._books.may_reach if f" {one}\n" in text)
                position = row.output_index + 1
                self._rule(
                    position <= self._books.may_reach[asked],
                    f"{asked}: token {position} computed, credits for {self._books.may_reach[asked]}",
                )
        return sampled


class Asking:
    """One request and the reader of its answer, who takes as many news as it was allowed to."""

    def __init__(self, pool: Pool, request: GenerateRequest) -> None:
        self.reader = Reader(request)
        self.left = False
        self._may_read = asyncio.Semaphore(0)
        self.task = asyncio.create_task(self._read(pool, request))

    def allow(self, count: int) -> None:
        for _ in range(count):
            self._may_read.release()

    def leave(self) -> None:
        self.left = True
        self.task.cancel()

    async def _read(self, pool: Pool, request: GenerateRequest) -> None:
        async with aclosing(pool.generate(request, Context())) as events:
            async for event in events:
                assert isinstance(event, Accepted | Tokens | Finished)
                self.reader.take(event)
                await self._may_read.acquire()


class JoinedLink(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.asked: list[Asking] = []

    def do(self, what: Coroutine[Any, Any, _Result]) -> _Result:
        return self.loop.run_until_complete(asyncio.wait_for(what, 60))

    @initialize(window=st.integers(1, 6))
    def begin(self, window: int) -> None:
        self.do(self._begin(window))

    async def _begin(self, window: int) -> None:
        self.books = [Books() for _ in REPLICAS]
        self.runners = [CountingRunner(books) for books in self.books]
        self.served = []
        self.ways = []
        for number, runner in enumerate(self.runners):
            models = [
                echo_model("chat", runner=runner),
                echo_model("embed", Task.EMBED),
                echo_model("score", Task.SCORE),
            ]
            served = await self.stack.enter_async_context(serving_models(models, limits=SessionLimits(heartbeat=0.2)))
            runner.gate.shut()
            way = InProcessConnector(served.service.session, serialize=True, address=f"replica {number}")
            self.served.append(served)
            self.ways.append(TappedConnector(way, self.books[number]))
        self.pool = await self.stack.enter_async_context(Pool(self.ways, _settings(window)))
        await self.pool.ready(len(REPLICAS))

    @rule(tokens=st.integers(1, MOST_TOKENS), seeded=st.booleans(), may_read=st.integers(0, 30))
    def ask(self, tokens: int, seeded: bool, may_read: int) -> None:
        if len(self.asked) < MOST_REQUESTS:
            self.do(self._ask(tokens, seeded, may_read))

    async def _ask(self, tokens: int, seeded: bool, may_read: int) -> None:
        sampling = Sampling(temperature=0.8, seed=len(self.asked)) if seeded else Sampling()
        words = (Message("user", f"question {len(self.asked)}"),)
        stop = StopConditions(max_output_tokens=tokens)
        self.asked.append(Asking(self.pool, GenerateRequest("chat", words, sampling, stop)))
        self.asked[-1].allow(may_read)
        await _turns()

    @rule(which=st.integers(0, MOST_REQUESTS), count=st.integers(1, 10))
    def read(self, which: int, count: int) -> None:
        if self.asked:
            self.asked[which % len(self.asked)].allow(count)
            self.do(_turns())

    @rule(which=st.integers(0, MOST_REQUESTS))
    def leave(self, which: int) -> None:
        if self.asked:
            self.asked[which % len(self.asked)].leave()
            self.do(_turns())

    @rule(replica=st.sampled_from(REPLICAS), steps=st.integers(1, 12))
    def step(self, replica: int, steps: int) -> None:
        self.runners[replica].gate.allow(steps)
        self.do(_turns())

    @rule(replica=st.sampled_from(REPLICAS), how=st.sampled_from(list(Cut)))
    def cut(self, replica: int, how: Cut) -> None:
        self.ways[replica].cut(how)
        self.do(_turns())

    @invariant()
    def nobody_was_told_what_is_not_so(self) -> None:
        for asking in self.asked:
            if asking.task.done() and not asking.task.cancelled():
                asking.task.result()
                asking.reader.check_whole()
        for runner in getattr(self, "runners", ()):
            assert runner.misuse == []

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            try:
                self.do(self._end())
            finally:
                self.do(self.stack.aclose())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    async def _end(self) -> None:
        for runner in self.runners:
            runner.gate.open()
        for asking in self.asked:
            asking.allow(10 * MOST_TOKENS)
        await asyncio.wait([asyncio.create_task(asyncio.sleep(0)), *(asking.task for asking in self.asked)])
        for asking in self.asked:
            if not asking.left:
                asking.task.result()
                asking.reader.check_whole()
                assert asking.reader.finished is not None
                assert asking.reader.finished.reason is FinishReason.LENGTH
        async with asyncio.timeout(20):
            while any(one.live_request_count for one in self.pool.replicas()) or any(  # noqa: ASYNC110 - of threads
                served.engine.live_request_count for served in self.served
            ):
                await asyncio.sleep(0.001)


def _settings(window: int) -> PoolSettings:
    """Cuts are no fault of a request here, however many it meets; nor does a replica that is cut often stand aside."""
    return PoolSettings(
        credit_window=window,
        heartbeat_timeout=20.0,
        patience=60.0,
        most_deaths=10_000,
        reconnect=ReconnectSettings(first_pause=0.0005, longest_pause=0.001),
        outliers=OutlierSettings(failures=10_000),
    )


async def _turns() -> None:
    for number in range(A_WHILE):
        await asyncio.sleep(0.0002 if number % 4 == 3 else 0)


TestJoinedLink = JoinedLink.TestCase
TestJoinedLink.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # a model's thread has its own pace: shrinking takes for ever
)
