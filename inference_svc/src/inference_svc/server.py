"""The inference server put together: models, engine, services, and their lifetimes."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

from seam_telemetry.providers import telemetry_of

from inference_svc.admission import Admission, AdmissionLimits
from inference_svc.catalogue import Catalogue
from inference_svc.engine.engine import Engine
from inference_svc.engine.settings import EngineSettings
from inference_svc.loader import Load, SimpleLoader
from inference_svc.loading import ModelLoader
from inference_svc.observing import UNOBSERVED
from inference_svc.recording.recorder import Recorder
from inference_svc.residency import Residency
from inference_svc.settings import Settings
from inference_svc.telemetry.instruments import EngineGauges
from inference_svc.telemetry.observer import Watching, observer_of
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


class InferenceServer:
    """A running server. `serve` makes one and owns its end."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        admission: Admission,
        catalogue: Catalogue,
        residency: Residency,
        replica_id: str,
        watching: Watching | None,
        recorder: Recorder | None = None,
    ) -> None:
        self.replica_id = replica_id
        self.metrics_address = ""
        self.engine = engine
        self.catalogue = catalogue
        self.residency = residency
        self.addresses: tuple[str, ...] = ()
        self.health = Health(SERVICES)
        observer = watching or UNOBSERVED
        self.calls = Calls(engine, admission, observer=observer)
        limits = SessionLimits(settings.max_live_requests, settings.heartbeat_seconds)
        replica = Replica(engine, admission, catalogue, limits, replica_id, time.monotonic, observer)
        self.session_service = SessionService(replica, recorder)
        may_change = settings.models_may_change
        self.grpc = grpc_server(
            InferenceServicer(self.session_service, self.calls, admission, time.monotonic),
            ModelServicer(catalogue, residency, may_change=may_change),
            OpenInferenceServicer(
                self.calls, catalogue, residency, time.monotonic, version(SERVER_NAME), may_change=may_change
            ),
            self.health,
            settings.max_message_bytes,
            AllowedPeers(settings.link_clients) if settings.link_files else None,
            watching.called if watching else None,
        )
        self.loading: asyncio.Task[None] | None = None
        self._died: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def address(self) -> str:
        """The first address as bound; empty where the settings name none."""
        return self.addresses[0] if self.addresses else ""

    async def ready(self) -> None:
        """Returns when every model is warm. Raises ModelLoadError when one cannot be served."""
        assert self.loading is not None
        await asyncio.shield(self.loading)

    async def died(self) -> str:
        """Returns, with the reason, when the engine can compute nothing any more: the process should end then."""
        return await asyncio.shield(self._died)

    async def drain(self, grace: float) -> None:
        """Takes no more work: sessions hand back what they hold, to be resumed elsewhere; calls in progress, which
        cannot be, have `grace` seconds to end. Then no address is open any more."""
        await self.leave()
        self.engine.drain(hand_back=False)
        await stop_gently(self.grpc, self.session_service, grace)

    async def leave(self) -> None:
        """Health says so, sessions hand back, no call is taken."""
        await self.health.leaving()
        self.residency.draining = True
        self.session_service.drain()
        self.calls.leaving.set()

    async def lose_engine(self, reason: str) -> None:
        _log.error("the engine has stopped for good: %s", reason)
        if not self._died.done():
            self._died.set_result(reason)
        await self.leave()


@asynccontextmanager
async def serve(settings: Settings, *, load: Load | None = None) -> AsyncIterator[InferenceServer]:
    """Serves until the block is left; leaving it cancels what still runs.

    Health and the models' states are answered at once, work when the models are loaded: await `ready()`. `load`, on a
    thread of its own, makes a warm model of its settings; tests give models that need no weights. Raises TlsFault,
    OSError where an address cannot be had.
    """
    catalogue = Catalogue(settings.model_specs())
    limits = AdmissionLimits(thread_count=settings.admission_threads, waiting=settings.max_waiting_admissions)
    loader = ModelLoader(settings) if load is None else SimpleLoader(load)
    loop = asyncio.get_running_loop()
    losing: list[asyncio.Task[None]] = []

    def died(reason: str) -> None:
        loop.call_soon_threadsafe(lambda: losing.append(loop.create_task(server.lose_engine(reason))))

    def wanted(name: str) -> None:
        loop.call_soon_threadsafe(residency.wanted, name)

    replica_id = uuid.uuid4().hex
    async with AsyncExitStack() as stack:
        recording = settings.recorder()
        recorder = stack.enter_context(Recorder(recording, replica_id)) if recording else None
        admission = stack.enter_context(Admission(catalogue, limits, time.monotonic))
        telemetry = stack.enter_context(telemetry_of(settings.telemetry))
        watching = observer_of(telemetry, replica_id)
        observer = watching or UNOBSERVED
        engine = Engine(settings=_engine_settings(settings), died=died, wanted=wanted, observer=observer)
        EngineGauges(engine, catalogue).watch(telemetry.meter)
        engine.start()
        stack.push_async_callback(asyncio.to_thread, engine.stop)
        residency = Residency(engine, catalogue, loader)
        stack.push_async_callback(residency.close)
        server = InferenceServer(settings, engine, admission, catalogue, residency, replica_id, watching, recorder)
        server.metrics_address = telemetry.metrics_address
        stack.push_async_callback(_end, losing)
        await server.health.starting()
        tls = (
            RotatingCredentials(settings.link_files) if settings.link_files else None
        )  # read anew for as long as it serves
        server.addresses = bind(server.grpc, settings.addresses, tls.credentials if tls else None)
        stack.push_async_callback(server.grpc.stop, 0)
        await server.grpc.start()
        server.loading = asyncio.create_task(_load(server, settings), name="loading")
        stack.push_async_callback(_end, [server.loading])
        yield server


async def _load(server: InferenceServer, settings: Settings) -> None:
    await server.residency.move_in(settings.model_specs())
    await server.health.serving()


def _engine_settings(settings: Settings) -> EngineSettings:
    return EngineSettings(
        max_waiting_sequences=settings.max_waiting_sequences,
        max_waiting_tokens=settings.max_waiting_tokens,
        prompt_tokens_per_step=settings.prompt_tokens_per_step,
    )


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
