"""Answers from a recording as an engine would: at a pace, within credits, until a cancel or a deadline."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from inference_svc.catalogue import Catalogue
from inference_svc.engine.desk import Outlet
from inference_svc.errors import Cancelled, DeadlineExpired, FeatureNotAvailable
from inference_svc.replaying.answers import Answer, Answers, Moment
from inference_svc.requests import (
    Accepted,
    Context,
    Event,
    Failed,
    Finished,
    GenerateWork,
    ModelLoad,
    ModelTotals,
    Prompt,
    Request,
    Tokens,
)


class Pace(StrEnum):
    RECORDED = "recorded"  # as far apart as it was
    FAST = "fast"  # as fast as it is read


@dataclass(frozen=True, slots=True)
class Playback:
    """What is still to be told to one request; `credits` None is no limit."""

    model: str
    context: Context
    credits: int | None
    accepted: Accepted
    moments: tuple[Moment, ...]


class ReplayAdmission:
    """Admits what was recorded."""

    def __init__(self, catalogue: Catalogue, answers: Answers, clock: Callable[[], float]) -> None:
        self._catalogue = catalogue
        self._answers = answers
        self._clock = clock

    def is_quick(self, request: Request) -> bool:
        return True

    def admit_now(self, request: Request) -> Playback:
        """Raises FeatureNotAvailable where nothing was recorded, and the recorded refusal where there was one."""
        self._catalogue.entry(request.model)
        if request.context.deadline is not None and request.context.deadline <= self._clock():
            raise DeadlineExpired("context.timeout: no time is left")
        answer = self._answers.find(request)
        if answer.accepted is None:
            raise _refusal(answer)
        given = request.work.resumed_ids if isinstance(request.work, GenerateWork) else None
        count = len(given or ())
        accepted = replace(answer.accepted, input_token_count=answer.accepted.input_token_count + count)
        return Playback(request.model, request.context, request.credits, accepted, tuple(_after(answer.moments, count)))

    async def admit(self, request: Request) -> Playback:
        return self.admit_now(request)

    def accepted(self, ready: Playback) -> Accepted:
        return ready.accepted

    async def count(self, name: str, prompt: Prompt, context: Context) -> tuple[list[int], int]:
        self._catalogue.entry(name)
        raise FeatureNotAvailable("a recording has no tokenizer: nothing can be counted here")


@dataclass(slots=True, eq=False)
class _Playing:
    """One request while it is answered."""

    playback: Playback
    granted: asyncio.Event
    credits: int | None
    task: asyncio.Task[None] | None = None


class ReplayEngine:
    """Stands where the engine does. Owned by the event loop, and everything of it runs there."""

    def __init__(self, pace: Pace, clock: Callable[[], float]) -> None:
        self._pace = pace
        self._clock = clock
        self._playing: dict[tuple[Outlet, int], _Playing] = {}

    @property
    def alive(self) -> bool:
        """Always: nothing is computed that could fail for good."""
        return True

    def submit(self, outlet: Outlet, request_id: int, work: Playback) -> None:
        playing = self._playing[outlet, request_id] = _Playing(work, asyncio.Event(), work.credits)
        playing.task = asyncio.create_task(self._play(outlet, request_id, playing), name="replay of a request")
        playing.task.add_done_callback(lambda _: self._forget(outlet, request_id, playing))

    def cancel(self, outlet: Outlet, request_id: int) -> None:
        playing = self._playing.pop((outlet, request_id), None)
        if playing is not None and playing.task is not None:
            playing.task.cancel()
            outlet.deliver([(request_id, Failed(Cancelled("the caller cancelled")))])

    def grant(self, outlet: Outlet, request_id: int, credits: int) -> None:
        playing = self._playing.get((outlet, request_id))
        if playing is not None and playing.credits is not None:
            playing.credits += credits
            playing.granted.set()

    def close_outlet(self, outlet: Outlet) -> None:
        for key in [key for key in self._playing if key[0] is outlet]:
            playing = self._playing.pop(key)
            if playing.task is not None:
                playing.task.cancel()

    def loads(self) -> list[ModelLoad]:
        running = Counter(playing.playback.model for playing in self._playing.values())
        return [ModelLoad(model, running_sequence_count=count) for model, count in running.items()]

    def totals(self) -> tuple[ModelTotals, ...]:
        """Nothing: no model of its own does anything here."""
        return ()

    def idle_seconds(self) -> dict[str, float]:
        return {}

    def _forget(self, outlet: Outlet, request_id: int, playing: _Playing) -> None:
        if self._playing.get((outlet, request_id)) is playing:
            del self._playing[outlet, request_id]

    async def _play(self, outlet: Outlet, request_id: int, playing: _Playing) -> None:
        context, loop = playing.playback.context, asyncio.get_running_loop()

        def until(*moments: float | None) -> float | None:
            """The first of these moments of our clock, as one of the loop's."""
            known = [moment for moment in moments if moment is not None]
            return loop.time() + min(known) - self._clock() if known else None

        try:
            async with asyncio.timeout_at(until(context.deadline, context.first_token_deadline)) as bound:
                began = loop.time()
                for moment in playing.playback.moments:
                    if self._pace is Pace.RECORDED and began + moment.at > loop.time():
                        await asyncio.sleep(began + moment.at - loop.time())
                    await self._tell(outlet, request_id, moment.event, playing)
                    bound.reschedule(until(context.deadline))
        except TimeoutError:
            outlet.deliver([(request_id, Failed(DeadlineExpired("the deadline passed")))])

    async def _tell(self, outlet: Outlet, request_id: int, event: Event, playing: _Playing) -> None:
        """As much at once as there are credits for; the text of several tokens goes with the last."""
        if isinstance(event, Tokens):
            while playing.credits is not None and len(event.ids) > playing.credits:
                if playing.credits:
                    now, event = _split(event, playing.credits)
                    playing.credits = 0
                    outlet.deliver([(request_id, now)])
                playing.granted.clear()
                await playing.granted.wait()
            if playing.credits is not None:
                playing.credits -= len(event.ids)
        outlet.deliver([(request_id, event)])


def _split(event: Tokens, count: int) -> tuple[Tokens, Tokens]:
    """The first `count` ids without text, and the rest with it."""
    first = replace(event, ids=event.ids[:count], text="", logprobs=event.logprobs[:count])
    return first, replace(event, ids=event.ids[count:], logprobs=event.logprobs[count:], prompt_logprobs=())


def _after(moments: tuple[Moment, ...], count: int) -> Iterator[Moment]:
    """What follows the first `count` tokens, counted from the moment of the last of them. The text of several tokens
    told at once goes with the last."""
    left, base = count, 0.0
    for moment in moments:
        event = moment.event
        if left and isinstance(event, Tokens):
            skipped = min(left, len(event.ids))
            left -= skipped
            if not left:
                base = moment.at
            if skipped == len(event.ids):
                continue
            event = _split(event, skipped)[1]
        elif isinstance(event, Finished):
            usage = replace(event.usage, output_token_count=max(0, event.usage.output_token_count - count))
            event = replace(event, usage=usage)
        yield Moment(moment.at - base, event)


def _refusal(answer: Answer) -> Exception:
    end = answer.moments[-1].event
    assert isinstance(end, Failed)  # what finished was accepted before
    return end.error
