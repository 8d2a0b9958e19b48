"""What clients ask for in a fault schedule, and the laws that hold for what they are told."""

import asyncio
import random
from contextlib import aclosing
from dataclasses import dataclass

import pytest
from business_svc.domain.inference import (
    Accepted,
    Context,
    EmbedRequest,
    Finished,
    FinishReason,
    GenerateRequest,
    Message,
    Sampling,
    StopConditions,
    Tokens,
)
from business_svc.errors import Reason, SeamError
from inference_svc import requests as inner

from support.chaos_plan import World
from support.echo import LOST, NAN, POISON, REFUSED, EchoEncoder, EchoRunner, EchoTokenizer

ECHO, ENCODER = EchoRunner(), EchoEncoder()
# What a request's own poison must be answered with, and nobody else.
POISONS = {POISON: Reason.STEP_FAILED, REFUSED: Reason.STEP_FAILED, NAN: Reason.NUMERICAL_FAULT}


async def ask(world: World, number: int) -> None:
    """One client: it may go away at any moment."""
    chance = random.Random(world.plan.chance.random())
    kind = chance.random()
    asking = asyncio.create_task(
        embed(world, number) if kind < 0.15 else poison(world, number) if kind < 0.2 else generate(world, number)
    )
    patience = chance.uniform(0, 0.08) if chance.random() < 0.1 else None
    try:
        await asyncio.wait([asking], timeout=patience)
    finally:
        asking.cancel()
        await asyncio.wait([asking])
    if asking.cancelled():
        world.tell(f"client {number} went away")
    else:
        asking.result()


def check_failure(what: str, error: SeamError, world: World, *own: Reason, deadline: bool = False) -> None:
    """Told only what is nobody's fault here, or its own."""
    world.tell(f"{what}: {error.reason}: {error.message}")
    if error.reason not in world.may_fail_with(deadline=deadline) | set(own):
        raise AssertionError(f"{what}: {error.reason}: {error.message}") from error


async def poison(world: World, number: int) -> None:
    """A request that no model can compute, or that kills every engine it comes to."""
    chance = random.Random(world.plan.chance.random())
    byte = chance.choice((*POISONS, LOST) if world.plan.most_deaths <= 2 else tuple(POISONS))
    await asyncio.sleep(chance.uniform(0, 0.03))
    request = GenerateRequest("chat", (Message("user", f"ask {number} {chr(byte)}"),))
    try:
        async with aclosing(world.pool.generate(request, Context())) as events:
            async for event in events:
                assert isinstance(event, Accepted), f"poison {number} was answered with {event}"
    except SeamError as error:
        check_failure(f"poison {number} ({byte})", error, world, POISONS.get(byte, Reason.POISON_REQUEST))
    else:
        raise AssertionError(f"poison {number} ended well")


async def generate(world: World, number: int) -> None:
    """One generation as its seed has it; checks all that its reader is told."""
    chance = random.Random(world.plan.chance.random())
    count = chance.randint(1, 60)
    sampling = chance.choice((Sampling(), Sampling(temperature=1.0, seed=number + 1), Sampling(temperature=0.7)))
    stops = ("ab", "q", "xyz") if chance.random() < 0.3 else ()
    stop = StopConditions(max_output_tokens=count, stop_strings=stops)
    request = GenerateRequest("chat", (Message("user", f"ask {number}"),), sampling, stop)
    slow = chance.random() < 0.2
    rests_after = chance.randint(0, count) if chance.random() < 0.1 else None  # its credits run out meanwhile
    leave_after = chance.randint(0, count) if chance.random() < 0.2 else None
    deadline = chance.uniform(0.005, 0.3) if chance.random() < 0.2 else None
    await asyncio.sleep(chance.uniform(0, 0.03))
    context = Context() if deadline is None else Context(deadline=asyncio.get_running_loop().time() + deadline)
    reader = Reader(request)
    try:
        async with aclosing(world.pool.generate(request, context)) as events:
            async for event in events:
                reader.take(event)
                if leave_after is not None and len(reader.ids) >= leave_after and reader.ids:
                    world.tell(f"client {number} left after {len(reader.ids)} tokens")
                    return
                if rests_after is not None and len(reader.ids) >= rests_after:
                    rests_after = None
                    await asyncio.sleep(chance.uniform(0.02, 0.15))
                if slow:
                    await asyncio.sleep(chance.uniform(0, 0.004))
    except SeamError as error:
        if reader.finished is not None:
            raise AssertionError(f"request {number}: {error.reason} after the end") from error
        check_failure(f"request {number} after {len(reader.ids)} tokens", error, world, deadline=deadline is not None)
    else:
        reader.check_whole()
        world.tell(f"request {number} is whole, {len(reader.ids)} tokens")


@dataclass
class Reader:
    """What was told of one generation, checked as it comes."""

    request: GenerateRequest

    def __post_init__(self) -> None:
        self.accepted: Accepted | None = None
        self.finished: Finished | None = None
        self.ids: list[int] = []
        self.text = ""

    def take(self, event: Accepted | Tokens | Finished) -> None:
        assert self.finished is None, "nothing follows the end"
        match event:
            case Accepted():
                assert self.accepted is None, "accepted once"
                self.accepted = event
            case Tokens():
                assert self.accepted is not None, "accepted comes first"
                self.ids.extend(event.ids)
                self.text += event.text
                assert self.ids == self._expected(len(self.ids)), "each token once, in order"
            case Finished():
                self.finished = event

    def check_whole(self) -> None:
        assert self.finished is not None, "the stream ended without an end"
        assert self.accepted is not None
        count = self.request.stop.max_output_tokens
        assert count is not None
        whole = bytes(self._expected(count)).decode()
        cuts = [(whole.index(stop) + len(stop), stop) for stop in self.request.stop.stop_strings if stop in whole]
        if cuts:
            end, stop = min(cuts)
            assert (self.finished.reason, self.finished.stop_string) == (FinishReason.STOP_STRING, stop)
            assert (self.text, len(self.ids)) == (whole[: end - len(stop)], end)
        else:
            assert self.finished.reason is FinishReason.LENGTH
            assert (self.text, len(self.ids)) == (whole, count)
        assert self.finished.usage.output_token_count == len(self.ids)
        assert self.finished.usage.input_token_count == self.accepted.input_token_count

    def _expected(self, count: int) -> list[int]:
        assert self.accepted is not None
        messages = [inner.Message(one.role, one.content) for one in self.request.messages]
        sampling = inner.Sampling(temperature=self.request.sampling.temperature or 0.0, seed=self.accepted.seed or 0)
        return ECHO.expected(
            inner.Generation(
                model="chat",
                context=inner.Context(),
                credits=None,
                prompt_ids=tuple(EchoTokenizer().encode_chat(messages, True)),
                resumed_ids=(),
                sampling=sampling,
                end_token_ids=frozenset(),
                stop_strings=(),
                min_output_tokens=0,
                max_output_tokens=count,
                format=None,
                detail=inner.OutputDetail(),
            ),
            count,
        )


async def embed(world: World, number: int) -> None:
    texts = tuple(f"text {number} {n}" for n in range(1 + number % 5))
    try:
        got = await world.pool.embed(EmbedRequest("embed", texts), Context())
    except SeamError as error:
        check_failure(f"embedding {number}", error, world)
        return
    assert len(got.embeddings) == len(texts)
    for text, one in zip(texts, got.embeddings, strict=True):
        raw = ENCODER.expected(list(text.encode()))
        assert one.values == pytest.approx(raw / float((raw**2).sum()) ** 0.5, abs=1e-5)
