"""Ways to one replica that break when a plan says so, over any duplex."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from business_svc.link.duplex import Connector, Duplex, DuplexLost
from seam.inference.v1.session_pb2 import SessionRequest, SessionResponse

_Result = TypeVar("_Result")


class WireFault(Enum):
    DROP_BEFORE = "the connection breaks and the frame is lost"
    DROP_AFTER = "the frame arrives, then the connection breaks"
    STALL = "nothing passes any more, and nobody is told"
    DELAY = "the frame comes late"


@dataclass
class WirePlan:
    """What happens on the way to one replica. `fragility` is the chance of a fault at each frame, `refusals` how many
    tries to connect in a row fail now and then; `faults_left` bounds the whole."""

    chance: random.Random
    tell: Callable[[str], None]
    fragility: float = 0.0
    refusals: int = 0
    faults_left: int = 0
    deaths: int = field(default=0, init=False)  # sessions that broke by this plan

    def at_frame(self) -> WireFault | None:
        if not self.faults_left or self.chance.random() >= self.fragility:
            return None
        self.faults_left -= 1
        fault = self.chance.choice(list(WireFault))
        self.deaths += fault is not WireFault.DELAY
        self.tell(fault.value)
        return fault

    def refuses(self) -> bool:
        if not self.refusals or self.chance.random() < 0.5:
            return False
        self.refusals -= 1
        return True


class FaultyConnector:
    """`sever` breaks every session that goes through it, as when the replica's process dies."""

    def __init__(self, inner: Connector, plan: WirePlan) -> None:
        self.plan = plan
        self.passes = asyncio.Event()  # cleared while the replica's process is stopped: nothing is lost, nothing moves
        self.passes.set()
        self._inner = inner
        self._open: set[FaultyDuplex] = set()

    @property
    def address(self) -> str:
        return self._inner.address

    @property
    def hop(self) -> float:
        return self._inner.hop

    async def connect(self) -> "FaultyDuplex":
        if self.plan.refuses():
            self.plan.tell("a connection is refused")
            raise DuplexLost("the plan refuses this connection")
        duplex = FaultyDuplex(await self._inner.connect(), self.plan, self.passes)
        self._open.add(duplex)
        duplex.closed = lambda: self._open.discard(duplex)
        return duplex

    def sever(self) -> None:
        for duplex in self._open:
            duplex.broken.set()


class FaultyDuplex:
    def __init__(self, inner: Duplex, plan: WirePlan, passes: asyncio.Event) -> None:
        self._inner = inner
        self._plan = plan
        self._passes = passes
        self._stalled = asyncio.Event()
        self.broken = asyncio.Event()
        self.closed: Callable[[], None] = lambda: None

    async def send(self, frame: SessionRequest) -> None:
        fault = await self._meet_fault()
        if self._stalled.is_set():
            await self.broken.wait()
        await self._or_broken(self._passes.wait())
        if fault is WireFault.DROP_BEFORE or self.broken.is_set():
            raise self._break()
        await self._inner.send(frame)
        if fault is WireFault.DROP_AFTER:
            raise self._break()

    async def receive(self) -> SessionResponse | None:
        frame = await self._or_broken(self._inner.receive())
        await self._or_broken(self._passes.wait())
        fault = await self._meet_fault()
        if self._stalled.is_set():
            await self.broken.wait()
        if fault is WireFault.DROP_BEFORE or self.broken.is_set():
            raise self._break()
        if fault is WireFault.DROP_AFTER:
            self.broken.set()
        return frame

    async def aclose(self) -> None:
        self.closed()
        await self._inner.aclose()

    async def _meet_fault(self) -> WireFault | None:
        if self.broken.is_set():
            raise self._break()
        fault = self._plan.at_frame()
        if fault is WireFault.DELAY:
            await asyncio.sleep(self._plan.chance.uniform(0, 0.02))
        elif fault is WireFault.STALL:
            self._stalled.set()
        return fault

    async def _or_broken(self, awaited: Coroutine[Any, Any, _Result]) -> _Result:
        """What is awaited, unless the connection breaks first."""
        reading = asyncio.ensure_future(awaited)
        breaking = asyncio.ensure_future(self.broken.wait())
        try:
            await asyncio.wait((reading, breaking), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                raise self._break()
            return await reading
        finally:
            for task in (reading, breaking):
                task.cancel()
            await asyncio.gather(reading, breaking, return_exceptions=True)

    def _break(self) -> DuplexLost:
        self.broken.set()
        return DuplexLost("the plan broke the connection")
