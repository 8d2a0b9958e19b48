"""Replicas in this process that can be killed, drained and started again under one address."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

from business_svc.link.duplex import Connector, Duplex, DuplexLost
from business_svc.link.grpc_duplex import GrpcConnector
from business_svc.link.in_process_duplex import InProcessConnector
from inference_svc.engine.runner import DeviceLost, Row, SampledToken
from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.requests import Task
from inference_svc.server import InferenceServer, serve
from inference_svc.settings import Settings
from seam.inference.v1.session_pb2 import SessionRequest, SessionResponse

from support.chaos_faults import FaultyConnector, WirePlan
from support.echo import EchoEncoder, EchoRunner, echo_model

TRANSPORTS = ("in_process", "in_process_serialized", "tcp")


class PacedRunner(EchoRunner):
    """An echo whose steps take `pause` seconds, so that faults find something in the middle."""

    def __init__(self, pause: float, slot_count: int) -> None:
        super().__init__(slot_count=slot_count, max_context_tokens=512)
        self.lost = False  # the device is gone, and what it held with it
        self._pause = pause

    def step(self, rows: Sequence[Row]) -> list[SampledToken | None]:
        if self._pause:
            time.sleep(self._pause)
        try:
            return super().step(rows)
        except DeviceLost:
            self.lost = True
            raise


class Host:
    """One replica's address, and the servers that live there one after another."""

    def __init__(self, name: str, transport: str, plan: WirePlan, settings: Settings, slots: int, pause: float) -> None:
        self.name = name
        self.server: InferenceServer | None = None
        self.runners: list[PacedRunner] = []  # of all servers that ever lived here
        self.connector = FaultyConnector(_way(self, transport), plan)
        self._settings = settings
        self._slots = slots
        self._pause = pause
        self._serving: AbstractAsyncContextManager[InferenceServer] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()

    async def start(self) -> None:
        runner = PacedRunner(self._pause, self._slots)
        self.runners.append(runner)  # before anybody can reach it, and it can die
        encoder = EchoEncoder()

        def load(spec: ModelSpec, _: object) -> LoadedModel:
            kind = {Task.GENERATE: runner, Task.EMBED: encoder}.get(spec.task)
            return echo_model(spec.name, spec.task, runner=kind)

        self._serving = serve(self._settings, load=load)
        server = await self._serving.__aenter__()
        await server.ready()
        self.server = server
        self._keeper = asyncio.create_task(self._replace_when_dead(server), name="keeper")

    async def stop(self) -> None:
        self.server, serving, self._serving = None, self._serving, None
        keeper, self._keeper = self._keeper, None
        if keeper is not None and keeper is not asyncio.current_task():
            keeper.cancel()
            await asyncio.wait([keeper])
            if not keeper.cancelled():
                keeper.result()
        if serving is not None:
            await serving.__aexit__(None, None, None)

    async def close(self) -> None:
        """For good: whoever is replacing a server is let end first, or the new one would be nobody's."""
        async with self._changing:
            await self.stop()

    async def die_and_return(self) -> None:
        """As kill -9 and a supervisor: connections break at once, a new process comes at the same address."""
        async with self._changing:
            self.connector.sever()
            await self.stop()
            await self.start()

    async def drain_and_return(self) -> None:
        """As a rolling restart does."""
        async with self._changing:
            await self._leave_and_return()

    async def _leave_and_return(self) -> None:
        if self.server is not None:
            await self.server.drain(0.2)
        await self.stop()
        await self.start()

    async def stop_and_continue(self, seconds: float) -> None:
        """As SIGSTOP and SIGCONT: nothing is computed, nothing passes, and then all of it does."""
        async with self._changing:
            gate = self.runners[-1].gate
            gate.shut()
            self.connector.passes.clear()
            try:
                await asyncio.sleep(seconds)
            finally:
                gate.open()
                self.connector.passes.set()

    async def _replace_when_dead(self, server: InferenceServer) -> None:
        """As the process does when its engine has died, and its supervisor."""
        await server.died()
        async with self._changing:
            if self.server is server:
                await self._leave_and_return()

    @property
    def engine_deaths(self) -> int:
        return sum(runner.lost for runner in self.runners)

    @property
    def idle(self) -> bool:
        """Nothing of any request is left here, dead servers included."""
        return not any(runner.open_slots for runner in self.runners if not runner.lost) and (
            self.server is None or not self.server.engine.live_request_count
        )


def _way(host: Host, transport: str) -> Connector:
    if transport == "tcp":
        return _MovingConnector(host)

    def session(frames: AsyncIterator[SessionRequest]) -> AsyncGenerator[SessionResponse, None]:
        if host.server is None:
            raise ConnectionRefusedError(f"{host.name} is down")
        return host.server.session_service.session(frames)

    return InProcessConnector(session, serialize=transport == "in_process_serialized", address=host.name)


class _MovingConnector:
    """Over TCP, to the port that the host has at the moment."""

    hop = 0.0

    def __init__(self, host: Host) -> None:
        self._host = host
        self.address = host.name

    async def connect(self) -> Duplex:
        if self._host.server is None:
            raise DuplexLost(f"{self.address} is down")
        return await GrpcConnector(self._host.server.address).connect()
