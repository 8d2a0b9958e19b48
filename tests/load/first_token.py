"""First token of a short prompt beside 32 long generations and a prompt of 4,000 tokens: `python -m load.first_token`.

In each way of cutting the long prompt (the bound of prompt tokens beside running answers, and none at all), in a
process of its own, again and again: a prompt of 4,000 tokens is submitted, and until its first token is there short
prompts come one after the other, at random moments. A busy step is one that computes prompt tokens beside the running
answers; a plain one computes only these.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from inference_svc.engine.engine import Engine
from inference_svc.engine.runner import Row, SampledToken
from inference_svc.engine.settings import EngineSettings
from inference_svc.model import LoadedModel, ModelSpec, PrefixSharing
from inference_svc.models.loading import load_model
from inference_svc.requests import (
    Context,
    Event,
    Failed,
    Finished,
    Generation,
    OutputDetail,
    Sampling,
    Task,
    Tokens,
)

from load.benchmark_models import VOCABULARY, generation_model
from load.report import Meter, percentile, report

HERE = Path(__file__).parent
RUNNING = 32
LONG_PROMPT = 4000
SHORT_PROMPT = 24
CONTEXT = 4608
WHOLE = 2 * CONTEXT  # a step budget that cuts nothing
DEFAULT = 512  # the engine's own budget of a step on a CPU
WAYS: dict[str, tuple[int, int]] = {  # step token budget, prompt tokens beside running answers
    "no chunks": (WHOLE, WHOLE),
    "chunks of a step's budget (512)": (DEFAULT, DEFAULT),
    "chunks of 256": (DEFAULT, 256),
    "chunks of 128": (DEFAULT, 128),
    "chunks of 32": (DEFAULT, 32),
}
PATIENCE = 120.0


@dataclass(slots=True)
class Watch:
    """Times of steps and of first tokens, taken on the model thread. `steps` are (began, ended, prompt tokens)."""

    steps: list[tuple[float, float, int]] = field(default_factory=list)
    first: dict[int, float] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    news: threading.Condition = field(default_factory=threading.Condition)

    def deliver(self, events: Sequence[tuple[int, Event]]) -> None:
        now = time.perf_counter()
        with self.news:
            for request_id, event in events:
                match event:
                    case Tokens():
                        self.first.setdefault(request_id, now)
                    case Failed(error=error):
                        raise error
                    case Finished():
                        self.ended.add(request_id)
            self.news.notify_all()

    def wait_for_first(self, *request_ids: int, timeout: float = PATIENCE) -> bool:
        with self.news:
            return self.news.wait_for(lambda: all(one in self.first for one in request_ids), timeout)


def watched(model: LoadedModel, watch: Watch) -> LoadedModel:
    """The same model, whose steps are timed."""
    runner: Any = model.runner
    compute = runner.step

    def step(rows: Sequence[Row]) -> list[SampledToken | None]:
        began = time.perf_counter()
        sampled: list[SampledToken | None] = compute(rows)
        prompt_tokens = sum(len(row.token_ids) for row in rows if len(row.token_ids) > 1 or not row.samples)
        watch.steps.append((began, time.perf_counter(), prompt_tokens))
        return sampled

    runner.step = step
    return model


def generation(draw: random.Random, prompt: int, output: int) -> Generation:
    return Generation(
        model="chat",
        context=Context(),
        credits=None,
        prompt_ids=tuple(draw.randrange(16, VOCABULARY) for _ in range(prompt)),
        resumed_ids=(),
        sampling=Sampling(seed=0),
        end_token_ids=frozenset(),
        stop_strings=(),
        min_output_tokens=0,
        max_output_tokens=output,
        format=None,
        detail=OutputDetail(),
    )


class Trial:
    """An engine with its running answers. `waits` are seconds from submit to first token of the short prompts,
    `begun_steps` how many steps were computed meanwhile, the one under way included."""

    def __init__(self, engine: Engine, watch: Watch) -> None:
        self._engine = engine
        self._watch = watch
        self._draw = random.Random(0)
        self._last_id = 0
        self._running: list[int] = []
        self.waits: list[float] = []
        self.begun_steps: list[int] = []
        self.long_waits: list[float] = []

    def submit(self, prompt: int, output: int) -> int:
        self._last_id += 1
        self._engine.submit(self._watch, self._last_id, generation(self._draw, prompt, output))
        return self._last_id

    def keep_running(self) -> None:
        self._running = [one for one in self._running if one not in self._watch.ended]
        fresh = [self.submit(self._draw.randint(16, 64), 4000) for _ in range(RUNNING - len(self._running))]
        self._running += fresh
        if not self._watch.wait_for_first(*fresh):
            raise SystemExit("the running answers do not begin")

    def plain_steps(self, count: int) -> None:
        before = len(self._watch.steps)
        while len(self._watch.steps) < before + count:
            time.sleep(0.01)

    def one(self) -> None:
        self.keep_running()
        began = time.perf_counter()
        long = self.submit(LONG_PROMPT, 1)
        while not self._watch.wait_for_first(long, timeout=self._draw.uniform(0.0, 2 * self._usual_step())):
            self.short()
        self.long_waits.append(self._watch.first[long] - began)

    def short(self) -> None:
        began = time.perf_counter()
        short = self.submit(SHORT_PROMPT, 1)
        if not self._watch.wait_for_first(short):
            raise SystemExit("a short prompt has no first token")
        came = self._watch.first[short]
        self.waits.append(came - began)
        self.begun_steps.append(sum(ended >= began and start <= came for start, ended, _ in self._watch.steps[-400:]))

    def _usual_step(self) -> float:
        recent = [ended - began for began, ended, _ in self._watch.steps[-9:]]
        return min(0.5, statistics.median(recent))


def measure(way: str, samples: int, seconds: float, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    budget, bound = WAYS[way]
    spec = ModelSpec(
        "chat",
        Task.GENERATE,
        str(generation_model()),
        max_context_tokens=CONTEXT,
        slot_count=RUNNING + 4,
        step_token_budget=budget,
        prefix_cache=PrefixSharing.OFF,
    )
    watch = Watch()
    model = watched(load_model(spec, cache_folder=Path("/nonexistent"), progress=lambda _: None), watch)
    engine = Engine([model], settings=EngineSettings(prompt_tokens_per_step=bound))
    engine.start()
    trial = Trial(engine, watch)
    trial.keep_running()
    trial.plain_steps(20)
    watch.steps.clear()
    with Meter() as meter:
        trial.plain_steps(20)
        over = time.perf_counter() + seconds
        while len(trial.waits) < samples and time.perf_counter() < over:
            trial.one()
    engine.stop()
    plain = statistics.median(ended - began for began, ended, prompt in watch.steps if not prompt)
    busy = sorted(ended - began for began, ended, prompt in watch.steps if prompt > SHORT_PROMPT)
    gaps = [after[1] - before[1] for before, after in zip(watch.steps, watch.steps[1:], strict=False)]
    p50, p99 = percentile(trial.waits, 0.5), percentile(trial.waits, 0.99)
    return {
        "short prompts": len(trial.waits),
        "p50 ms": 1e3 * p50,
        "p99 ms": 1e3 * p99,
        "plain step ms": 1e3 * plain,
        "busy step ms": 1e3 * statistics.median(busy),
        "p50 in busy steps": p50 / statistics.median(busy),
        "p99 in busy steps": p99 / statistics.median(busy),
        "p99 in plain steps": p99 / plain,
        "steps begun, most": max(trial.begun_steps),
        "longest gap ms": 1e3 * max(gaps),
        "long prompt s": statistics.median(trial.long_waits),
        "others": meter.others,
    }


def in_a_process(way: str, samples: int, seconds: float, threads: int) -> dict[str, Any]:
    words = [
        sys.executable,
        "-m",
        "load.first_token",
        "--one",
        way,
        "--samples",
        str(samples),
        "--seconds",
        str(seconds),
        "--threads",
        str(threads),
    ]
    done = subprocess.run(words, cwd=HERE.parent, capture_output=True, text=True, timeout=seconds + 600, check=False)
    if done.returncode:
        raise SystemExit(f"{way} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--samples", type=int, default=120, help="short prompts a way, at most")
    parser.add_argument("--seconds", type=float, default=240, help="for each way: the trial under way then ends it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.samples, options.seconds, options.threads)))
        return
    rows = []
    for way in options.ways:
        print(f"{way} ...", flush=True)
        rows.append({"way": way, **in_a_process(way, options.samples, options.seconds, options.threads)})
    report(
        f"First token of {SHORT_PROMPT} tokens beside {RUNNING} running answers and a prompt of {LONG_PROMPT}",
        [{"figure": name, **{row["way"]: row[name] for row in rows}} for name in rows[0] if name != "way"],
        name="first_token",
        note="gap: between the ends of two steps, which is what every running answer waits",
    )


if __name__ == "__main__":
    main()
