"""The replica of the link's benchmarks: a real server whose model costs next to nothing, so that the link is seen.

As a program it prints its address: `python -m load.link_replica LISTEN SLOTS STEP_SECONDS`. `alone` is the same engine
with no wire at all, for subtraction.
"""

import asyncio
import contextlib
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from inference_svc.engine.engine import Engine
from inference_svc.engine.runner import Row, SampledToken
from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.requests import (
    Context,
    EncodedInput,
    Event,
    Failed,
    Finished,
    Generation,
    ModelLimits,
    OutputDetail,
    Sampling,
    Task,
)
from inference_svc.server import InferenceServer, serve
from inference_svc.settings import Settings
from support.echo import echo_model

CONTEXT = 4096
DIMENSIONS = 384
TESTS = Path(__file__).parent.parent


class PacedRunner:
    """The next token is the output's number, as a letter; a step takes `step_seconds`, asleep."""

    max_context_tokens = CONTEXT

    def __init__(self, slot_count: int, step_seconds: float) -> None:
        self.slot_count = slot_count
        self.step_seconds = step_seconds
        self.steps = 0
        self._open: set[int] = set()
        self._changed = threading.Condition()

    def open(self, slot: int, generation: Generation) -> None:
        with self._changed:
            self._open.add(slot)
            self._changed.notify_all()

    def look_again(self, slot: int) -> int:
        return 0

    def step(self, rows: Sequence[Row]) -> list[SampledToken | None]:
        time.sleep(self.step_seconds)
        self.steps += 1
        return [SampledToken(97 + row.output_index % 26) if row.samples else None for row in rows]

    def close(self, slot: int) -> None:
        with self._changed:
            self._open.discard(slot)
            self._changed.notify_all()

    def wait_for_slots(self, count: int) -> None:
        """Returns once just so many are open."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._open) == count, 30):
                raise TimeoutError(f"{len(self._open)} slots are open, not {count}")


class PacedEncoder:
    def __init__(self, step_seconds: float) -> None:
        self._step_seconds = step_seconds

    def encode(self, inputs: Sequence[EncodedInput]) -> npt.NDArray[np.float32]:
        time.sleep(self._step_seconds)
        return np.full((len(inputs), DIMENSIONS), 0.5, np.float32)


def paced_model(spec: ModelSpec, runner: PacedRunner) -> LoadedModel:
    made = echo_model(spec.name, spec.task, step_token_budget=64 * runner.slot_count)
    match spec.task:
        case Task.GENERATE:
            info = replace(made.info, limits=ModelLimits(CONTEXT, CONTEXT, 64, 65536))
            return replace(made, info=info, runner=runner)
        case Task.EMBED:
            info = replace(made.info, dimension_count=DIMENSIONS)
            return replace(made, info=info, runner=PacedEncoder(runner.step_seconds))
        case Task.SCORE:
            return made


@contextlib.asynccontextmanager
async def served(listen: str, runner: PacedRunner) -> AsyncIterator[InferenceServer]:
    """The server in this process; `listen` may be "" for no socket."""
    async with serve(Settings(listen=listen), load=lambda spec, _: paced_model(spec, runner)) as server:
        await server.ready()
        yield server


@dataclass
class _Waiting:
    """An outlet that only counts ends."""

    left: int
    over: threading.Event

    def deliver(self, events: Sequence[tuple[int, Event]]) -> None:
        self.left -= sum(isinstance(event, Finished | Failed) for _, event in events)
        if self.left == 0:
            self.over.set()


def alone(in_flight: int, tokens: int, step_seconds: float) -> float:
    """CPU microseconds a token of the engine with no wire and no text read: `in_flight` sequences of `tokens` each."""
    engine = Engine([paced_model(ModelSpec("chat", Task.GENERATE, "echo"), PacedRunner(in_flight, step_seconds))])
    engine.start()
    waiting = _Waiting(in_flight, threading.Event())
    began = time.process_time()
    for number in range(in_flight):
        engine.submit(waiting, number, _generation(tokens))
    if not waiting.over.wait(120):
        raise TimeoutError("the engine did not answer")
    spent = time.process_time() - began
    engine.stop()
    return spent / (in_flight * tokens) * 1e6


def _generation(tokens: int) -> Generation:
    return Generation(
        model="chat",
        context=Context(),
        credits=None,
        prompt_ids=tuple(range(97, 113)),
        resumed_ids=(),
        sampling=Sampling(seed=1),
        end_token_ids=frozenset(),
        stop_strings=(),
        min_output_tokens=0,
        max_output_tokens=tokens,
        format=None,
        detail=OutputDetail(),
    )


async def main(listen: str, slots: int, step_seconds: float) -> None:
    async with served(listen, PacedRunner(slots, step_seconds)) as server:
        print(json.dumps({"address": server.address}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until whoever asked goes away


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
