"""Hours of random mixed work on the real engine: `python -m load.soak --minutes 60` from tests/.

Chat, embeddings and scores of real small models share the device. Readers come and go: they cancel, disconnect, run out
of credits and of time, resume, ask for nonsense. All the while answers must be those that each request had alone at the
start, and memory must stay flat; at the end nothing may be held.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import psutil
import torch
from inference_svc.admission import Admission, AdmissionLimits
from inference_svc.catalogue import Catalogue
from inference_svc.engine.engine import Engine
from inference_svc.engine.settings import EngineSettings
from inference_svc.errors import (
    Cancelled,
    DeadlineExpired,
    DeadlineInfeasible,
    QueueFull,
    SeamError,
)
from inference_svc.model import LoadedModel, ModelSpec, PrefixSharing
from inference_svc.models.generation_runner import PackedGenerationRunner
from inference_svc.models.loading import load_model
from inference_svc.requests import (
    Context,
    Encoding,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerateWork,
    Generation,
    Priority,
    Request,
    Scores,
    Task,
    Tokens,
    Vectors,
)
from inference_svc.settings import read_settings

from load.heap import mib_in_use
from load.report import report
from load.soak_mix import BAD_REQUESTS, TENANTS, filling, known_requests

MEGA = 1 << 20
WORKERS = 24
KNOWN = 60
WARM_SHARE = 0.3  # of the time, before which memory may still grow
PATIENCE = 120.0  # seconds without any news are a hang
SPECS = (
    # Few slots and little cache, so that sequences are put off and kept beginnings evicted.
    ModelSpec(
        "chat",
        Task.GENERATE,
        "embedded:tiny-chat",
        max_context_tokens=512,
        cache_token_count=6144,
        slot_count=8,
        prefix_cache=PrefixSharing.ALL,
    ),
    ModelSpec("embed", Task.EMBED, "embedded:minilm"),
    ModelSpec("score", Task.SCORE, "embedded:tiny-score"),
)


class Wrong(Exception):
    """An answer is not what the request had alone, or an end that nothing explains."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request had alone. `rows` are vectors or scores, one an input."""

    ids: tuple[int, ...] = ()
    text: str = ""
    reason: FinishReason = FinishReason.NONE
    rows: tuple[tuple[float, ...], ...] = ()


@dataclass(slots=True, eq=False)
class Heard:
    """What has come of one request."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
    rows: dict[int, tuple[float, ...]] = field(default_factory=dict)
    end: Finished | Failed | None = None

    def note(self, event: Event) -> None:
        if self.end is not None:
            raise Wrong(f"{event} came after {self.end}")
        match event:
            case Tokens(ids=ids, text=text):
                self.ids += ids
                self.text += text
            case Vectors(vectors=vectors):
                self.rows |= {one.index: tuple(one.values.tolist()) for one in vectors}
            case Scores(scores=scores):
                self.rows |= {one.index: tuple(value for _, value in one.values) for one in scores}
            case Finished() | Failed():
                self.end = event

    @property
    def answer(self) -> Answer:
        assert isinstance(self.end, Finished)
        rows = tuple(self.rows[index] for index in sorted(self.rows))
        return Answer(tuple(self.ids), self.text, self.end.reason, rows)


class Reader:
    """One session: an outlet whose news reach the event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._heard: dict[int, Heard] = {}
        self._news = asyncio.Event()
        self._last_id = 0

    def deliver(self, events: Sequence[tuple[int, Event]]) -> None:
        self._loop.call_soon_threadsafe(self._hear, list(events))

    def _hear(self, events: Sequence[tuple[int, Event]]) -> None:
        for request_id, event in events:
            if request_id in self._heard:
                self._heard[request_id].note(event)
        self._news.set()

    def submit(self, work: Generation | Encoding) -> tuple[int, Heard]:
        self._last_id += 1
        self._engine.submit(self, self._last_id, work)
        heard = self._heard[self._last_id] = Heard()
        return self._last_id, heard

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not holds():
                self._news.clear()
                await self._news.wait()

    def forget(self, request_id: int) -> None:
        self._heard.pop(request_id, None)

    def disconnect(self) -> None:
        self._engine.close_outlet(self)
        self._heard.clear()


