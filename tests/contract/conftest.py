"""One suite, every way that business and inference may be joined. A test takes `world` and is run once for each."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from business_svc.link.duplex import Connector, Duplex
from business_svc.link.grpc_duplex import GrpcConnector
from business_svc.link.in_process_duplex import InProcessConnector
from business_svc.link.pool import Pool, PoolSettings
from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.requests import Task
from inference_svc.server import InferenceServer, serve
from inference_svc.settings import Settings
from seam_local.certificates import make_link_certificates
from support.certificates import link_files, link_settings
from support.echo import EchoEncoder, EchoRunner, Gate, echo_model

TRANSPORTS = ("in_process", "in_process_serialized", "unix", "tcp", "mtls", "pool_of_two")


@dataclass(frozen=True)
class Replica:
    """One inference server on echo models, and the way to it."""

    server: InferenceServer
    connector: Connector
    runner: EchoRunner
    encoder: EchoEncoder
    gate: Gate


@dataclass(frozen=True)
class World:
    """A pool, and the replicas behind it; most tests ask the first."""

    pool: Pool
    replicas: tuple[Replica, ...]

    @property
    def runner(self) -> EchoRunner:
        return self.replicas[0].runner

    def shut_gates(self) -> None:
        for replica in self.replicas:
            replica.gate.shut()

    def open_gates(self) -> None:
        for replica in self.replicas:
            replica.gate.open()

    @property
    def open_slots(self) -> int:
        return sum(len(replica.runner.open_slots) for replica in self.replicas)

    async def duplex(self) -> Duplex:
        """A raw session's frames to the first replica."""
        return await self.replicas[0].connector.connect()


def _loader(runner: EchoRunner, encoder: EchoEncoder) -> Callable[[ModelSpec, Callable[[str], None]], LoadedModel]:
    def load(spec: ModelSpec, progress: Callable[[str], None]) -> LoadedModel:
        progress(f"{spec.name}: an echo")
        match spec.task:
            case Task.GENERATE:
                return echo_model(spec.name, spec.task, runner=runner)
            case Task.EMBED:
                return echo_model(spec.name, spec.task, runner=encoder)
            case Task.SCORE:
                return echo_model(spec.name, spec.task)

    return load


@asynccontextmanager
async def replica(transport: str, folder: Path) -> AsyncIterator[Replica]:
    """A served replica, reached as `transport` says."""
    gate = Gate()
    runner, encoder = EchoRunner(slot_count=8, gate=gate), EchoEncoder(gate=gate)
    listen = {"unix": f"unix:{folder}/replica.sock", "tcp": "127.0.0.1:0", "mtls": "127.0.0.1:0"}.get(transport, "")
    certificates = make_link_certificates(folder) if transport == "mtls" else None
    settings = Settings(listen=listen, **link_settings(certificates, "inference"))
    async with serve(settings, load=_loader(runner, encoder)) as server:
        await server.ready()
        connector: Connector
        if listen:
            connector = GrpcConnector(server.address, tls=link_files(certificates) if certificates else None)
        else:
            connector = InProcessConnector(
                server.session_service.session, serialize=transport == "in_process_serialized"
            )
        try:
            yield Replica(server, connector, runner, encoder, gate)
        finally:
            gate.open()
    assert runner.misuse == []


@pytest.fixture(params=TRANSPORTS)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="seam"))  # pytest's own paths are too long for a Unix socket
    ways = ("tcp", "unix") if request.param == "pool_of_two" else (request.param,)
    try:
        async with asyncio.timeout(60), AsyncExitStack() as stack:
            replicas = tuple([await stack.enter_async_context(replica(way, folder)) for way in ways])
            pool = await stack.enter_async_context(Pool([one.connector for one in replicas], PoolSettings()))
            await pool.ready(len(replicas))
            yield World(pool, replicas)
    finally:
        shutil.rmtree(folder)
