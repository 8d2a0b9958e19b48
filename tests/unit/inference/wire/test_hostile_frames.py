"""Frames of peers that mean harm, or are broken, against the session and the engine behind it, while others are served.

`SEAM_FUZZ_CASES=200000` plays so many, from `SEAM_FUZZ_SEED=N` on; the seed alone plays that one case.

Laws: a stream ends as the contract has it, for a reason that it names, and never as a fault of ours; nothing comes
after a request's end, nor more tokens than were granted; who behaves has exact answers all the while; and afterwards
nothing is held anywhere: no slot, no session, no task, no memory.
"""

import asyncio
import gc
import os
from contextlib import aclosing, asynccontextmanager

import psutil
import pytest
from google.protobuf.message import DecodeError
from inference_svc.errors import SeamError
from inference_svc.requests import Task
from inference_svc.wire.replica import SessionLimits
from seam.errors.v1.errors_pb2 import ErrorReason
from seam.inference.v1.session_pb2 import SessionRequest
from support.echo import EchoEncoder, EchoRunner, echo_model
from support.honest import ask_until
from support.hostile import Case, case_of, parsed
from support.serving import serving_models
from support.session_client import reason_of

ONE_SEED = os.environ.get("SEAM_FUZZ_SEED")
CASES = int(os.environ.get("SEAM_FUZZ_CASES", "20000" if ONE_SEED is None else "1"))
FIRST = int(ONE_SEED or 0)
A_TEST = 2_500
AT_ONCE = 24
MOST_GROWTH = 24 * 1024 * 1024  # bytes in a test of so many cases: one kept frame a case would be seen
LIMITS = SessionLimits(max_live_requests=12, heartbeat=0.05, max_sessions=64)
MAY_END_FOR = {"MALFORMED_FRAME", "PROTOCOL_REVISION"}
# What a request of its own may fail with; STEP_FAILED and NUMERICAL_FAULT are what the echo's poison bytes ask for.
OURS = {"INTERNAL_FAULT", "ENGINE_STOPPED", "MODEL_NOT_READY", "DRAINING"}


class Audit:
    """What one hostile peer was told, against what it sent."""

    def __init__(self, frames: list[SessionRequest]) -> None:
        self._granted: dict[int, float] = {}
        for frame in frames:
            for submit in frame.submits:
                first = submit.initial_credits if submit.HasField("initial_credits") else float("inf")
                self._granted[submit.request_id] = max(self._granted.get(submit.request_id, 0), first)
            for grant in frame.grants:
                self._granted[grant.request_id] = self._granted.get(grant.request_id, 0) + grant.credits
        self._tokens: dict[int, int] = {}
        self._ended: set[int] = set()

    def heard(self, frame) -> None:
        for event in frame.events:
            which, request_id = event.WhichOneof("event"), event.request_id
            reason = reason_of(event.failed) if which == "failed" else ""
            assert request_id in self._granted, f"{which} of request {request_id}, of which nothing was said"
            if reason in ("DUPLICATE_REQUEST", "UNKNOWN_REQUEST"):
                continue
            assert reason is not None
            assert which != "failed" or ErrorReason.Value(f"ERROR_REASON_{reason}")
            assert reason not in OURS, f"request {request_id} met {reason}: {event.failed.message}"
            assert request_id not in self._ended, f"{which} of request {request_id} after its end"
            self._tokens[request_id] = self._tokens.get(request_id, 0) + len(event.tokens.ids)
            assert self._tokens[request_id] <= self._granted[request_id], f"request {request_id} is over its credits"
            if which in ("finished", "failed"):
                self._ended.add(request_id)


async def play(service, case: Case) -> None:
    frames = [parsed(raw, SessionRequest) for raw in case.frames]
    audit = Audit([frame for frame in frames if frame is not None])

    async def arriving():
        for frame in frames:
            if frame is None:
                raise DecodeError("no message")
            yield frame
            if case.turns % 3:
                await asyncio.sleep(0)
        if not case.half_closes:
            await asyncio.Event().wait()

    async def read() -> None:
        number = 0
        async with aclosing(service.session(arriving())) as responses:
            async for response in responses:
                audit.heard(response)
                number += 1
                if number > case.reads:
                    await asyncio.Event().wait()

    reading = asyncio.create_task(read())
    for _ in range(case.turns):
        if reading.done():
            break
        await asyncio.sleep(0.0005 if case.seed % 7 == 0 else 0)
    reading.cancel()
    await asyncio.wait([reading])
    if not reading.cancelled() and (error := reading.exception()) is not None and not isinstance(error, DecodeError):
        if not isinstance(error, SeamError):
            raise error
        assert error.reason in MAY_END_FOR, f"the stream ended for {error.reason}"


@asynccontextmanager
async def sturdy():
    """Of models that no byte can kill; poisoned steps and numbers that are none remain."""
    runner, encoder = EchoRunner(slot_count=8, loses_device=False), EchoEncoder(loses_device=False)
    models = [
        echo_model("chat", runner=runner),
        echo_model("embed", Task.EMBED, runner=encoder),
        echo_model("score", Task.SCORE, runner=EchoEncoder(width=2, loses_device=False)),
    ]
    async with serving_models(models, limits=LIMITS) as served:
        yield served, (runner.step_sizes, encoder.passes, models[2].runner.passes)


async def run(seeds: range) -> None:
    async with sturdy() as (served, recorded):
        coming = iter(seeds)

        async def attack() -> None:
            for seed in coming:
                try:
                    async with asyncio.timeout(60):
                        await play(served.service, case_of(seed))
                except BaseException as broken:
                    broken.add_note(f"hostile case {seed}: play it alone with SEAM_FUZZ_SEED={seed}")
                    raise
                for each in recorded:
                    each.clear()

        over = asyncio.Event()
        behaving = asyncio.create_task(ask_until(served.client(), over.is_set))
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(attack())
        over.set()
        answers = await behaving
        assert answers >= min(3, len(seeds) // 500)
        assert served.engine.dead is None
        assert served.service.session_count == 1


@pytest.fixture(scope="module")
def warmed() -> None:
    """Grammars, caches of the interpreter, and the allocator's first arenas are no leak."""
    asyncio.run(run(range(10_000_000, 10_000_400)))


@pytest.mark.parametrize("first", range(FIRST, FIRST + CASES, A_TEST))
def test_hostile_frames_hurt_nobody_else_and_leave_nothing_behind(first: int, warmed: None) -> None:
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    asyncio.run(run(range(first, min(first + A_TEST, FIRST + CASES))))
    gc.collect()
    grown = process.memory_info().rss - before
    assert grown < MOST_GROWTH, f"{grown >> 20} MiB are left of cases {first} to {first + A_TEST}"