class Soak:
    """Drives `engine`; every count of `seen` is of something that happened as it should."""

    def __init__(self, engine: Engine, admission: Admission, seed: int) -> None:
        self._engine = engine
        self._admission = admission
        self._draw = random.Random(seed)
        self._known = known_requests(KNOWN)
        self._answers: list[Answer] = []
        self.seen: Counter[str] = Counter()
        self.faults: list[str] = []

    async def learn(self) -> None:
        """Every known request alone, one after the other, before anything else has run."""
        reader = Reader(self._engine)
        for request in self._known:
            request_id, heard = reader.submit(await self._admission.admit(request))
            await reader.until(lambda heard=heard: heard.end is not None)  # type: ignore[misc]
            if isinstance(heard.end, Failed):
                raise heard.end.error
            self._answers.append(heard.answer)
            reader.forget(request_id)

    async def work(self, until: float) -> None:
        """One worker: request after request, each in a way of its own."""
        ways = (
            (self._ask, 8),
            (self._fill, 4),
            (self._resume, 4),
            (self._with_few_credits, 3),
            (self._cancel, 3),
            (self._with_deadline, 2),
            (self._disconnect, 1),
            (self._ask_badly, 2),
        )
        reader = Reader(self._engine)
        while time.monotonic() < until:
            way = self._draw.choices([way for way, _ in ways], [weight for _, weight in ways])[0]
            try:
                await way(reader)
            except QueueFull:
                self.seen["refused: queue full"] += 1
                await asyncio.sleep(0.05)
            except (Wrong, SeamError, TimeoutError) as fault:
                self.faults.append(f"{way.__name__}: {type(fault).__name__}: {fault}"[:500])
                reader.disconnect()
            if way == self._disconnect:
                reader = Reader(self._engine)
        reader.disconnect()

    def _pick(self, *, generation: bool = False) -> tuple[int, Request]:
        while True:
            number = self._draw.randrange(KNOWN)
            request = self._known[number]
            if not generation or isinstance(request.work, GenerateWork):
                context = Context(priority=self._draw.choice(list(Priority)), tenant=self._draw.choice(TENANTS))
                return number, replace(request, context=context)

    async def _whole(self, reader: Reader, request: Request) -> Heard:
        request_id, heard = reader.submit(await self._admission.admit(request))
        await reader.until(lambda: heard.end is not None)
        reader.forget(request_id)
        return heard

    async def _ask(self, reader: Reader) -> None:
        number, request = self._pick()
        self._check(number, await self._whole(reader, request))
        self.seen[f"exact: {request.model}"] += 1

    async def _fill(self, reader: Reader) -> None:
        request = replace(filling(self._draw), context=Context(tenant=self._draw.choice(TENANTS)))
        if isinstance((await self._whole(reader, request)).end, Failed):
            raise Wrong("a good request failed")
        self.seen["filling"] += 1

    async def _resume(self, reader: Reader) -> None:
        number, request = self._pick(generation=True)
        known, work = self._answers[number], request.work
        assert isinstance(work, GenerateWork)
        if len(known.ids) < 2:
            return
        given = known.ids[: self._draw.randrange(1, len(known.ids))]
        if work.sampling.temperature and work.sampling.seed is None:
            return
        heard = await self._whole(reader, replace(request, work=replace(work, resumed_ids=given)))
        self._check(number, heard, given)
        self.seen["exact: resumed"] += 1

    async def _with_few_credits(self, reader: Reader) -> None:
        number, request = self._pick(generation=True)
        request_id, heard = reader.submit(await self._admission.admit(replace(request, credits=1)))
        granted = [1]
        while heard.end is None:
            await reader.until(lambda: heard.end is not None or len(heard.ids) >= sum(granted))
            if heard.end is None:
                await asyncio.sleep(self._draw.choice((0.0, 0.0, 0.02)))
                granted.append(self._draw.randint(1, 30))
                self._engine.grant(reader, request_id, granted[-1])
        reader.forget(request_id)
        self._check(number, heard)
        self.seen["exact: slow reader"] += 1

    async def _cancel(self, reader: Reader) -> None:
        number, request = self._pick(generation=True)
        known = self._answers[number]
        request_id, heard = reader.submit(await self._admission.admit(request))
        wanted = self._draw.randrange(len(known.ids) + 1)
        await reader.until(lambda: heard.end is not None or len(heard.ids) >= wanted)
        self._engine.cancel(reader, request_id)
        await reader.until(lambda: heard.end is not None)
        reader.forget(request_id)
        self._check_part(number, heard, Cancelled)
        self.seen["cancelled"] += 1

    async def _with_deadline(self, reader: Reader) -> None:
        number, request = self._pick(generation=True)
        moment = time.monotonic() + self._draw.choice((0.005, 0.05, 0.3, 2.0))
        bounds = {"first_token_deadline": moment} if self._draw.random() < 0.4 else {"deadline": moment}
        request = replace(request, context=replace(request.context, **bounds))
        try:
            heard = await self._whole(reader, request)
        except (DeadlineExpired, DeadlineInfeasible):
            self.seen["refused: deadline"] += 1
            return
        self._check_part(number, heard, DeadlineExpired, DeadlineInfeasible)
        self.seen["with a deadline"] += 1

    async def _disconnect(self, reader: Reader) -> None:
        for _ in range(self._draw.randint(1, 4)):
            _, heard = reader.submit(await self._admission.admit(self._pick(generation=True)[1]))
        await reader.until(lambda: heard.end is not None or bool(heard.ids))
        reader.disconnect()
        self.seen["disconnected"] += 1

    async def _ask_badly(self, reader: Reader) -> None:
        number = self._draw.randrange(len(BAD_REQUESTS))
        try:
            await self._admission.admit(BAD_REQUESTS[number])
        except QueueFull:
            raise
        except SeamError:
            self.seen["refused: bad"] += 1
            return
        raise Wrong(f"bad request {number} was taken")

    def _check(self, number: int, heard: Heard, given: tuple[int, ...] = ()) -> None:
        if isinstance(heard.end, Failed):
            raise Wrong(f"request {number} failed: {heard.end.error!r}")
        known, now = self._answers[number], heard.answer
        if (*given, *now.ids) != known.ids or now.reason is not known.reason or not known.text.endswith(now.text):
            raise Wrong(f"request {number} behind {given}: {now}, not {known}")
        if not given and now.text != known.text:
            raise Wrong(f"request {number}: text {now.text!r}, not {known.text!r}")
        if known.rows and not np.allclose(now.rows, known.rows, rtol=0, atol=2e-6):
            raise Wrong(f"request {number}: rows differ by {np.abs(np.subtract(now.rows, known.rows)).max()}")

    def _check_part(self, number: int, heard: Heard, *ends: type[SeamError]) -> None:
        if isinstance(heard.end, Finished):
            return self._check(number, heard)
        assert heard.end is not None
        if not isinstance(heard.end.error, ends):
            raise Wrong(f"request {number} ended with {heard.end.error!r}")
        if tuple(heard.ids) != self._answers[number].ids[: len(heard.ids)]:
            raise Wrong(f"request {number}: {heard.ids} is no beginning of {self._answers[number].ids}")
        return None


