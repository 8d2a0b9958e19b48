"""Two real inference servers in processes of their own; one is killed, stopped or asked to leave in the middle."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import pytest
from business_svc.domain.inference import (
    Accepted,
    Context,
    Finished,
    GenerateRequest,
    GenerationEvent,
    Message,
    Sampling,
    StopConditions,
    Tokens,
)
from business_svc.link.grpc_duplex import GrpcConnector
from business_svc.link.pool import Pool, PoolSettings
from support.echo_replica import EchoReplica, echo_replica

STREAMS = 24
COUNT = 150


def requests() -> list[GenerateRequest]:
    """Greedy, seeded sampling, and stop strings."""
    made = []
    for number in range(STREAMS):
        sampling = Sampling(temperature=0.8, top_p=0.9, seed=number) if number % 3 == 1 else Sampling()
        stop = StopConditions(max_output_tokens=COUNT, stop_strings=("ab", "qz") if number % 3 == 2 else ())
        made.append(GenerateRequest("chat", (Message("user", f"question {number}"),), sampling, stop))
    return made


async def read(
    pool: Pool, request: GenerateRequest, on_token: Callable[[], None] = lambda: None
) -> list[GenerationEvent]:
    seen: list[GenerationEvent] = []
    async with aclosing(pool.generate(request, Context())) as events:
        async for event in events:
            seen.append(event)
            on_token()
    return seen


def told(events: list[GenerationEvent]) -> tuple[object, ...]:
    """What must not differ from an undisturbed run."""
    assert isinstance(events[0], Accepted)
    assert [type(event) for event in events].count(Accepted) == 1
    last = events[-1]
    assert isinstance(last, Finished)
    ids = tuple(one for event in events if isinstance(event, Tokens) for one in event.ids)
    text = "".join(event.text for event in events if isinstance(event, Tokens))
    usage = last.usage
    return ids, text, last.reason, last.stop_string, usage.input_token_count, usage.output_token_count


@asynccontextmanager
async def two_replicas() -> AsyncIterator[tuple[Pool, EchoReplica, EchoReplica]]:
    async with asyncio.timeout(60), AsyncExitStack() as stack:
        first = await stack.enter_async_context(echo_replica())
        second = await stack.enter_async_context(echo_replica())
        connectors = [GrpcConnector(first.address), GrpcConnector(second.address)]
        pool = await stack.enter_async_context(Pool(connectors, PoolSettings(heartbeat_timeout=1.0)))
        await pool.ready(2)
        yield pool, first, second


@pytest.mark.parametrize(
    "fault", [EchoReplica.kill, EchoReplica.stop, EchoReplica.leave], ids=["kill", "stop", "leave"]
)
async def test_every_stream_ends_as_if_nothing_had_happened(fault: Callable[[EchoReplica], None]) -> None:
    async with two_replicas() as (pool, first, _):
        undisturbed = await asyncio.gather(*(read(pool, request) for request in requests()))
        seen = 0

        def on_token() -> None:
            nonlocal seen
            seen += 1
            if seen == STREAMS * 20:
                fault(first)

        disturbed = await asyncio.gather(*(read(pool, request, on_token) for request in requests()))
        assert seen > STREAMS * 20
        for before, after in zip(undisturbed, disturbed, strict=True):
            assert told(after) == told(before)
        states = {one.address: one.state.value for one in pool.replicas()}
        assert states[first.address] != "ready"
