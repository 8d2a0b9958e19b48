"""What the suite asks, and what the echo must answer."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from business_svc.domain.inference import (
    Accepted,
    Context,
    Finished,
    GenerateRequest,
    Message,
    Sampling,
    StopConditions,
    Tokens,
)
from business_svc.link.pool import Pool
from inference_svc.requests import Context as InnerContext
from inference_svc.requests import Generation, OutputDetail
from inference_svc.requests import Message as InnerMessage
from inference_svc.requests import Sampling as InnerSampling
from support.echo import EchoRunner, EchoTokenizer

NO_CONTEXT = Context()


@dataclass(frozen=True)
class Answer:
    accepted: Accepted
    ids: tuple[int, ...]
    text: str
    finished: Finished


def asked(prompt: str, count: int = 12, **sampling: object) -> GenerateRequest:
    """A chat of one message; greedy unless `sampling` says otherwise."""
    return GenerateRequest(
        "chat",
        (Message("user", prompt),),
        Sampling(**sampling),  # type: ignore[arg-type]
        StopConditions(max_output_tokens=count),
    )


async def answer(pool: Pool, request: GenerateRequest, context: Context = NO_CONTEXT) -> Answer:
    """The whole answer; its order of events is checked on the way."""
    accepted: Accepted | None = None
    finished: Finished | None = None
    ids: list[int] = []
    text = ""
    async with aclosing(pool.generate(request, context)) as events:
        async for event in events:
            assert finished is None, "nothing follows the end"
            match event:
                case Accepted():
                    assert accepted is None, "accepted once"
                    accepted = event
                case Tokens():
                    assert accepted is not None, "accepted comes first"
                    ids.extend(event.ids)
                    text += event.text
                case Finished():
                    finished = event
    assert accepted is not None
    assert finished is not None
    return Answer(accepted, tuple(ids), text, finished)


def expected_ids(runner: EchoRunner, request: GenerateRequest, count: int) -> tuple[int, ...]:
    """What an undisturbed echo gives to the request."""
    messages = [InnerMessage(message.role, message.content) for message in request.messages]
    generation = Generation(
        model=request.model,
        context=InnerContext(),
        credits=None,
        prompt_ids=tuple(EchoTokenizer().encode_chat(messages, True)),
        resumed_ids=(),
        sampling=InnerSampling(
            temperature=request.sampling.temperature or 0.0, seed=request.sampling.seed if request.sampling.seed else 0
        ),
        end_token_ids=frozenset(),
        stop_strings=(),
        min_output_tokens=0,
        max_output_tokens=count,
        format=None,
        detail=OutputDetail(),
    )
    return tuple(runner.expected(generation, count))


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Returns once the condition holds; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # any condition, not one event
            await asyncio.sleep(0.005)
