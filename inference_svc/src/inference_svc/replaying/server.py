"""A replaying replica put together: the contract's own doors over recorded answers. It loads no model and no torch."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from inference_svc.catalogue import Catalogue
from inference_svc.recording.digests import Digests
from inference_svc.recording.files import read_recordings
from inference_svc.replaying.answers import Answers, Match
from inference_svc.replaying.playback import Pace, ReplayAdmission, ReplayEngine
from inference_svc.settings import Settings
from inference_svc.wire.calls import Calls
from inference_svc.wire.grpc_server import SERVICES, bind, grpc_server, stop_gently
from inference_svc.wire.health import Health
from inference_svc.wire.open_inference.servicer import SERVER_NAME, OpenInferenceServicer
from inference_svc.wire.peers import AllowedPeers
from inference_svc.wire.replica import Replica, SessionLimits
from inference_svc.wire.servicers import InferenceServicer, ModelServicer
from inference_svc.wire.session_service import SessionService
from inference_svc.wire.tls import RotatingCredentials

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Replay:
    """What is replayed, and how."""

    files: tuple[Path, ...]
    match: Match = Match.CONTENT
    pace: Pace = Pace.RECORDED


class ReplayServer:
    """A running one. `serve_replay` makes it and owns its end."""

    def __init__(self, settings: Settings, answers: Answers, pace: Pace) -> None:
        self.addresses: tuple[str, ...] = ()
        self.metrics_address = ""  # a replay has none
        self.catalogue = Catalogue.fixed(answers.models)
        self.health = Health(SERVICES)
        engine = ReplayEngine(pace, time.monotonic)
        admission = ReplayAdmission(self.catalogue, answers, time.monotonic)
        limits = SessionLimits(settings.max_live_requests, settings.heartbeat_seconds)
        self.calls = Calls(engine, admission)
        replica = Replica(engine, admission, self.catalogue, limits, uuid.uuid4().hex, time.monotonic)
        self.session_service = SessionService(replica)
        self.grpc = grpc_server(
            InferenceServicer(self.session_service, self.calls, admission, time.monotonic),
            ModelServicer(self.catalogue, None, may_change=False),
            OpenInferenceServicer(
                self.calls, self.catalogue, None, time.monotonic, version(SERVER_NAME), may_change=False
            ),
            self.health,
            settings.max_message_bytes,
            AllowedPeers(settings.link_clients) if settings.link_files else None,
        )

    @property
    def address(self) -> str:
        """The first address as bound; empty where the settings name none."""
        return self.addresses[0] if self.addresses else ""

    async def ready(self) -> None:
        """At once: nothing is loaded."""

    async def died(self) -> str:
        """Never: nothing is computed that could fail for good."""
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await never

    async def drain(self, grace: float) -> None:
        """As an inference server does: sessions hand back what they hold, calls have `grace` seconds to end."""
        await self.health.leaving()
        self.session_service.drain()
        self.calls.leaving.set()
        await stop_gently(self.grpc, self.session_service, grace)


@asynccontextmanager
async def serve_replay(settings: Settings, replay: Replay) -> AsyncIterator[ReplayServer]:
    """Serves until the block is left. What the settings say of models and recording means nothing here. Raises
    NotARecording, NothingRecorded, TlsFault, OSError."""
    answers = await asyncio.to_thread(read_answers, replay.files, replay.match, settings.recording_key)
    async with AsyncExitStack() as stack:
        server = ReplayServer(settings, answers, replay.pace)
        await server.health.starting()
        tls = RotatingCredentials(settings.link_files) if settings.link_files else None
        server.addresses = bind(server.grpc, settings.addresses, tls.credentials if tls else None)
        stack.push_async_callback(server.grpc.stop, 0)
        await server.grpc.start()
        await server.health.serving()
        _log.info("replays %d recorded answers of %s", len(answers), ", ".join(server.catalogue.names()))
        yield server


def read_answers(files: Sequence[Path], match: Match, key: str) -> Answers:
    return Answers(read_recordings(files), match, Digests(key))
