"""The inference server put together: models, engine, services, and their lifetimes."""

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from inference_svc.admission import Admission, AdmissionLimits
from inference_svc.catalogue import Catalogue
from inference_svc.engine.engine import Engine
from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.settings import Settings
from inference_svc.wire.calls import Calls
from inference_svc.wire.grpc_server import SERVICES, bind, grpc_server
from inference_svc.wire.health import Health
from inference_svc.wire.servicers import InferenceServicer, ModelServicer
from inference_svc.wire.session import SessionLimits, SessionService

Load = Callable[[ModelSpec, Callable[[str], None]], LoadedModel]
Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class InferenceServer:
    """A running server. `serve` makes one and owns its end."""

    def __init__(self, settings: Settings, engine: Engine, admission: Admission, catalogue: Catalogue) -> None:
        self.replica_id = uuid.uuid4().hex
        self.engine = engine
        self.catalogue = catalogue
        self.addresses: tuple[str, ...] = ()
        self.health = Health(SERVICES)
        self.calls = Calls(engine, admission)
        limits = SessionLimits(settings.max_live_requests, settings.heartbeat_seconds)
        self.session_service = SessionService(engine, admission, catalogue, limits, self.replica_id, time.monotonic)
        self.grpc = grpc_server(
            InferenceServicer(self.session_service, self.calls, admission, time.monotonic),
            ModelServicer(catalogue),
            self.health,
            settings.max_message_bytes,
        )
        self.loading: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """The first address as bound; empty where the settings name none."""
        return self.addresses[0] if self.addresses else ""

    async def ready(self) -> None:
        """Returns when every model is warm. Raises ModelLoadError when one cannot be served."""
        assert self.loading is not None
        await asyncio.shield(self.loading)

    async def drain(self, grace: float) -> None:
        """Takes no more work: sessions hand back what they hold, to be resumed elsewhere; calls in progress, which
        cannot be, have `grace` seconds to end. Then no address is open any more."""
        await self.health.leaving()
        self.session_service.drain()
        self.calls.draining = True
        await self.grpc.stop(grace)


@asynccontextmanager
async def serve(settings: Settings, *, load: Load | None = None) -> AsyncIterator[InferenceServer]:
    """Serves until the block is left; leaving it cancels what still runs.

    Health and the models' states are answered at once, work when the models are loaded: await `ready()`. `load`, on a
    thread of its own, makes a model of its settings; tests give models that need no weights.
    """
    catalogue = Catalogue(settings.model_specs())
    limits = AdmissionLimits(thread_count=settings.admission_threads, waiting=settings.max_waiting_admissions)
    async with AsyncExitStack() as stack:
        admission = stack.enter_context(Admission(catalogue, limits, time.monotonic))
        engine = Engine()
        engine.start()
        stack.push_async_callback(asyncio.to_thread, engine.stop)
        server = InferenceServer(settings, engine, admission, catalogue)
        await server.health.starting()
        server.addresses = bind(server.grpc, settings.addresses)
        stack.push_async_callback(server.grpc.stop, 0)
        await server.grpc.start()
        server.loading = asyncio.create_task(_load_all(server, settings, load or _loader(settings)), name="loading")
        stack.push_async_callback(_end, server.loading)
        yield server


async def _load_all(server: InferenceServer, settings: Settings, load: Load) -> None:
    for spec in settings.model_specs():
        try:
            model = await _in_daemon_thread(lambda spec=spec: load(spec, _log.info))  # type: ignore[misc]
            await asyncio.to_thread(server.engine.add, model)
        except Exception as error:
            server.catalogue.failed(spec, str(error))
            _log.error("model %s: %s", spec.name, error)
            raise
        server.catalogue.ready(model)
    await server.health.serving()


def _loader(settings: Settings) -> Load:
    """Of real models. torch is imported on the loading thread: it takes seconds, and a server of other models, or
    none, does without."""

    def load(spec: ModelSpec, progress: Callable[[str], None]) -> LoadedModel:
        progress(f"{spec.name}: importing torch and transformers")
        import torch

        from inference_svc.models.loading import load_model

        if settings.torch_threads is not None:
            torch.set_num_threads(settings.torch_threads)
        return load_model(spec, cache_folder=settings.cache_folder, progress=progress)

    return load


async def _in_daemon_thread(function: Callable[[], Result]) -> Result:
    """A load cannot be interrupted; a daemon thread does not hold up a process that is told to end meanwhile."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # None only where there is an error

    def run() -> None:
        try:
            outcome: tuple[Result | None, BaseException | None] = (function(), None)
        except Exception as error:  # told to whoever waits
            outcome = (None, error)
        try:
            loop.call_soon_threadsafe(settle, *outcome)
        except RuntimeError:  # the loop is closed: nobody waits
            _log.info("a model was loaded for a server that has ended")

    threading.Thread(target=run, name="loading", daemon=True).start()
    return await future


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
