"""Recording on a GPU: CUDA graphs that share one pool of memory."""

import warnings
import weakref
from contextlib import suppress
from typing import Any

import torch

from inference_svc.models.decode_graphs import CannotRecord, Repeat

_STREAMS = 32  # of a device that torch gives in turn: then the first again


class CudaRecorder:
    """A Recorder, for the thread that steps the model. It must live as long as what it recorded."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self.stream: Any = None
        """Its own: with the first graph that goes, cuBLAS frees what all recordings on its stream work in
        (pytorch#193402)."""
        warnings.filterwarnings("ignore", message="Synchronization debug mode")

    def record(self, compute: Repeat) -> Repeat:
        """Whatever capture refuses (a wait for the device, a copy from memory that is not pinned) is CannotRecord."""
        if self.stream is None:
            self.stream = _untaken_stream(self._device)
            _with_streams.add(self)
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
        self.stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(self.stream):
                compute()
                before = torch.cuda.get_sync_debug_mode()
                torch.cuda.set_sync_debug_mode("error")
                try:
                    compute()
                finally:
                    torch.cuda.set_sync_debug_mode(before)
        finally:  # what was begun reads memory that its owner may free as soon as this is over
            torch.cuda.current_stream().wait_stream(self.stream)

    def _capture(self, graph: torch.cuda.CUDAGraph, compute: Repeat) -> None:
        """torch leaves a capture that fails half open: its stream the current one and, before pytorch#180395, its pool
        taking every allocation, so that no memory would be given back any more. What the pool holds by then stays with
        the process."""
        try:
            with (
                torch.cuda.stream(self.stream),
                torch.cuda.graph(graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"),
            ):
                compute()
        except BaseException:
            with suppress(RuntimeError):  # it was closed
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)
            raise


_with_streams: "weakref.WeakSet[CudaRecorder]" = weakref.WeakSet()


def _untaken_stream(device: torch.device) -> Any:
    """Raises CannotRecord where as many models have theirs as there are."""
    taken = {each.stream.cuda_stream for each in _with_streams}
    for _ in range(_STREAMS):
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        if stream.cuda_stream not in taken:
            return stream
    raise CannotRecord(f"{len(taken)} models have recorded theirs, which is all that a process may")
