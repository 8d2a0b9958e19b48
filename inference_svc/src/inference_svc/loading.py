"""From a model of the settings to a model that the engine can serve; off the event loop and off the model thread."""

import asyncio
import ctypes
import gc
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Protocol, TypeVar

from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.progress import Progress
from inference_svc.settings import Settings

Load = Callable[[ModelSpec, Progress], LoadedModel]  # on a thread of its own
Result = TypeVar("Result")


class Loader(Protocol):
    def load(self, spec: ModelSpec, progress: Progress, *, beside_others: bool) -> LoadedModel:
        """On a thread of its own. `beside_others`: take one core, since models are serving."""
        ...

    def warm_up(self, model: LoadedModel) -> None:
        """On the model thread, before the model is served."""
        ...

    def settle(self) -> None:
        """On the model thread, after each load, however it ended."""
        ...

    def let_go(self) -> None:
        """On a thread of its own: give back the memory of what nobody holds any more."""
        ...


class ModelLoader:
    """Of real models. torch is imported on the loading thread: it takes seconds, and a server of other models does
    without."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._threads = settings.torch_threads

    def load(self, spec: ModelSpec, progress: Progress, *, beside_others: bool) -> LoadedModel:
        self._import_torch(spec, progress)
        import torch

        from inference_svc.models.loading import load_model

        # The number of threads of OpenMP belongs to the thread that sets it, MKL's to whoever set it last: `settle`.
        torch.set_num_threads(1 if beside_others else self._threads or torch.get_num_threads())
        return load_model(spec, cache_folder=self._settings.cache_folder, progress=progress, reached=progress.reached)

    def _import_torch(self, spec: ModelSpec, progress: Progress) -> None:
        first = "inference_svc.models.loading" not in sys.modules
        if first:
            progress(f"{spec.name}: importing torch and transformers")
        import torch

        import inference_svc.models.loading  # noqa: F401  # the rest of what takes seconds

        if self._threads is None:
            self._threads = torch.get_num_threads()
        if first:
            gc.collect()
            gc.freeze()  # a million objects that never end: collecting the rest then holds nobody up

    def warm_up(self, model: LoadedModel) -> None:
        from inference_svc.models.warming import warm_up

        self.settle()
        warm_up(model)

    def settle(self) -> None:
        if (torch := sys.modules.get("torch")) is not None and self._threads is not None:
            torch.set_num_threads(self._threads)

    def let_go(self) -> None:
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if sys.platform == "linux":
            with suppress(AttributeError):  # a C library other than glibc
                ctypes.CDLL(None).malloc_trim(0)


class SimpleLoader:
    """Of models that are warm as they come."""

    def __init__(self, load: Load) -> None:
        self._load = load

    def load(self, spec: ModelSpec, progress: Progress, *, beside_others: bool) -> LoadedModel:
        return self._load(spec, progress)

    def warm_up(self, model: LoadedModel) -> None:
        """It is warm."""

    def settle(self) -> None:
        """Nothing was changed."""

    def let_go(self) -> None:
        """Nothing is held."""


async def in_daemon_thread(function: Callable[[], Result]) -> Result:
    """A load cannot be interrupted; a daemon thread does not hold up a process that is told to end meanwhile."""
    done: Future[Result] = Future()

    def run() -> None:
        with suppress(InvalidStateError, RuntimeError):  # nobody waits any more, or their loop is closed
            try:
                done.set_result(function())
            except Exception as error:  # told to whoever waits
                done.set_exception(error)

    threading.Thread(target=run, name="loading", daemon=True).start()
    return await asyncio.wrap_future(done)
