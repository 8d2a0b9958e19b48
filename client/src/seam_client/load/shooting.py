"""Sends a schedule, open loop: each request leaves when it is due, or never; nothing waits for an answer."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from seam_client.load.outcome import Outcome
from seam_client.load.schedule import Shot, text_of
from seam_client.load.sending import Clock, Sender

_LAG_TICK = 0.05


@dataclass(frozen=True, slots=True)
class Rules:
    """`deadline`: seconds from when a request is due to its whole answer; sent with it. `max_in_flight`: what is due
    while so many are unanswered is counted and never sent. `drain`: seconds that answers may take after the last
    arrival; what is unanswered then is given up."""

    deadline: float | None = None
    max_in_flight: int = 1000
    drain: float = 30.0


@dataclass(slots=True)
class Shooting:
    """What came of a schedule, and how busy this side was with it: an own `cpu` share above 0.8 of a core, or an event
    loop that runs late, means that the figures tell of the client. `lags` are seconds by which timers came late."""

    outcomes: list[Outcome] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    cpu: float = 0.0


async def shoot(
    sender: Sender, shots: Sequence[tuple[int, Shot]], rules: Rules, *, start: float | None = None
) -> Shooting:
    """`start` is a moment of time.time() at which the schedule begins, so that several processes begin as one."""
    done = Shooting()
    begin = time.monotonic() + (0.0 if start is None else max(0.0, start - time.time()))

    def clock() -> float:
        return time.monotonic() - begin

    texts = [text_of(shot, number) for number, shot in shots]  # before the clock runs: it takes CPU
    flying: set[asyncio.Task[None]] = set()
    lagging = asyncio.create_task(_watch_lag(done.lags))
    try:
        await asyncio.sleep(max(0.0, -clock()))
        cpu, wall = time.process_time(), time.monotonic()
        for (_, shot), text in zip(shots, texts, strict=True):
            if (early := shot.at - clock()) > 0:
                await asyncio.sleep(early)
            outcome = Outcome(shot.at, shot.kind)
            done.outcomes.append(outcome)
            if len(flying) < rules.max_in_flight:
                flight = asyncio.create_task(_fly(sender, shot, text, outcome, rules.deadline, clock))
                flying.add(flight)
                flight.add_done_callback(flying.discard)
        done.cpu = (time.process_time() - cpu) / max(time.monotonic() - wall, 1e-9)
        if flying:
            await asyncio.wait(flying, timeout=rules.drain)
    finally:
        for task in (*flying, lagging):
            task.cancel()
        await asyncio.gather(*flying, lagging, return_exceptions=True)
    return done


async def _fly(sender: Sender, shot: Shot, text: str, outcome: Outcome, deadline: float | None, clock: Clock) -> None:
    outcome.sent = clock()
    left = None if deadline is None else deadline - (outcome.sent - outcome.due)
    if left is not None and left <= 0:
        outcome.code, outcome.end = "DEADLINE_EXCEEDED", outcome.sent
        return
    try:
        await sender.send(shot, text, outcome, left, clock)
    except asyncio.CancelledError:
        outcome.code, outcome.end = "UNFINISHED", clock()
        raise


async def _watch_lag(lags: list[float]) -> None:
    while True:
        before = time.monotonic()
        await asyncio.sleep(_LAG_TICK)
        lags.append(time.monotonic() - before - _LAG_TICK)
