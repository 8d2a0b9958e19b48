"""Where other threads hand requests to the model thread: the one lock of the engine is here.

What is decided under it is decided from facts: bounds at each model's door, which requests live, whether work is
taken at all. Nothing is computed under it.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from inference_svc.engine.door import Door, Facts, Need
from inference_svc.engine.tally import Tally
from inference_svc.errors import DuplicateRequest, ModelBusy, ModelNotFound, SeamError, TaskNotSupported
from inference_svc.requests import Encoding, Event, Failed, Finished, Generation, ModelTotals, Priority, Task

_LONGEST_WAIT = 3600.0  # seconds; a deadline may be further away than a lock can wait
_WORK_OF = {Task.GENERATE: Generation, Task.EMBED: Encoding, Task.SCORE: Encoding}


class Outlet(Protocol):
    """Where the news of requests goes: one for each session or call."""

    def deliver(self, events: Sequence[tuple[int, Event]]) -> None:
        """Called on the model thread, at most once a step, with all that the step brought to this outlet's requests
        as (request id, event). Must not block; what it raises ends the outlet's requests."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """One live request. `key` is unique for the engine's life."""

    key: int
    outlet: Outlet
    request_id: int
    model: str


@dataclass(frozen=True, slots=True)
class Submit:
    ticket: Ticket
    work: Generation | Encoding
    arrived: float


@dataclass(frozen=True, slots=True)
class Cancel:
    ticket: Ticket
    asked: float


@dataclass(frozen=True, slots=True)
class Forget:
    """As Cancel, but nobody is left to be told."""

    ticket: Ticket
    asked: float


@dataclass(frozen=True, slots=True)
class Grant:
    ticket: Ticket
    credits: int


@dataclass(frozen=True, slots=True)
class Errand:
    """Anything else that the model thread is to do, in its turn among the requests; `abandon` is called instead, on
    whatever thread, where the model thread is no more."""

    run: Callable[[], list[tuple[int, Event]]]
    abandon: Callable[[], None] = lambda: None


Command = Submit | Cancel | Forget | Grant | Errand


@dataclass(slots=True)
class _Users:
    """A model's live requests; when the last of them ended, and who waits for that."""

    since: float
    count: int = 0
    awaiting_none: "list[Future[None]]" = field(default_factory=list)


