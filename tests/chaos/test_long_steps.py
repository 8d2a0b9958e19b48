"""A replica whose model computes for long without a word is busy, not dead."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from business_svc.domain.inference import GenerateRequest, Message, StopConditions
from business_svc.link.in_process_duplex import InProcessConnector
from business_svc.link.pool import Pool, PoolSettings
from inference_svc.requests import Task
from inference_svc.wire.replica import SessionLimits
from seam.inference.v1.session_pb2 import SessionRequest, SessionResponse
from support.chaos import read
from support.echo import EchoRunner, Gate, echo_model
from support.serving import serving_models

TIMEOUT = 0.4
REQUEST = GenerateRequest("chat", (Message("user", "hello"),), stop=StopConditions(max_output_tokens=20))


async def test_a_step_of_three_times_the_patience_is_no_false_alarm() -> None:
    gate = Gate()
    models = [
        echo_model("chat", runner=EchoRunner(gate=gate)),
        echo_model("embed", Task.EMBED),
        echo_model("score", Task.SCORE),
    ]
    async with serving_models(models, limits=SessionLimits(heartbeat=0.02)) as served:
        connector = InProcessConnector(served.service.session, serialize=True)
        async with Pool([connector], PoolSettings(heartbeat_timeout=TIMEOUT, most_deaths=1)) as pool:
            await pool.ready()
            gate.shut()
            reading = asyncio.create_task(read(pool, REQUEST))
            await asyncio.to_thread(gate.wait_until_blocked)
            await asyncio.sleep(3 * TIMEOUT)  # what a long prefill looks like from here
            gate.open()
            assert len((await reading).ids) == 20


async def test_a_replica_that_beats_more_seldom_than_the_patience_is_no_false_alarm() -> None:
    models = [echo_model("chat"), echo_model("embed", Task.EMBED), echo_model("score", Task.SCORE)]
    async with serving_models(models, limits=SessionLimits(heartbeat=2.5 * TIMEOUT)) as served:
        sessions = 0

        def session(frames: AsyncIterator[SessionRequest]) -> AsyncGenerator[SessionResponse, None]:
            nonlocal sessions
            sessions += 1
            return served.service.session(frames)

        async with Pool([InProcessConnector(session)], PoolSettings(heartbeat_timeout=TIMEOUT)) as pool:
            await pool.ready()
            await asyncio.sleep(2.5 * TIMEOUT)
            await read(pool, REQUEST)
        assert sessions == 1
