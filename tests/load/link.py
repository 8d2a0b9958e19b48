"""What the link costs: `python -m load.link` from tests/ (`--quick`, or `--parts` of these).

- cost: CPU microseconds a token and a vector, on each side, through the session and with a call for each request (of
  the Open Inference Protocol too, for vectors), in the same run, at 8, 64 and 512 in flight; beside it what the engine
  alone spends. The model costs next to nothing.
- boundary: throughput and latency through TCP over those of the same engine in the same process, of 64 streams and of
  embeddings asked for one after the other.
- many: 2,000 requests in flight on one session: what they cost, and how even their tokens come.
- failover: the longest pause that 64 readers see when one of two replicas is killed, or stopped for good.
- cancel: from the cancel in the business to the slot's being free, in milliseconds and in steps begun meanwhile.
- slow_reader: what one reader that does not read takes from 63 that do.
- recording: what recording costs the replica, in CPU and in the rate and the gaps that its readers see.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import psutil
from business_svc.domain.inference import (
    Context,
    EmbedRequest,
    GenerateRequest,
    Message,
    Sampling,
    StopConditions,
    Tokens,
)
from business_svc.link.duplex import Connector
from business_svc.link.grpc_duplex import GrpcConnector
from business_svc.link.in_process_duplex import InProcessConnector
from business_svc.link.pool import Pool, PoolSettings
from inference import open_inference_pb2
from inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from seam.inference.v1 import inference_service_pb2, work_pb2
from seam.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

from load.link_replica import PacedRunner, alone, served
from load.report import percentile, report

TESTS = Path(__file__).parent.parent
IN_FLIGHT = (8, 64, 512)
TOKEN_SECONDS = 60e-6  # the model's own time a token: a rate that either way of asking can follow
WARMING = 8
Ask = Callable[[int], Awaitable[None]]


@dataclass(frozen=True)
class Remote:
    """A replica in a process of its own."""

    address: str
    process: psutil.Process

    def cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextlib.asynccontextmanager
async def remote(slots: int, step_seconds: float, **environment: str) -> AsyncIterator[Remote]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "load.link_replica", "127.0.0.1:0", str(slots), str(step_seconds),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=TESTS, env={**os.environ, **environment},
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None  # noqa: PT018
    try:
        async with asyncio.timeout(60):
            told = json.loads(await process.stdout.readline())
        yield Remote(told["address"], psutil.Process(process.pid))
    finally:
        process.stdin.close()
        await process.wait()


@contextlib.asynccontextmanager
async def pool_to(connector: Connector) -> AsyncIterator[Pool]:
    async with Pool([connector], PoolSettings(client_id="load")) as pool:
        await pool.ready(1)
        yield pool


def request_of(number: int, tokens: int) -> GenerateRequest:
    words = (Message("user", f"question {number}"),)
    return GenerateRequest("chat", words, Sampling(), StopConditions(max_output_tokens=tokens, ignore_end_token=True))


async def read(pool: Pool, number: int, tokens: int, gaps: list[float] | None = None) -> None:
    last = time.perf_counter()
    async with aclosing(pool.generate(request_of(number, tokens), Context())) as events:
        async for event in events:
            if gaps is not None and isinstance(event, Tokens):
                now = time.perf_counter()
                gaps.append(now - last)
                last = now


async def embed(pool: Pool, number: int) -> None:
    await pool.embed(EmbedRequest("embed", (f"text {number}",)), Context())


async def call_generate(stub: InferenceServiceStub, number: int, tokens: int) -> None:
    chat = work_pb2.ChatPrompt(messages=[work_pb2.Message(role="user", content=f"question {number}")])
    work = work_pb2.GenerateWork(
        prompt=work_pb2.Prompt(chat=chat),
        stop=work_pb2.StopConditions(max_output_tokens=tokens, ignore_end_token=True),
    )
    async for _ in stub.Generate(inference_service_pb2.GenerateRequest(model="chat", work=work)):
        pass


async def call_embed(stub: InferenceServiceStub, number: int) -> None:
    work = work_pb2.EmbedWork(texts=[f"text {number}"])
    await stub.Embed(inference_service_pb2.EmbedRequest(model="embed", work=work))


async def open_infer(stub: GRPCInferenceServiceStub, number: int) -> None:
    text = f"text {number}".encode()
    request = open_inference_pb2.ModelInferRequest(
        model_name="embed", raw_input_contents=[len(text).to_bytes(4, "little") + text]
    )
    request.inputs.add(name="text", datatype="BYTES", shape=[1])
    request.outputs.add(name="embedding")
    await stub.ModelInfer(request)


async def all_at_once(in_flight: int, ask: Ask) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(in_flight):
            group.create_task(ask(number))  # type: ignore[arg-type]


async def workers(in_flight: int, total: int, ask: Ask) -> None:
    numbers = iter(range(total))

    async def work() -> None:
        for number in numbers:
            await ask(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(work())


async def spent(replica: Remote, units: int, work: Awaitable[None]) -> tuple[float, float]:
    """CPU microseconds a unit: here, there."""
    here, there = time.process_time(), replica.cpu_seconds()
    await work
    return (time.process_time() - here) / units * 1e6, (replica.cpu_seconds() - there) / units * 1e6


@dataclass(frozen=True)
class Ways:
    """The same work through the session and with a call for each request."""

    pool: Pool
    stub: InferenceServiceStub
    open_stub: GRPCInferenceServiceStub
    in_flight: int
    tokens: int
    vectors: int

    async def tokens_by_session(self) -> None:
        await all_at_once(self.in_flight, lambda number: read(self.pool, number, self.tokens))

    async def tokens_by_call(self) -> None:
        await all_at_once(self.in_flight, lambda number: call_generate(self.stub, number, self.tokens))

    async def vectors_by_session(self) -> None:
        await workers(self.in_flight, self.vectors, lambda number: embed(self.pool, number))

    async def vectors_by_call(self) -> None:
        await workers(self.in_flight, self.vectors, lambda number: call_embed(self.stub, number))

    async def vectors_by_open_inference(self) -> None:
        await workers(self.in_flight, self.vectors, lambda number: open_infer(self.open_stub, number))

    def each(self) -> list[tuple[str, str, int, Callable[[], Awaitable[None]]]]:
        tokens = self.in_flight * self.tokens
        return [
            ("token", "session", tokens, self.tokens_by_session),
            ("token", "call each", tokens, self.tokens_by_call),
            ("vector", "session", self.vectors, self.vectors_by_session),
            ("vector", "call each", self.vectors, self.vectors_by_call),
            ("vector", "ModelInfer each", self.vectors, self.vectors_by_open_inference),
        ]

    async def warm(self) -> None:
        await all_at_once(WARMING, lambda number: read(self.pool, number, 8))
        await all_at_once(WARMING, lambda number: call_generate(self.stub, number, 8))


async def cost(rounds: int, tokens_in_all: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for in_flight in IN_FLIGHT:
        rows += await cost_at(in_flight, rounds, tokens_in_all)
    return rows


async def cost_at(in_flight: int, rounds: int, tokens_in_all: int) -> list[dict[str, object]]:
    tokens, step = max(16, tokens_in_all // in_flight), in_flight * TOKEN_SECONDS
    seen: dict[tuple[str, str], list[tuple[float, float]]] = {}
    async with (
        remote(in_flight, step) as replica,
        pool_to(GrpcConnector(replica.address)) as pool,
        grpc.aio.insecure_channel(replica.address) as channel,
    ):
        stubs = InferenceServiceStub(channel), GRPCInferenceServiceStub(channel)
        ways = Ways(pool, *stubs, in_flight, tokens, max(2 * in_flight, tokens_in_all // 16))
        await ways.warm()
        for number in range(rounds):
            print(f"cost at {in_flight}: round {number + 1} of {rounds} ...", flush=True)
            for unit, way, units, work in ways.each():
                seen.setdefault((unit, way), []).append(await spent(replica, units, work()))
    engine = min(alone(in_flight, tokens, step) for _ in range(rounds))
    least = {key: min(pairs, key=sum) for key, pairs in seen.items()}
    return [
        {
            "in_flight": in_flight,
            "unit": unit,
            "way": way,
            "business_us": here,
            "replica_us": there,
            "engine_alone_us": engine if unit == "token" else None,
            "times_session": (here + there) / sum(least[unit, "session"]),
        }
        for (unit, way), (here, there) in least.items()
    ]


async def boundary(rounds: int, tokens: int) -> list[dict[str, object]]:
    """At 64 in flight, a step of 5 ms."""
    in_flight, step = 64, 0.005
    seen: dict[str, list[tuple[float, ...]]] = {"monolith": [], "split": []}

    async def measure(pool: Pool) -> tuple[float, ...]:
        gaps: list[float] = []
        alone: list[float] = []
        for number in range(tokens):
            asked = time.perf_counter()
            await embed(pool, number)
            alone.append(time.perf_counter() - asked)
        began = time.perf_counter()
        await all_at_once(in_flight, lambda number: read(pool, number, tokens, gaps))
        rate = in_flight * tokens / (time.perf_counter() - began)
        return rate, *(percentile(each, share) for each in (gaps, alone) for share in (0.5, 0.99))

    async with (
        served("", PacedRunner(in_flight, step)) as here,
        remote(in_flight, step) as there,
        pool_to(InProcessConnector(here.session_service.session, serialize=False)) as near,
        pool_to(GrpcConnector(there.address)) as far,
    ):
        for number in range(rounds):
            print(f"boundary: round {number + 1} of {rounds} ...", flush=True)
            seen["monolith"].append(await measure(near))
            seen["split"].append(await measure(far))
    best = {way: max(runs) for way, runs in seen.items()}
    return [
        {
            "way": way,
            "tokens_per_second": rate,
            "over_monolith": rate / best["monolith"][0],
            "gap_p50_ms": 1000 * p50,
            "gap_p99_ms": 1000 * p99,
            "embedding_p50_ms": 1000 * embedding_p50,
            "embedding_p99_ms": 1000 * embedding_p99,
        }
        for way, (rate, p50, p99, embedding_p50, embedding_p99) in best.items()
    ]


async def many(tokens: int) -> list[dict[str, object]]:
    """Beside the same work at 64 in flight; each request asks for as many tokens."""
    rows: list[dict[str, object]] = []
    for in_flight in (64, 2000):
        gaps: list[float] = []
        async with (
            remote(in_flight, in_flight * TOKEN_SECONDS) as replica,
            pool_to(GrpcConnector(replica.address)) as pool,
        ):
            began = time.perf_counter()
            units = in_flight * tokens
            asked = all_at_once(in_flight, lambda number: read(pool, number, tokens, gaps))  # noqa: B023
            here, there = await spent(replica, units, asked)
            rows.append(
                {
                    "in_flight": in_flight,
                    "tokens_per_second": units / (time.perf_counter() - began),
                    "business_us": here,
                    "replica_us": there,
                    "step_ms": 1000 * in_flight * TOKEN_SECONDS,
                    "gap_p50_ms": 1000 * percentile(gaps, 0.5),
                    "gap_p99_ms": 1000 * percentile(gaps, 0.99),
                }
            )
    return rows


async def failover(rounds: int, tokens: int) -> list[dict[str, object]]:
    """64 streams on two replicas, a step of 5 ms. What a reader waits at most, in the same run without a fault too."""
    in_flight, step = 64, 0.005
    seen: dict[str, list[float]] = {}
    for number in range(rounds):
        for fault in (None, signal.SIGKILL, signal.SIGSTOP):
            name = "none" if fault is None else fault.name
            print(f"failover: round {number + 1} of {rounds}, {name} ...", flush=True)
            gaps: list[float] = []
            async with (
                remote(in_flight, step) as victim,
                remote(in_flight, step) as other,
                Pool([GrpcConnector(one.address) for one in (victim, other)], PoolSettings(client_id="load")) as pool,
            ):
                await pool.ready(2)
                running = asyncio.create_task(
                    all_at_once(in_flight, lambda number: read(pool, number, tokens, gaps))  # noqa: B023
                )
                while len(gaps) < in_flight * tokens // 3:  # noqa: ASYNC110 - a count of what came
                    await asyncio.sleep(0.001)
                if fault is not None:
                    victim.process.send_signal(fault)
                await running
                if fault is signal.SIGSTOP:
                    victim.process.kill()
            seen.setdefault(name, []).append(max(gaps))
    return [
        {"fault": name, "longest_pause_ms_least": 1000 * min(them), "longest_pause_ms_most": 1000 * max(them)}
        for name, them in seen.items()
    ]


async def cancel(samples: int) -> list[dict[str, object]]:
    """64 run, a step of 5 ms; one after the other is cancelled by its reader, and a new one takes its place."""
    in_flight, step = 64, 0.005
    runner = PacedRunner(in_flight, step)
    times: list[float] = []
    steps: list[int] = []
    async with served("127.0.0.1:0", runner) as server, pool_to(GrpcConnector(server.address)) as pool:
        running = [asyncio.create_task(read(pool, number, 4000)) for number in range(in_flight)]
        await asyncio.to_thread(runner.wait_for_slots, in_flight)
        for number in range(samples):
            began, step_before = time.perf_counter(), runner.steps
            running[number % in_flight].cancel()
            await asyncio.to_thread(runner.wait_for_slots, in_flight - 1)
            times.append(time.perf_counter() - began)
            steps.append(runner.steps - step_before)
            running[number % in_flight] = asyncio.create_task(read(pool, in_flight + number, 4000))
            await asyncio.to_thread(runner.wait_for_slots, in_flight)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return [
        {
            "cancels": samples,
            "step_ms": 1000 * step,
            "p50_ms": 1000 * percentile(times, 0.5),
            "p99_ms": 1000 * percentile(times, 0.99),
            "steps_ended_meanwhile_p50": percentile(steps, 0.5),
            "steps_most": max(steps),
        }
    ]


async def slow_reader(rounds: int, tokens: int) -> list[dict[str, object]]:
    """63 readers, with and without a 64th that stops after its first event."""
    in_flight, step = 64, 0.005
    rates: dict[str, list[float]] = {"63 that read": [], "and one that does not": []}

    async def stalled(pool: Pool, stop: asyncio.Event) -> None:
        async with aclosing(pool.generate(request_of(999, 4000), Context())) as events:
            await anext(events)
            await stop.wait()

    async with remote(in_flight, step) as replica, pool_to(GrpcConnector(replica.address)) as pool:
        for number in range(rounds):
            print(f"slow reader: round {number + 1} of {rounds} ...", flush=True)
            for way in rates:
                stop = asyncio.Event()
                extra = asyncio.create_task(stalled(pool, stop)) if way != "63 that read" else None
                began = time.perf_counter()
                await all_at_once(in_flight - 1, lambda n: read(pool, n, tokens))
                rates[way].append((in_flight - 1) * tokens / (time.perf_counter() - began))
                stop.set()
                if extra is not None:
                    await extra
    plain = max(rates["63 that read"])
    return [
        {"readers": way, "tokens_per_second_of_the_63": max(them), "share": max(them) / plain}
        for way, them in rates.items()
    ]


async def recording(rounds: int, tokens: int) -> list[dict[str, object]]:
    """64 streams, a step of 5 ms, on three replicas in turn; the round of least CPU counts."""
    in_flight, step = 64, 0.005
    seen: dict[str, list[tuple[float, float, float, float]]] = {}
    async with contextlib.AsyncExitStack() as stack:
        ways: dict[str, tuple[Remote, Pool]] = {}
        for way in ("off", "redacted", "plain"):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            settings = {} if way == "off" else {"SEAM_RECORD_FOLDER": folder, "SEAM_RECORD_TEXT": way}
            replica = await stack.enter_async_context(remote(in_flight, step, **settings))
            ways[way] = replica, await stack.enter_async_context(pool_to(GrpcConnector(replica.address)))
        for number in range(rounds):
            print(f"recording: round {number + 1} of {rounds} ...", flush=True)
            for way, (replica, pool) in ways.items():
                gaps: list[float] = []
                began = time.perf_counter()
                _, there = await spent(
                    replica, in_flight * tokens, all_at_once(in_flight, lambda n, p=pool, g=gaps: read(p, n, tokens, g))
                )
                rate = in_flight * tokens / (time.perf_counter() - began)
                seen.setdefault(way, []).append((there, rate, percentile(gaps, 0.5), percentile(gaps, 0.99)))
    least = {way: min(runs) for way, runs in seen.items()}
    return [
        {
            "recording": way,
            "replica_us_a_token": there,
            "over_off": there / least["off"][0],
            "tokens_per_second": rate,
            "gap_p50_ms": 1000 * p50,
            "gap_p99_ms": 1000 * p99,
        }
        for way, (there, rate, p50, p99) in least.items()
    ]


async def run(parts: list[str], quick: bool) -> None:
    rounds, tokens_in_all = (1, 4_000) if quick else (3, 30_000)
    if "cost" in parts:
        note = f"the model takes {TOKEN_SECONDS * 1e6:.0f} us a token, asleep; the round of least CPU counts"
        report("CPU of the link, microseconds a unit", await cost(rounds, tokens_in_all), name="link_cost", note=note)
    if "boundary" in parts:
        rows = await boundary(rounds, 60 if quick else 400)
        report("Split over monolith, 64 streams, a step of 5 ms", rows, name="link_boundary")
    if "many" in parts:
        report("2,000 requests in flight on one session", await many(20 if quick else 100), name="link_many")
    if "failover" in parts:
        note = "a stopped replica is found out by its silence, after 2 s"
        rows = await failover(rounds, 60 if quick else 200)
        report("The longest pause of 64 readers", rows, name="link_failover", note=note)
    if "cancel" in parts:
        report("From a cancel to the free slot", await cancel(16 if quick else 200), name="link_cancel")
    if "slow_reader" in parts:
        rows = await slow_reader(rounds, 60 if quick else 400)
        report("One slow reader among 63 fast ones", rows, name="link_slow_reader")
    if "recording" in parts:
        rows = await recording(rounds, 60 if quick else 400)
        report("What recording costs, 64 streams, a step of 5 ms", rows, name="link_recording")


PARTS = ["cost", "boundary", "many", "failover", "cancel", "slow_reader", "recording"]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    options = parser.parse_args()
    asyncio.run(run(options.parts, options.quick))
