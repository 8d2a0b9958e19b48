"""Which models live here: loads them while others serve, unloads them, puts them to sleep and wakes them.

One model is read at a time. Its state is the catalogue's; who may ask for a change is the wire's to say.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from inference_svc.catalogue import Catalogue
from inference_svc.engine.engine import Engine
from inference_svc.errors import (
    Draining,
    EngineStopped,
    FieldViolation,
    ModelBusy,
    ModelExists,
    ModelLoadError,
    ModelLoadFailed,
    ModelNotReady,
    QueueFull,
)
from inference_svc.loader import Loader, in_daemon_thread
from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.progress import LoadProgress, LoadStage, Progress
from inference_svc.requests import ModelState

_RETRY = 1.0  # seconds
_WARM = object()
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ResidencyLimits:
    """`models`, whatever their state; `loads` that one may wait for. `wake_seconds` is told of a model whose loading
    was not measured."""

    models: int = 64
    loads: int = 8
    wake_seconds: float = 1.0


class Loading:
    """One load, for whoever looks on. Of its progress only the last is kept."""

    def __init__(self) -> None:
        self.progress = LoadProgress(LoadStage.QUEUED)
        self.task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    def reached(self, progress: LoadProgress) -> None:
        self.progress = progress
        self._news.set()

    def over(self, _: object) -> None:
        self._news.set()

    async def progresses(self) -> AsyncGenerator[LoadProgress, None]:
        """Ends when the model answers. Raises ModelLoadFailed."""
        assert self.task is not None
        told: LoadProgress | None = None
        while True:
            self._news.clear()
            if self.progress is not told:
                told = self.progress
                yield told
            elif self.task.done():
                await self.task
                return
            else:
                await self._news.wait()


class Residency:
    """Owned by the event loop. Leave it by `close`: reads that cannot be interrupted are then left to themselves."""

    def __init__(
        self, engine: Engine, catalogue: Catalogue, loader: Loader, limits: ResidencyLimits | None = None
    ) -> None:
        self.draining = False
        self._engine = engine
        self._catalogue = catalogue
        self._loader = loader
        self._limits = limits or ResidencyLimits()
        self._specs: dict[str, ModelSpec] = {}
        self._took: dict[str, float] = {}  # seconds from nothing to warm, by model
        self._one_at_a_time = asyncio.Lock()
        self._loads = 0  # that have not ended
        self._wakes: dict[str, asyncio.Task[None]] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- coming -----------------------------------------------------------------------------------------------------

    async def move_in(self, specs: tuple[ModelSpec, ...]) -> None:
        """The settings' models, one after another. Raises ModelLoadError, having told the catalogue."""
        for spec in specs:
            self._specs[spec.name] = spec
            async with self._one_at_a_time:
                model = await self._read(spec, Progress(_log.info, lambda _: None), beside_others=False)
            self._arrive(spec, model)

    def load(self, spec: ModelSpec) -> Loading:
        """Raises Draining, ModelExists, QueueFull; the load itself goes on whoever looks on."""
        self._check_takes_changes()
        self._check_room(spec.name)
        self._specs[spec.name] = spec
        self._catalogue.loading(spec)
        self._loads += 1
        loading = Loading()
        loading.task = self._start(self._load(spec, loading), f"loading {spec.name}")
        loading.task.add_done_callback(loading.over)
        return loading

    def _check_room(self, name: str) -> None:
        entries = {entry.info.name: entry for entry in self._catalogue.entries()}
        if name in entries and entries[name].state is not ModelState.FAILED:
            description = f"a model {name!r} is here already; it is {entries[name].state.value}"
            raise ModelExists(f"spec.name: {description}", violations=[FieldViolation("spec.name", description)])
        if name not in entries and len(entries) >= self._limits.models:
            raise QueueFull(f"{len(entries)} models are here, the most there may be", retry_after=_RETRY)
        if self._loads >= self._limits.loads:
            raise QueueFull(f"{self._loads} loads are not done yet, the most there may be", retry_after=_RETRY)

    async def _load(self, spec: ModelSpec, loading: Loading) -> None:
        loop = asyncio.get_running_loop()

        def reached(progress: LoadProgress) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody looks on any more
                loop.call_soon_threadsafe(loading.reached, progress)

        try:
            async with self._one_at_a_time:
                self._arrive(spec, await self._read(spec, Progress(_log.info, reached), beside_others=True))
        except ModelLoadError as error:
            self._leave_behind(spec.name)
            raise ModelLoadFailed(str(error)) from error
        finally:
            self._loads -= 1

    async def _read(self, spec: ModelSpec, progress: Progress, *, beside_others: bool) -> LoadedModel:
        """A warm model. Raises ModelLoadError, having told the catalogue; nothing is held then."""
        began, why = time.monotonic(), ""
        model: LoadedModel | None = None
        self._engine.loading(True)
        try:
            load = partial(self._loader.load, spec, progress, beside_others=beside_others)
            model = await in_daemon_thread(load)
            progress.reached(LoadStage.WARMING)
            await self._warm(model)
        except Exception as error:
            why = str(error) or type(error).__name__
            if not isinstance(error, ModelLoadError):
                _log.exception("loading model %s", spec.name)
                why = f"model {spec.name} ({spec.source}) cannot be served: {why}"
        finally:
            self._engine.loading(False)
            settled = self._engine.call(self._loader.settle)
        if model is None or why:  # raised here, for a traceback would keep half a model alive
            model = None
            with suppress(EngineStopped):  # by then the model thread has left the part that failed
                await asyncio.wrap_future(settled)
            await in_daemon_thread(partial(self._loader.let_go, []))
            self._catalogue.failed(spec, why)
            raise ModelLoadError(why)
        self._took[spec.name] = time.monotonic() - began
        return model

    async def _warm(self, model: LoadedModel) -> None:
        part = partial(next, self._loader.warm_up(model), _WARM)
        while await asyncio.wrap_future(self._engine.call(part)) is not _WARM:
            pass

    def _arrive(self, spec: ModelSpec, model: LoadedModel) -> None:
        self._engine.add(model)
        self._catalogue.ready(model)
        if spec.idle_sleep_seconds is not None:
            watch = self._start(self._watch(spec.name, spec.idle_sleep_seconds), f"watching {spec.name}")
            self._watches[spec.name] = watch

    # --- going ------------------------------------------------------------------------------------------------------

    async def unload(self, name: str, grace: float) -> int:
        """Returns how many requests were handed back. Goes on when its caller is cancelled. Raises ModelNotFound,
        ModelNotReady."""
        self._check_state(name, {ModelState.READY, ModelState.SLEEPING, ModelState.FAILED})
        if self._catalogue.entry(name).state is ModelState.FAILED:
            self._catalogue.gone(name)
            return 0
        self._catalogue.unloading(name)
        return await asyncio.shield(self._start(self._unload(name, grace), f"unloading {name}"))

    async def _unload(self, name: str, grace: float) -> int:
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await asyncio.wrap_future(self._engine.unused(name))
        remains = await asyncio.wrap_future(self._engine.remove(name))
        self._leave_behind(name)
        self._catalogue.gone(name)
        await in_daemon_thread(partial(self._loader.let_go, remains.held))
        _log.info("%s: unloaded; %d requests were handed back", name, remains.handed_back)
        return remains.handed_back

    def _leave_behind(self, name: str) -> None:
        self._took.pop(name, None)
        self._specs.pop(name, None)
        self._wakes.pop(name, None)
        if (watch := self._watches.pop(name, None)) is not None:
            watch.cancel()

    # --- sleeping and waking ----------------------------------------------------------------------------------------

    async def sleep(self, name: str) -> None:
        """Raises ModelNotFound, ModelNotReady, ModelBusy."""
        if self._check_state(name, {ModelState.READY, ModelState.SLEEPING}) is ModelState.SLEEPING:
            return
        asleep = self._engine.sleep(name, self._took.get(name, self._limits.wake_seconds))
        self._catalogue.sleeping(name)
        remains = await asyncio.wrap_future(asleep)
        await in_daemon_thread(partial(self._loader.let_go, remains.held))
        _log.info("%s: asleep; waking it takes about %.1f s", name, self._took.get(name, self._limits.wake_seconds))

    async def wake(self, name: str) -> None:
        """Returns when it is awake. Raises ModelNotFound, ModelNotReady, ModelLoadFailed."""
        self._check_takes_changes()
        state = self._check_state(name, {ModelState.READY, ModelState.SLEEPING, ModelState.WAKING})
        if state is not ModelState.READY:
            await asyncio.shield(self._waking(name))

    def wanted(self, name: str) -> None:
        """A request came for a model that slept at that moment."""
        if not self.draining and self._state_of(name) is ModelState.SLEEPING:
            self._waking(name).add_done_callback(_told_in_its_state)

    def _waking(self, name: str) -> "asyncio.Task[None]":
        task = self._wakes.get(name)
        if task is None or task.done():
            task = self._wakes[name] = self._start(self._wake(self._specs[name]), f"waking {name}")
            self._catalogue.waking(name)
        return task

    async def _wake(self, spec: ModelSpec) -> None:
        try:
            async with self._one_at_a_time:
                self._engine.waking(spec.name)
                model = await self._read(spec, Progress(_log.info, lambda _: None), beside_others=True)
        except ModelLoadError as error:
            self._engine.remove(spec.name)
            self._leave_behind(spec.name)
            raise ModelLoadFailed(str(error)) from error
        await asyncio.wrap_future(self._engine.wake(model))
        self._catalogue.ready(model)

    async def _watch(self, name: str, idle: float) -> None:
        """Puts a model to sleep whenever nobody asked for it for so long."""
        while True:
            unused = self._engine.unused_for(name) or 0.0
            if unused >= idle and self._state_of(name) is ModelState.READY:
                with suppress(ModelBusy):
                    await self.sleep(name)
                unused = 0.0
            await asyncio.sleep(max(idle - unused, 0.01))

    # --- inside -----------------------------------------------------------------------------------------------------

    def _state_of(self, name: str) -> ModelState | None:
        return next((entry.state for entry in self._catalogue.entries() if entry.info.name == name), None)

    def _check_state(self, name: str, fine: set[ModelState]) -> ModelState:
        state = self._catalogue.entry(name, "name").state
        if state not in fine:
            raise ModelNotReady(f"model {name} is {state.value}", retry_after=_RETRY)
        return state

    def _check_takes_changes(self) -> None:
        if self.draining:
            raise Draining("this replica takes no new models")

    def _start(self, work: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _told_in_its_state(task: "asyncio.Task[None]") -> None:
    """Whoever asked for the model hears of a failure by the request, and the list of models says why."""
    if not task.cancelled():
        task.exception()
