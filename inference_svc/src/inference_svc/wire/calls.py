"""One request, one call: the engine's answers to it as a stream. No grpc here."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from inference_svc.answering import Admits, Answers
from inference_svc.errors import Cancelled, Draining
from inference_svc.observing import UNOBSERVED, Arrival, RequestObserver
from inference_svc.requests import (
    Accepted,
    EmbedWork,
    Event,
    Failed,
    Finished,
    GenerateWork,
    Request,
    Scores,
    ScoreWork,
    Tokens,
    Vectors,
)

WINDOW = 64  # tokens generated ahead of a reader
_GONE = Failed(Cancelled("the caller went away"))
_TASKS = {GenerateWork: "generate", EmbedWork: "embed", ScoreWork: "score"}
_THE_ONE = 0  # a call has one request, so its id means nothing
Answer = Accepted | Tokens | Vectors | Scores | Finished


@dataclass(slots=True, eq=False)
class Calls:
    """Runs requests that come one call at a time. Owned by the event loop. `leaving` is set for good when no more are
    taken."""

    engine: Answers[Any]
    admission: Admits[Any]
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    observer: RequestObserver = UNOBSERVED

    async def answers(self, request: Request) -> AsyncGenerator[Answer, None]:
        """Accepted first, Finished last; raises the request's SeamError. Tokens that the consumer came back from are
        granted anew, so one that does not come back stops the generation. Consume under `aclosing`: closing it before
        the end cancels the request."""
        watch = self.observer.received(_arrival_of(request))
        outlet = _CallOutlet()
        try:
            if self.leaving.is_set():
                raise Draining("this replica takes no new work")
            if isinstance(request.work, GenerateWork):
                request = replace(request, credits=WINDOW)
            ready = await self.admission.admit(request)
            watch.admitted()
            self.engine.submit(outlet, _THE_ONE, ready)
            yield self.admission.accepted(ready)
            while True:
                for event in await outlet.next():
                    if isinstance(event, Failed):
                        raise event.error
                    if isinstance(event, Finished):
                        watch.ended(event)
                    yield event
                    if isinstance(event, Finished):
                        return
                    if isinstance(event, Tokens) and event.ids:
                        self.engine.grant(outlet, _THE_ONE, len(event.ids))
        except Exception as error:
            watch.ended(Failed(error))
            raise
        finally:
            watch.ended(_GONE)
            self.engine.close_outlet(outlet)


def _arrival_of(request: Request) -> Arrival:
    work, context = request.work, request.context
    return Arrival(
        way="call",
        model=request.model,
        task=_TASKS[type(work)],
        tenant=context.tenant,
        traceparent=context.traceparent,
        tracestate=context.tracestate,
        given=len(work.resumed_ids or ()) if isinstance(work, GenerateWork) else 0,
    )


class _CallOutlet:
    """Bounded by the window for a generation, by the request's own texts otherwise."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: list[Event] = []
        self._news = asyncio.Event()

    def deliver(self, events: Sequence[tuple[int, Event]]) -> None:
        """On the model thread, once a step."""
        with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(self._take, events)

    def _take(self, events: Sequence[tuple[int, Event]]) -> None:
        self._events.extend(event for _, event in events)
        self._news.set()

    async def next(self) -> list[Event]:
        """What came since the last time; waits for it. The request's own deadline, which the engine keeps, bounds the
        wait."""
        await self._news.wait()
        self._news.clear()
        events, self._events = self._events, []
        return events
