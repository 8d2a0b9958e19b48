"""Reads real models. torch is imported when the first one is."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import suppress

from inference_svc.model import LoadedModel, ModelSpec
from inference_svc.progress import Progress
from inference_svc.settings import Settings


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

    def warm_up(self, model: LoadedModel) -> Iterator[None]:
        from inference_svc.models.warming import warm_up

        self.settle()
        yield from warm_up(model)

    def settle(self) -> None:
        if (torch := sys.modules.get("torch")) is not None and self._threads is not None:
            torch.set_num_threads(self._threads)

    def let_go(self, held: list[object]) -> None:
        held.clear()
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if sys.platform == "linux":
            with suppress(AttributeError):  # a C library other than glibc
                ctypes.CDLL(None).malloc_trim(0)
