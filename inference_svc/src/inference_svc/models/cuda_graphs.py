"""Recording on a GPU: CUDA graphs that share one pool of memory."""

import torch

from inference_svc.models.decode_graphs import CannotRecord, Repeat

_RUNS_BEFORE = 2  # kernels choose and load themselves in the first ones


class CudaRecorder:
    """A Recorder, for the thread that steps the model."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def record(self, compute: Repeat) -> Repeat:
        """Whatever capture refuses (a wait for the device, a copy from memory that is not pinned) is CannotRecord."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.device(self._device):
                self._stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(self._stream):
                    for _ in range(_RUNS_BEFORE):
                        compute()
                torch.cuda.current_stream().wait_stream(self._stream)
                torch.cuda.synchronize(self._device)
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                    compute()
        except (RuntimeError, ValueError, TypeError, AssertionError) as refused:
            raise CannotRecord(f"{type(refused).__name__}: {str(refused).splitlines()[0]}") from refused
        return graph.replay
