"""The whole way against the same models driven offline in the same run: `python -m load.whole_way` from tests/.

Client, business server, session, engine and back, on real processes (`seam-up`), at concurrency 1, 16 and 64, closed
loop. The references are the engine's own rooms without a wire, in a process of their own: `offline` drives the engine
with everything at once. Rounds alternate between what is compared, and the best round of each counts.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seam_client import AsyncSeam
from support.seam_up import SeamUp, seam_up

from load.benchmark_models import texts
from load.report import Meter, percentile, report

HERE = Path(__file__).parent
CONCURRENCY = (1, 16, 64)
PROMPTS = 96
TEXTS = 384
OUTPUT_TOKENS = 48
THREADS = str(max(1, (os.cpu_count() or 1) - 1))  # of the model, on both sides, as seam-up proposes


@dataclass
class Run:
    """One closed-loop run: units are tokens or texts."""

    units: int = 0
    seconds: float = 0.0
    others: float = 0.0
    latencies: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.units / self.seconds


async def closed_loop(
    questions: Sequence[str], concurrency: int, ask: Callable[[str, Run], Awaitable[int]], pids: Sequence[int]
) -> Run:
    """`concurrency` workers, each asking the next question when its last is answered."""
    run, left = Run(), iter(questions)

    async def worker() -> None:
        for question in left:
            began = time.perf_counter()
            made = await ask(question, run)  # first awaited, then added: workers share the sum
            run.units += made
            run.latencies.append(time.perf_counter() - began)

    with Meter(pids) as meter:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())
    run.seconds, run.others = meter.seconds, meter.others
    return run


async def measure(system: SeamUp, work: str, concurrency: int) -> Run:
    """One run of `work` ("embed" or "chat") against a running system."""
    pids = [pid for pid in system.family() if pid != system.process.pid]
    async with AsyncSeam(system.ready["grpc"], api_key=system.ready["api_key"], timeout=600) as seam:

        async def embed(text: str, run: Run) -> int:
            await seam.embed([text])
            return 1

        async def chat(text: str, run: Run) -> int:
            began, first = time.perf_counter(), 0.0
            stream = seam.chat(text, max_output_tokens=OUTPUT_TOKENS, ignore_end_token=True)
            async with stream:
                async for _ in stream:
                    first = first or time.perf_counter() - began
            run.first.append(first)
            assert stream.finished is not None
            return stream.finished.usage.output_token_count

        ask, questions = (embed, texts(TEXTS)) if work == "embed" else (chat, texts(PROMPTS, seed=1))
        await asyncio.gather(*(ask(question, Run()) for question in questions[:4]))
        return await closed_loop(questions, concurrency, ask, pids)


def offline(work: str) -> Run:
    """The engine alone, everything submitted at once, in a process of its own."""
    command = [sys.executable, "-m", "load.offline", work]
    environment = {**os.environ, "SEAM_TORCH_THREADS": THREADS, "OMP_NUM_THREADS": THREADS}
    done = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    measured: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return Run(measured["units"], measured["seconds"], measured["others"])


def best(runs: Sequence[Run]) -> Run:
    return max(runs, key=lambda run: run.rate)


def rows_of(work: str, topology: str, system: SeamUp, rounds: int) -> list[dict[str, object]]:
    """Concurrencies and the offline reference, measured in turn, round by round."""
    measured: dict[int, list[Run]] = {concurrency: [] for concurrency in CONCURRENCY}
    references: list[Run] = []
    for number in range(rounds):
        print(f"{topology} {work}: round {number + 1} of {rounds} ...", flush=True)
        references.append(offline(work))
        for concurrency in CONCURRENCY:
            measured[concurrency].append(asyncio.run(measure(system, work, concurrency)))
    reference = best(references)
    unit = "texts" if work == "embed" else "tokens"
    return [
        {
            "work": f"{work} ({unit}/s), {topology}",
            "concurrency": concurrency,
            "rate": run.rate,
            "offline_rate": reference.rate,
            "share_of_offline": run.rate / reference.rate,
            "p50_ms": 1000 * percentile(run.latencies, 0.5),
            "p99_ms": 1000 * percentile(run.latencies, 0.99),
            "first_token_p50_ms": 1000 * percentile(run.first, 0.5) if run.first else None,
            "others_share": run.others,
        }
        for concurrency, run in ((c, best(runs)) for c, runs in measured.items())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--topologies", nargs="*", default=["monolith", "split"])
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    for topology in options.topologies:
        with seam_up("--topology", topology, SEAM_TORCH_THREADS=THREADS, OMP_NUM_THREADS=THREADS) as system:
            for work in ("embed", "chat"):
                rows += rows_of(work, topology, system, options.rounds)
    report(
        "The whole way against the same models offline",
        rows,
        name="whole_way",
        note=f"closed loop; chat makes {OUTPUT_TOKENS} tokens each; offline is the engine with everything at once",
    )


if __name__ == "__main__":
    main()
