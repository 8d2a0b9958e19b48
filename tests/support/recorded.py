"""Sessions recorded from a real server on echo models, and replicas that replay them, each behind a pool."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from business_svc.link.grpc_duplex import GrpcConnector
from business_svc.link.in_process_duplex import InProcessConnector
from business_svc.link.pool import Pool, PoolSettings
from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.replaying.answers import Match
from inference_svc.replaying.playback import Pace
from inference_svc.replaying.server import Replay, ReplayServer, serve_replay
from inference_svc.requests import Task
from inference_svc.server import InferenceServer, serve
from inference_svc.settings import Settings

from support.echo import EchoRunner, echo_model

KEY = "a key for recordings"


def load(spec: ModelSpec, _: object) -> LoadedModel:
    runner = EchoRunner(slot_count=8) if spec.task is Task.GENERATE else None
    return echo_model(spec.name, spec.task, runner=runner)


@asynccontextmanager
async def recording_server(folder: Path, *, text: str = "plain", **settings: object) -> AsyncIterator[InferenceServer]:
    """Its files are whole when this is left."""
    made = Settings(listen="127.0.0.1:0", record_folder=folder, record_text=text, **settings)
    async with serve(made, load=load) as server:
        await server.ready()
        yield server


def files_of(folder: Path) -> tuple[Path, ...]:
    """Recordings, or the one recording itself."""
    return tuple(sorted(folder.glob("*.frames"))) if folder.is_dir() else (folder,)


@asynccontextmanager
async def replaying_server(
    folder: Path, *, match: Match = Match.CONTENT, pace: Pace = Pace.FAST, **settings: object
) -> AsyncIterator[ReplayServer]:
    replay = Replay(files_of(folder), match, pace)
    async with serve_replay(Settings(listen="127.0.0.1:0", **settings), replay) as server:
        yield server


@asynccontextmanager
async def pool_to(server: InferenceServer | ReplayServer, *, in_process: bool = False) -> AsyncIterator[Pool]:
    connector = InProcessConnector(server.session_service.session) if in_process else GrpcConnector(server.address)
    async with Pool([connector], PoolSettings()) as pool:
        await pool.ready(1)
        yield pool
