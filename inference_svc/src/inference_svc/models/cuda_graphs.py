"""Recording on a GPU: CUDA graphs that share one pool of memory."""

import warnings
from contextlib import suppress
from functools import cache
from typing import Any

import torch

from inference_svc.models.decode_graphs import CannotRecord, Repeat


class CudaRecorder:
    """A Recorder, for the thread that steps the model."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = _stream_of(device)

    def record(self, compute: Repeat) -> Repeat:
        """Whatever capture refuses (a wait for the device, a copy from memory that is not pinned) is CannotRecord."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.device(self._device):
                self._run_before(compute)
                torch.cuda.synchronize(self._device)
                self._capture(graph, compute)
        except (RuntimeError, ValueError, TypeError, AssertionError) as refused:
            raise CannotRecord(f"{type(refused).__name__}: {str(refused).splitlines()[0]}") from refused
        return graph.replay

    def _run_before(self, compute: Repeat) -> None:
        """Kernels choose and load themselves the first time. The second time a wait is an error, as it would be in a
        capture, but one that leaves nothing behind."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            compute()
            before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error")
            try:
                compute()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        torch.cuda.current_stream().wait_stream(self._stream)

    def _capture(self, graph: torch.cuda.CUDAGraph, compute: Repeat) -> None:
        """torch leaves a capture that fails half open: its stream the current one, its pool taking every allocation,
        so that no memory would be given back any more."""
        try:
            with (
                torch.cuda.stream(self._stream),
                torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
            ):
                compute()
        except BaseException:
            with suppress(RuntimeError):  # it was closed
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)
            raise


@cache
def _stream_of(device: torch.device) -> Any:
    """One for all models: libraries keep memory for each stream that they were called on."""
    warnings.filterwarnings("ignore", message="Synchronization debug mode")
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
