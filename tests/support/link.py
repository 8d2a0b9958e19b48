"""Asking through a pool of scripted replicas, and what a whole answer looks like."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

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
from business_svc.link.in_process_duplex import InProcessConnector
from business_svc.link.membership import ReconnectSettings
from business_svc.link.pool import Pool, PoolSettings

from support.duplex import ScriptedReplica, answer_of, text_of_answer

NO_CONTEXT = Context()


def quick_settings() -> PoolSettings:
    """Small windows and short pauses."""
    return PoolSettings(
        patience=2.0, credit_window=8, reconnect=ReconnectSettings(first_pause=0.005, longest_pause=0.02)
    )


@asynccontextmanager
async def pool_of(*replicas: ScriptedReplica, settings: PoolSettings | None = None) -> AsyncIterator[Pool]:
    connectors = [InProcessConnector(one.serve, serialize=True, address=one.name) for one in replicas]
    async with asyncio.timeout(20), Pool(connectors, settings or quick_settings()) as pool:
        await pool.ready(len(replicas))
        yield pool


def asked(prompt: str, count: int = 12, *, temperature: float | None = None) -> GenerateRequest:
    return GenerateRequest(
        "chat",
        (Message("user", prompt),),
        Sampling(temperature=temperature),
        StopConditions(max_output_tokens=count),
    )


async def read(pool: Pool, request: GenerateRequest, context: Context = NO_CONTEXT) -> list[GenerationEvent]:
    async with aclosing(pool.generate(request, context)) as events:
        return [event async for event in events]


def context_within(seconds: float) -> Context:
    return replace(NO_CONTEXT, deadline=asyncio.get_running_loop().time() + seconds)


def ids_of(events: list[GenerationEvent]) -> list[int]:
    return [one for event in events if isinstance(event, Tokens) for one in event.ids]


def check_whole(events: list[GenerationEvent], prompt: str, count: int, seed: int = 0) -> None:
    """No gap, no repeat, told as one answer."""
    ids = ids_of(events)
    assert ids == answer_of(prompt, count, seed)
    assert "".join(event.text for event in events if isinstance(event, Tokens)) == text_of_answer(ids)
    assert isinstance(events[0], Accepted)
    assert sum(isinstance(event, Accepted) for event in events) == 1
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.usage.output_token_count == count
    assert last.usage.input_token_count == len(prompt)
    assert sum(isinstance(event, Finished) for event in events) == 1


async def until(true: Callable[[], bool]) -> None:
    """Lets everything else run until it is so; the test's own bound ends a wait in vain."""
    while not true():  # noqa: ASYNC110 - what is waited for has no event of its own
        await asyncio.sleep(0)