class Desk:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._commands: list[Command] = []  # bounded: submits by the doors, at most one cancel for each that lives
        self._grants: dict[int, Grant] = {}  # by key; grants not yet heard are added up
        self._cancelled: set[int] = set()  # keys
        self._shut = False
        self._doors: dict[str, tuple[Door, Task]] = {}
        self._live: dict[int, dict[int, Ticket]] = {}  # by outlet, then request id
        self._by_key: dict[int, Ticket] = {}
        self._users: dict[str, _Users] = {}  # by model
        self._tallies: dict[str, Tally] = {}  # by model
        self._refusal: SeamError | None = None
        self._nudged = False
        self._keys = 0

    # --- any thread -------------------------------------------------------------------------------------------------

    def submit(self, outlet: Outlet, request_id: int, work: Generation | Encoding, now: float) -> None:
        need = Need.of(work)
        with self._changed:
            if self._refusal is not None:
                raise _again(self._refusal)
            door, task = self._door(work.model)
            if not isinstance(work, _WORK_OF[task]):
                raise TaskNotSupported.of_field("work", f"model {work.model} does {task.value}")
            mine = self._live.get(id(outlet), {})
            if request_id in mine:
                raise DuplicateRequest.of_field("request_id", f"request {request_id} is live")
            door.enter(need, work.context, now)
            self._keys += 1
            ticket = Ticket(self._keys, outlet, request_id, work.model)
            self._live.setdefault(id(outlet), {})[request_id] = ticket
            self._by_key[ticket.key] = ticket
            self._users[work.model].count += 1
            self._put(Submit(ticket, work, now))

    def cancel(self, outlet: Outlet, request_id: int) -> None:
        with self._changed:
            ticket = self._live.get(id(outlet), {}).get(request_id)
            if ticket is not None and ticket.key not in self._cancelled:
                self._cancelled.add(ticket.key)
                self._put(Cancel(ticket, self._clock()))

    def grant(self, outlet: Outlet, request_id: int, credits: int) -> None:
        with self._changed:
            ticket = self._live.get(id(outlet), {}).get(request_id)
            if ticket is not None:
                before = self._grants.get(ticket.key)
                self._grants[ticket.key] = Grant(ticket, credits + (before.credits if before else 0))
                self._changed.notify_all()

    def close_outlet(self, outlet: Outlet) -> None:
        """Nothing more is delivered to it, but what is being delivered this moment."""
        with self._changed:
            for ticket in list(self._live.get(id(outlet), {}).values()):
                self._strike_off(ticket)
                self._put(Forget(ticket, self._clock()))

    def open_door(self, name: str, task: Task, door: Door, errand: Errand) -> None:
        """What comes through the door finds the errand done. Raises ValueError where the name is taken."""
        with self._changed:
            if name in self._doors:
                raise ValueError(f"a model {name!r} is here already")
            self._doors[name] = (door, task)
            self._tallies[name] = Tally()
            self._users.setdefault(name, _Users(self._clock())).since = self._clock()
            self._put(errand)

    def close_door(self, name: str, errand: Errand) -> None:
        """The errand finds all that came through the door."""
        with self._changed:
            self._doors.pop(name, None)
            self._tallies.pop(name, None)
            if name in self._users and not self._users[name].count:
                del self._users[name]
            self._put(errand)

    def fall_asleep(self, name: str, wake_seconds: float, errand: Errand) -> None:
        """Nothing of the model lives when the errand is run, and what comes afterwards waits longer. Raises
        ModelNotFound, ModelBusy."""
        with self._changed:
            door, _ = self._door(name)
            if count := self._users[name].count:
                raise ModelBusy(f"model {name} has {count} live requests")
            door.fall_asleep(wake_seconds)
            self._put(errand)

    def stir(self, name: str) -> None:
        with self._changed:
            if name in self._doors:
                self._doors[name][0].stir(self._clock())

    def wake(self, name: str, facts: Facts, most_tokens: int | None) -> None:
        """On the model thread, in the errand that woke the model."""
        with self._changed:
            if name in self._doors:
                self._doors[name][0].wake(facts, most_tokens)

    def is_asleep(self, name: str) -> bool:
        with self._changed:
            return name in self._doors and self._doors[name][0].asleep

    def unused_for(self, name: str) -> float | None:
        """Seconds; None while requests of the model live."""
        with self._changed:
            users = self._users.get(name)
            return None if users is None or users.count else self._clock() - users.since

    def unused(self, name: str) -> "Future[None]":
        """Done once no request of the model lives. Cancel it where that is no longer waited for."""
        future: Future[None] = Future()
        with self._changed:
            users = self._users.get(name)
            if users is None or not users.count:
                future.set_result(None)
            else:
                users.awaiting_none = [each for each in users.awaiting_none if not each.cancelled()] + [future]
        return future

    def totals(self) -> tuple[ModelTotals, ...]:
        """Of every model that has a door."""
        with self._changed:
            return tuple(
                self._tallies[name].told(name, door.facts.waiting.sequences) for name, (door, _) in self._doors.items()
            )

    def live_count_of(self, name: str) -> int:
        with self._changed:
            return self._users[name].count if name in self._users else 0

    def run(self, errand: Errand) -> None:
        with self._changed:
            self._put(errand)

    def refuse_all(self, error: SeamError) -> None:
        """From now on nothing is taken; every submit raises such an error. A later call replaces the error."""
        with self._changed:
            self._refusal = error

    def nudge(self) -> None:
        """Let the model thread look around, even if it does so this moment: its next wait is none."""
        with self._changed:
            self._nudged = True
            self._changed.notify_all()

    def wait_until_empty(self, timeout: float | None) -> bool:
        """Whether nothing lives any more."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._by_key, timeout)

    @property
    def live_count(self) -> int:
        return len(self._by_key)

    def live_keys(self) -> list[int]:
        with self._changed:
            return list(self._by_key)

    # --- the model thread -------------------------------------------------------------------------------------------

    def take(self) -> list[Command]:
        """All that came since the last call, in order. Never waits."""
        with self._changed:
            commands, self._commands = [*self._commands, *self._grants.values()], []
            self._grants.clear()
            for door, _ in self._doors.values():
                door.handed_over()
            return commands

    def wait(self, timeout: float | None) -> None:
        """Returns when something came, at the time-out, or after an hour."""
        most = _LONGEST_WAIT if timeout is None else min(timeout, _LONGEST_WAIT)
        with self._changed:
            self._changed.wait_for(lambda: bool(self._commands or self._grants) or self._nudged, most)
            self._nudged = False

    def learn(self, facts: Mapping[str, Facts]) -> dict[str, float]:
        """What the step left. Returns each model's wait for a request of normal priority."""
        with self._changed:
            waits: dict[str, float] = {}
            now = self._clock()
            for name, (door, _) in self._doors.items():
                if name in facts:
                    door.learn(facts[name])
                    waits[name] = door.predicted_wait(Priority.NORMAL, now)
            return waits

    def settle(self, news: Iterable[tuple[int, Event]]) -> list[tuple[Outlet, list[tuple[int, Event]]]]:
        """Sort news by outlet, and strike off what ended. News of outlets that are closed is dropped."""
        by_outlet: dict[int, tuple[Outlet, list[tuple[int, Event]]]] = {}
        with self._changed:
            for key, event in news:
                ticket = self._by_key.get(key)
                if ticket is None:
                    continue
                by_outlet.setdefault(id(ticket.outlet), (ticket.outlet, []))[1].append((ticket.request_id, event))
                if ticket.model in self._tallies:
                    self._tallies[ticket.model].note(event)
                if isinstance(event, Finished | Failed):
                    self._strike_off(ticket)
        return list(by_outlet.values())

    def shut(self) -> None:
        """The model thread hears nothing more."""
        with self._changed:
            self._shut = True
            commands, self._commands = self._commands, []
        for command in commands:
            if isinstance(command, Errand):
                command.abandon()

    def _put(self, command: Command) -> None:
        if self._shut:
            if isinstance(command, Errand):
                command.abandon()
            return
        self._commands.append(command)
        self._changed.notify_all()

    def _strike_off(self, ticket: Ticket) -> None:
        del self._by_key[ticket.key]
        self._cancelled.discard(ticket.key)
        self._grants.pop(ticket.key, None)
        self._left(ticket.model)
        mine = self._live[id(ticket.outlet)]
        del mine[ticket.request_id]
        if not mine:
            del self._live[id(ticket.outlet)]
        if not self._by_key:
            self._changed.notify_all()

    def _left(self, name: str) -> None:
        users = self._users[name]
        users.count -= 1
        if users.count:
            return
        users.since = self._clock()
        if name not in self._doors:
            del self._users[name]
        for future in users.awaiting_none:
            with suppress(InvalidStateError):  # nobody waits any more
                future.set_result(None)

    def _door(self, name: str) -> tuple[Door, Task]:
        found = self._doors.get(name)
        if found is None:
            raise ModelNotFound.of_field("model", f"no model {name[:100]!r} is served here")
        return found


def _again(error: SeamError) -> SeamError:
    """An error of its own for each request: a raised one gathers tracebacks."""
    return type(error)(error.message, violations=error.violations, retry_after=error.retry_after)