@dataclass(slots=True)
class Outcome:
    """`lost` names what was still held when all had ended; `memory` are (seconds, MiB resident, MiB in use)."""

    seen: Counter[str]
    faults: list[str]
    lost: list[str]
    memory: list[tuple[float, float, float]]
    seconds: float
    idle: dict[str, float]
    counted_seconds: float
    prefix: Any

    @property
    def requests(self) -> int:
        return self.seen.total()

    @property
    def warm_memory(self) -> list[tuple[float, float, float]]:
        return [sample for sample in self.memory if sample[0] >= WARM_SHARE * self.seconds]

    @property
    def memory_by_tenth(self) -> str:
        """The median of each tenth of the time, resident and in use."""
        tenths: dict[int, list[tuple[float, float]]] = {}
        for at, *sizes in self.memory:
            tenths.setdefault(min(9, int(10 * at / self.seconds)), []).append((sizes[0], sizes[1]))
        return ", ".join(
            "/".join(f"{statistics.median(sizes):.0f}" for sizes in zip(*tenths[each], strict=True)) for each in tenths
        )

    @property
    def mib_an_hour(self) -> float:
        """Slope of resident memory once warm, by least squares."""
        times, sizes, _ = zip(*self.warm_memory, strict=True)
        return statistics.linear_regression(times, sizes).slope * 3600 if len(times) > 2 else 0.0


