"""From the settings' models to models that the engine serves, while everything else goes on."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from typing import TypeVar

from inference_svc.catalogue import Catalogue
from inference_svc.engine.engine import Engine
from inference_svc.errors import ModelLoadError
from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.settings import Settings

Load = Callable[[ModelSpec, Callable[[str], None]], LoadedModel]  # on a thread of its own; the other tells progress
WarmUp = Callable[[LoadedModel], None]  # on the model thread
Result = TypeVar("Result")
_log = logging.getLogger(__name__)


async def load_all(
    specs: Sequence[ModelSpec], load: Load, warm_up: WarmUp, engine: Engine, catalogue: Catalogue
) -> None:
    """One model after another, in the settings' order. Raises ModelLoadError, having told the catalogue."""
    for spec in specs:
        engine.loading(True)
        try:
            model = await _in_daemon_thread(partial(load, spec, _log.info))
            await asyncio.wrap_future(engine.call(partial(warm_up, model)))
        except Exception as error:
            catalogue.failed(spec, str(error))
            if isinstance(error, ModelLoadError):
                raise
            _log.exception("loading model %s", spec.name)
            raise ModelLoadError(f"model {spec.name} ({spec.source}) cannot be served: {error}") from error
        finally:
            engine.loading(False)
        engine.add(model)
        catalogue.ready(model)


def model_loader(settings: Settings) -> tuple[Load, WarmUp]:
    """Of real models. torch is imported on the loading thread: it takes seconds, and a server of other models does
    without."""

    def load(spec: ModelSpec, progress: Callable[[str], None]) -> LoadedModel:
        progress(f"{spec.name}: importing torch and transformers")
        import torch

        from inference_svc.models.loading import load_model

        if settings.torch_threads is not None:
            torch.set_num_threads(settings.torch_threads)
        return load_model(spec, cache_folder=settings.cache_folder, progress=progress)

    def warm_up(model: LoadedModel) -> None:
        from inference_svc.models.warming import warm_up

        warm_up(model)

    return load, warm_up


def loader_of(load: Load) -> tuple[Load, WarmUp]:
    """Of models that are warm as they come."""
    return load, lambda _: None


async def _in_daemon_thread(function: Callable[[], Result]) -> Result:
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
