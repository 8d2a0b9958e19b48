"""Many streams at once, what each was told, and how long its reader had to wait."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from business_svc.domain.inference import (
    Accepted,
    Choice,
    Context,
    Finished,
    FinishReason,
    GenerateRequest,
    JsonSchema,
    Message,
    OutputFormat,
    Regex,
    Sampling,
    StopConditions,
    Tokens,
)
from business_svc.link.pool import Pool


@dataclass(frozen=True)
class Told:
    """All that a reader is told but for times; of two runs of one request it must be the same."""

    ids: tuple[int, ...]
    text: str
    reason: FinishReason
    stop_string: str
    seed: int | None
    input_tokens: int
    output_tokens: int


@dataclass
class Watch:
    """Looks at all streams of a run. `reached` is set when they have `mark` tokens together."""

    mark: int | None = None
    tokens: int = 0
    longest_pause: float = 0.0
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    def came(self, count: int, pause: float) -> None:
        self.tokens += count
        self.longest_pause = max(self.longest_pause, pause)
        if self.mark is not None and self.tokens >= self.mark:
            self.reached.set()


FORMATS: tuple[OutputFormat, ...] = (
    Regex("[a-z]{60}(-[0-9]{9}){4}"),
    JsonSchema(
        json.dumps({
            "type": "array", "minItems": 9, "maxItems": 9,
            "items": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1000, "maximum": 9999}},
                      "required": ["n"], "additionalProperties": False},
        })
    ),
    Choice(tuple(f"{colour} and then a good deal more of {colour}, as was said before" for colour in ("red", "blue"))),
)  # fmt: skip


def mixed_requests(
    number: int, tokens: int, *, stop_strings: tuple[str, ...] = ("ab", "qz", "x ", "hu")
) -> list[GenerateRequest]:
    """In turn: greedy; sampled with a seed, top-p and penalties; sampled with stop strings; held to a form, sampled or
    not."""
    made = []
    for n in range(number):
        sampling = Sampling(temperature=0.9, top_p=0.9, repetition_penalty=1.15, presence_penalty=0.3, seed=1000 + n)
        formed = n % 4 == 3
        stop = StopConditions(
            max_output_tokens=tokens,
            ignore_end_token=not formed,
            stop_strings=stop_strings if n % 4 == 2 else (),
        )
        made.append(
            GenerateRequest(
                "chat",
                (Message("user", f"question {n}: " + "what is it? " * (n % 4)),),
                Sampling() if n % 4 == 0 or n % 8 == 7 else sampling,
                stop,
                FORMATS[n // 4 % len(FORMATS)] if formed else None,
            )
        )
    return made


async def read(pool: Pool, request: GenerateRequest, watch: Watch | None = None) -> Told:
    """The whole answer; fails where its events come in a wrong order."""
    accepted: Accepted | None = None
    finished: Finished | None = None
    ids: list[int] = []
    text = ""
    last = time.monotonic()
    async with aclosing(pool.generate(request, Context())) as events:
        async for event in events:
            assert finished is None, "nothing follows the end"
            match event:
                case Accepted():
                    assert accepted is None, "accepted once"
                    accepted = event
                case Tokens():
                    assert accepted is not None, "accepted comes first"
                    now = time.monotonic()
                    ids.extend(event.ids)
                    text += event.text
                    if watch is not None:
                        watch.came(len(event.ids), now - last if len(ids) > len(event.ids) else 0.0)
                    last = now
                case Finished():
                    finished = event
    assert accepted is not None
    assert finished is not None
    usage = finished.usage
    assert usage.input_token_count == accepted.input_token_count
    return Told(
        tuple(ids),
        text,
        finished.reason,
        finished.stop_string,
        accepted.seed,
        usage.input_token_count,
        usage.output_token_count,
    )


async def read_all(pool: Pool, requests: Sequence[GenerateRequest], watch: Watch | None = None) -> list[Told]:
    async with asyncio.TaskGroup() as streams:
        tasks = [streams.create_task(read(pool, request, watch)) for request in requests]
    return [task.result() for task in tasks]


async def read_all_while(
    pool: Pool, requests: Sequence[GenerateRequest], fault: Callable[[], Awaitable[None]], *, after_tokens: int
) -> tuple[list[Told], Watch]:
    """All streams, and once they have so many tokens together, the fault in their midst."""
    watch = Watch(mark=after_tokens)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read_all(pool, requests, watch))
        await watch.reached.wait()
        assert not reading.done(), "the fault comes in the middle"
        await fault()
    return reading.result(), watch


def assert_same(got: Sequence[Told], wanted: Sequence[Told]) -> None:
    """Every stream as in the undisturbed run; tells of the first that differs."""
    for n, (one, other) in enumerate(zip(got, wanted, strict=True)):
        assert one == other, f"stream {n}"
