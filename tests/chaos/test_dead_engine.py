"""An engine dies in the middle of a request, and its process takes its time to end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from business_svc.domain.inference import Context, GenerateRequest, Message, StopConditions
from business_svc.errors import SeamError
from business_svc.link.in_process_duplex import InProcessConnector
from business_svc.link.pool import Pool, PoolSettings
from inference_svc.requests import Task
from support.chaos import Told, read
from support.echo import LOST, EchoRunner, Gate, echo_model
from support.serving import Served, serving_models

REQUEST = GenerateRequest("chat", (Message("user", "hello"),), stop=StopConditions(max_output_tokens=20))
DEADLY = GenerateRequest("chat", (Message("user", f"mind the step {chr(LOST)}"),))


def models(gate: Gate):
    chat = echo_model("chat", runner=EchoRunner(gate=gate))
    return [chat, echo_model("embed", Task.EMBED), echo_model("score", Task.SCORE)]


def connector_to(served: Served, address: str) -> InProcessConnector:
    return InProcessConnector(served.service.session, serialize=True, address=address)


@asynccontextmanager
async def a_pool(gate: Gate, most_deaths: int) -> AsyncIterator[tuple[Pool, Served, InProcessConnector]]:
    """A pool of one replica, that replica, and the way to another that has not joined."""
    async with serving_models(models(gate)) as first, serving_models(models(Gate())) as second:
        other = connector_to(second, "other")
        async with Pool([connector_to(first, "first")], PoolSettings(most_deaths=most_deaths)) as pool:
            await pool.ready()
            yield pool, first, other


async def kill(pool: Pool) -> None:
    async for _ in pool.generate(DEADLY, Context()):
        pass


async def read_whole(reading: "asyncio.Task[Told]") -> None:
    async with asyncio.timeout(20):
        assert len((await reading).ids) == 20


async def test_one_death_is_one_death_however_long_the_dead_engine_s_process_lasts() -> None:
    """Nobody tells the session service that its engine died, and the only replica's session stays."""
    gate = Gate()
    async with a_pool(gate, most_deaths=2) as (pool, dying, other):
        gate.shut()
        reading = asyncio.create_task(read(pool, REQUEST))
        killing = asyncio.create_task(kill(pool))
        await _until(lambda: dying.engine.live_request_count == 2)
        gate.open()
        await _until(lambda: dying.engine.dead is not None)
        await asyncio.sleep(0.1)
        assert not reading.done(), "waits for a replica that works"
        killing.cancel()
        await asyncio.wait([killing])
        pool.add(other)
        await read_whole(reading)


async def test_a_request_that_comes_to_a_dead_engine_did_not_die_with_it() -> None:
    async with a_pool(Gate(), most_deaths=1) as (pool, _, other):
        with pytest.raises(SeamError, match="1 replicas died"):
            await kill(pool)
        reading = asyncio.create_task(read(pool, REQUEST))
        await asyncio.sleep(0.05)
        pool.add(other)
        await read_whole(reading)


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - an engine takes and dies on its own thread without a word
            await asyncio.sleep(0.001)