async def _sample_memory(into: list[tuple[float, float, float]], every: float) -> None:
    process, began = psutil.Process(), time.monotonic()
    while True:
        into.append((time.monotonic() - began, process.memory_info().rss / MEGA, mib_in_use()))
        await asyncio.sleep(every)


async def soak(seconds: float, *, workers: int = WORKERS, seed: int = 1) -> Outcome:
    """Raises only what is no answer to any request: an engine that died, a worker that broke."""
    folder = read_settings(listen="").cache_folder
    models = [load_model(spec, cache_folder=folder, progress=lambda _: None) for spec in SPECS]
    catalogue = Catalogue(SPECS)
    for model in models:
        catalogue.ready(model)
    engine = Engine(models, settings=EngineSettings(max_waiting_sequences=64, aging_steps=64))
    made = time.monotonic()
    engine.start()
    memory: list[tuple[float, float, float]] = []
    try:
        with Admission(catalogue, AdmissionLimits(), time.monotonic) as admission:
            driven = Soak(engine, admission, seed)
            await driven.learn()
            watching = asyncio.create_task(_sample_memory(memory, max(0.2, min(5.0, seconds / 60))))
            began = time.monotonic()
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(driven.work(began + seconds))
            watching.cancel()
            drained = await asyncio.to_thread(engine.wait_until_drained, PATIENCE)
            taken = time.monotonic() - began
        idle, counted = dict(engine.idle_seconds()), time.monotonic() - made
        lost = _lost(engine, models) if drained else ["requests that never end"]
    finally:
        stopped = await asyncio.to_thread(engine.stop)
    if not stopped or engine.dead:
        lost.append(f"the engine: {engine.dead or 'it does not stop'}")
    runner = models[0].runner
    assert isinstance(runner, PackedGenerationRunner)
    lost += _held(runner)
    return Outcome(driven.seen, driven.faults, lost, memory, taken, idle, counted, runner.prefix_counts)


def _lost(engine: Engine, models: Sequence[LoadedModel]) -> list[str]:
    """What the facts of an idle engine should not say."""
    engine.loading(True)  # a turn, so that the last news are published
    engine.loading(False)
    lost = []
    if engine.live_request_count:
        lost.append(f"{engine.live_request_count} live requests")
    for load in engine.loads():
        for name in ("running_sequence_count", "waiting_sequence_count", "queued_token_count"):
            if getattr(load, name):
                lost.append(f"{load.model}: {name} is {getattr(load, name)}")
        runner = next(model.runner for model in models if model.info.name == load.model)
        if isinstance(runner, PackedGenerationRunner) and load.free_cache_token_count != runner.cache_token_count:
            lost.append(f"{load.model}: {load.free_cache_token_count} of {runner.cache_token_count} tokens are free")
    return lost


def _held(runner: PackedGenerationRunner) -> list[str]:
    counts = runner.prefix_counts
    held = [f"{counts.held_blocks} blocks of beginnings"] if counts.held_blocks else []
    if runner.open_slots:
        held.append(f"slots {sorted(runner.open_slots)}")
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    outcome = asyncio.run(soak(60 * options.minutes, workers=options.workers, seed=options.seed))
    sizes = [resident for _, resident, _ in outcome.warm_memory]
    figures = {
        "seconds": outcome.seconds,
        "requests": outcome.requests,
        "wrong": len(outcome.faults),
        "lost": ", ".join(outcome.lost) or "nothing",
        "memory at the start, MiB": outcome.memory[0][1],
        "memory when warm, least to most, MiB": f"{min(sizes):.0f} to {max(sizes):.0f}",
        "slope of memory when warm, MiB an hour": outcome.mib_an_hour,
        "memory by tenths of the time, resident/in use": outcome.memory_by_tenth,
        "prefix tokens asked": outcome.prefix.asked_tokens,
        "prefix tokens found": outcome.prefix.hit_tokens,
        "prefix blocks evicted": outcome.prefix.evicted_blocks,
        **{f"share of time {cause}": spent / outcome.counted_seconds for cause, spent in outcome.idle.items()},
        **dict(sorted(outcome.seen.items())),
    }
    report(
        f"Random mixed work for {options.minutes:g} minutes, {options.workers} workers, seed {options.seed}",
        [{"figure": name, "value": value} for name, value in figures.items()],
        name="soak",
    )
    for fault in outcome.faults[:20]:
        print(fault)
    if outcome.faults or outcome.lost:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
