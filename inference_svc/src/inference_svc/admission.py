"""Whether a request may be queued: checked against its model, tokenised, and made ready to be computed."""

import asyncio
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self, TypeVar

from inference_svc.catalogue import Catalogue
from inference_svc.encoding_rules import prepare_encoding
from inference_svc.errors import DeadlineExpired, FieldViolation, QueueFull, TaskNotSupported
from inference_svc.field_rules import check_context, check_features
from inference_svc.generation_rules import prepare_generation, prompt_ids
from inference_svc.model import LoadedModel
from inference_svc.requests import (
    Accepted,
    ChatPrompt,
    Context,
    EmbedWork,
    Encoding,
    GenerateWork,
    Generation,
    Prompt,
    Request,
    ScoreWork,
    Task,
    TextPrompt,
    TokenPrompt,
    Work,
)

_RETRY_WHEN_BUSY = 0.5  # seconds
_TASK_OF = {GenerateWork: Task.GENERATE, EmbedWork: Task.EMBED, ScoreWork: Task.SCORE}
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """`inline_units`: requests of at most this many characters and ids are prepared on the event loop, where that
    costs less than handing them to a thread. `waiting` bounds the requests that threads hold or will hold."""

    inline_units: int = 500  # 0.5 ms of MiniLM's tokenizer; a thread costs 0.1 ms beside it
    thread_count: int = 2
    waiting: int = 256


class Admission:
    """Turns requests into work for the engine. Every refusal is raised before anything is queued.

    Owned by the event loop. Use as a context manager: leaving it ends the threads.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        limits: AdmissionLimits,
        clock: Callable[[], float],
        draw_seed: Callable[[], int] = lambda: secrets.randbits(63),
    ) -> None:
        self._catalogue = catalogue
        self._limits = limits
        self._clock = clock
        self._draw_seed = draw_seed
        self._threads = _BoundedThreads(limits.thread_count, limits.waiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._threads.close()

    def is_quick(self, request: Request) -> bool:
        """Whether `admit_now` may be called on the event loop. A format has to be compiled: never quick."""
        if isinstance(request.work, GenerateWork) and request.work.format is not None:
            return False
        return _units_of(request.work) <= self._limits.inline_units

    def admit_now(self, request: Request) -> Generation | Encoding:
        """Raises the request's own SeamError."""
        return self._prepare(self._catalogue.loaded(request.model), request)

    async def admit(self, request: Request) -> Generation | Encoding:
        """As `admit_now`, off the event loop where that would hold it up; QueueFull where too many are being
        prepared. Gives up at the request's deadline or when cancelled."""
        if self.is_quick(request):
            return self.admit_now(request)
        model = self._catalogue.loaded(request.model)
        return await self._off_loop(request.context, lambda: self._prepare(model, request))

    def accepted(self, ready: Generation | Encoding) -> Accepted:
        return accepted(ready)

    async def count(self, name: str, prompt: Prompt, context: Context) -> tuple[list[int], int]:
        """Ids of a prompt, and the model's context limit."""
        model = self._catalogue.loaded(name)
        if model.info.task is not Task.GENERATE and not isinstance(prompt, TextPrompt):
            description = f"model {name} does {model.info.task.value}: only a text can be counted"
            raise TaskNotSupported("prompt: " + description, violations=[FieldViolation("prompt", description)])
        check_features(GenerateWork(prompt), model.info.unavailable_features)
        if _units_of(GenerateWork(prompt)) <= self._limits.inline_units:
            ids = prompt_ids(model, prompt, "prompt")
        else:
            ids = await self._off_loop(context, lambda: prompt_ids(model, prompt, "prompt"))
        return ids, model.info.limits.max_context_tokens

    async def _off_loop(self, context: Context, prepare: Callable[[], Answer]) -> Answer:
        left = None if context.deadline is None else context.deadline - self._clock()
        try:
            async with asyncio.timeout(left):
                return await self._threads.run(prepare)
        except TimeoutError:
            raise DeadlineExpired("the deadline passed while the request was being tokenised") from None

    def _prepare(self, model: LoadedModel, request: Request) -> Generation | Encoding:
        self._check_deadlines(request.context)
        check_context(request.context)
        _check_task(model, request.work)
        check_features(request.work, model.info.unavailable_features)
        match request.work:
            case GenerateWork() as work:
                return prepare_generation(model, replace(request, work=self._seeded(work)))
            case EmbedWork() | ScoreWork() as work:
                return prepare_encoding(model, request.context, work)

    def _seeded(self, work: GenerateWork) -> GenerateWork:
        """A sampled generation without a seed gets one; resuming without one is refused later."""
        if work.sampling.temperature == 0 or work.sampling.seed is not None or work.resumed_ids is not None:
            return work
        return replace(work, sampling=replace(work.sampling, seed=self._draw_seed()))

    def _check_deadlines(self, context: Context) -> None:
        now = self._clock()
        for name, deadline in (("timeout", context.deadline), ("first_token_timeout", context.first_token_deadline)):
            if deadline is not None and deadline <= now:
                raise DeadlineExpired(f"context.{name}: no time is left")


def accepted(ready: Generation | Encoding) -> Accepted:
    """What the reader is told first."""
    match ready:
        case Generation():
            seed = ready.sampling.seed if ready.sampling.temperature > 0 else None
            return Accepted(input_token_count=len(ready.prompt_ids), seed=seed)
        case Encoding():
            return Accepted(input_token_count=sum(len(given.token_ids) for given in ready.inputs))


def _check_task(model: LoadedModel, work: Work) -> None:
    asked = _TASK_OF[type(work)]
    if asked is not model.info.task:
        description = f"model {model.info.name} does {model.info.task.value}, not {asked.value}"
        raise TaskNotSupported(f"work: {description}", violations=[FieldViolation("work", description)])


def _units_of(work: Work) -> int:
    """Characters and ids to go through: what preparing takes time for."""
    match work:
        case GenerateWork(prompt=ChatPrompt(messages=messages)):
            units = sum(len(message.content) for message in messages)
        case GenerateWork(prompt=TextPrompt(text=text)):
            units = len(text)
        case GenerateWork(prompt=TokenPrompt(ids=ids)):
            units = len(ids)
        case EmbedWork(texts=texts):
            return sum(map(len, texts))
        case ScoreWork(inputs=inputs):
            return sum(len(given.text) + len(given.text_pair or "") for given in inputs)
    return units + len(work.resumed_ids or ()) + len(work.sampling.logit_bias)


class _BoundedThreads:
    """A thread pool that refuses where the standard one would queue without end."""

    def __init__(self, thread_count: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(thread_count, thread_name_prefix="admission")
        self._room = threading.Semaphore(waiting)
        self._waiting = waiting

    async def run(self, prepare: Callable[[], Answer]) -> Answer:
        if not self._room.acquire(blocking=False):
            raise QueueFull(f"{self._waiting} requests are being tokenised", retry_after=_RETRY_WHEN_BUSY)
        future = self._pool.submit(prepare)
        future.add_done_callback(lambda _: self._room.release())
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
