"""Finding a replica for a request, now or within its time."""

import asyncio
import random
from collections.abc import Callable, Sequence

from business_svc.domain.inference import Context
from business_svc.errors import Reason, SeamError, bad_field
from business_svc.link.journey import Journey
from business_svc.link.membership import Member, Membership
from business_svc.link.picker import Chosen, Nobody, Overloaded, Picker
from business_svc.link.prefix import Prefix

_RETRY_AFTER = 1.0
_SOONEST = 0.01  # whatever a replica says
_RECHECK = 0.25  # a draining replica that comes back, or a queue that empties, tells nobody


class Placing:
    """The only place where requests wait on this side: for a replica when none is there, and in the middle of an answer
    for one with room. At most `most_waiting` do; a request that has not begun does not wait for room."""

    def __init__(self, members: Membership, picker: Picker, patience: float, most_waiting: int) -> None:
        self._members = members
        self._picker = picker
        self._patience = patience
        self._most_waiting = most_waiting
        self._waiting = 0
        self._change = asyncio.Event()
        self._closed = False
        self._opened = 0.0

    def changed(self) -> None:
        """A replica came; whoever waits looks again."""
        self._change.set()
        self._change = asyncio.Event()

    def open(self) -> None:
        self._opened = asyncio.get_running_loop().time()

    def close(self) -> None:
        """Whoever waits is told that nobody will come."""
        self._closed = True
        self.changed()

    async def until(self, true: Callable[[], bool]) -> None:
        while not true():
            await self._change.wait()

    async def find(self, model: str, context: Context, journey: Journey, prefixes: Sequence[Prefix]) -> Member:
        """An open replica; nothing runs between its choice and the return. Raises SeamError."""
        loop = asyncio.get_running_loop()
        until = context.deadline if context.deadline is not None else loop.time() + self._patience
        while True:
            found = self._look(model, journey, prefixes, loop.time())
            if isinstance(found, Member):
                return found
            left = until - loop.time()
            if left <= 0 or self._closed:
                raise found
            await self._wait(min(left, _pause(found)))

    def _look(self, model: str, journey: Journey, prefixes: Sequence[Prefix], now: float) -> Member | SeamError:
        """A replica, or what to say when the time is up. Raises what need not wait for that."""
        if self._closed:
            raise _nobody(model)
        standings = [member.standing(model) for member in self._members if member.serves(model)]
        if not standings:
            self._check_known(model, journey, now)
        decision = self._picker.choose(
            model, standings, now, prefixes=prefixes, avoided=journey.avoided, chance=random.random()
        )
        match decision:
            case Chosen(address):
                return self._members[address]
            case Overloaded(retry_after):
                error = journey.refusal or SeamError(
                    Reason.QUEUE_FULL, f"every replica that serves {model!r} is full", retry_after=retry_after
                )
            case Nobody():
                error = journey.refusal or _nobody(model)
        if not journey.started and error.reason is not Reason.NO_REPLICA:
            raise error
        journey.avoided.clear()
        return error

    def _check_known(self, model: str, journey: Journey, now: float) -> None:
        """A name that no replica serves is the caller's mistake, unless a replica may yet come that serves it, or one
        did when the request departed."""
        if journey.departed:
            if all(member.open for member in self._members):
                raise _nobody(model)
            return
        welcomed = [member.welcomed for member in self._members]
        if any(welcomed) and (all(welcomed) or now - self._opened >= self._patience):
            raise bad_field("model", f"no replica serves a model named {model!r}", Reason.MODEL_NOT_FOUND)

    async def _wait(self, seconds: float) -> None:
        if self._waiting >= self._most_waiting:
            raise SeamError(
                Reason.QUEUE_FULL, f"{self._waiting} requests wait for a replica already", retry_after=_RETRY_AFTER
            )
        self._waiting += 1
        try:
            async with asyncio.timeout(seconds):
                await self._change.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting -= 1


def _pause(error: SeamError) -> float:
    return min(_RECHECK, max(_SOONEST, error.retry_after or _RECHECK)) * random.uniform(0.5, 1.0)


def _nobody(model: str) -> SeamError:
    return SeamError(Reason.NO_REPLICA, f"no replica for {model!r} is there", retry_after=_RETRY_AFTER)
