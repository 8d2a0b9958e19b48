"""What a recording asks of a GPU, and what it leaves behind where it is refused. A stand-in takes torch's place, which
does as torch does: a capture that fails stays the current stream, and its pool stays open."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from inference_svc.models import cuda_graphs
from inference_svc.models.cuda_graphs import CudaRecorder
from inference_svc.models.decode_graphs import CannotRecord


class Gpu:
    """`torch.cuda`, and the part of `torch._C` that belongs to it."""

    def __init__(self) -> None:
        self.current = "default"
        self.debug = 0
        self.open_pools = 0
        self.captured = 0
        self.refuses: type[Exception] | None = None  # what the end of a capture raises
        self.CUDAGraph = lambda: SimpleNamespace(replay=lambda: None)
        self.streams = 0
        self.joined = 0  # times that the current stream was told to wait for another

    def Stream(self, device: torch.device) -> Any:
        self.streams += 1
        return SimpleNamespace(name="capture", cuda_stream=self.streams % 32, wait_stream=lambda other: None)

    def graph_pool_handle(self) -> tuple[int, int]:
        return (0, 1)

    def current_stream(self) -> Any:
        def join(other: Any) -> None:
            self.joined += 1

        return SimpleNamespace(wait_stream=join)

    def current_device(self) -> int:
        return 0

    def synchronize(self, device: torch.device) -> None:
        assert self.debug == 0

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        yield

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream.name
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, graph: Any, *, pool: tuple[int, int], stream: Any, capture_error_mode: str) -> Iterator[None]:
        before, self.current = self.current, stream.name
        self.open_pools += 1
        self.captured += 1
        yield
        if self.refuses is not None:
            raise self.refuses("operation not permitted when stream is capturing")
        self.open_pools -= 1
        self.current = before

    def get_sync_debug_mode(self) -> int:
        return self.debug

    def set_sync_debug_mode(self, mode: int | str) -> None:
        self.debug = {"error": 2}.get(mode, mode) if isinstance(mode, str) else mode  # type: ignore[assignment]

    def end_allocate(self, device: int, pool: tuple[int, int]) -> None:
        if not self.open_pools:
            raise RuntimeError("not recording to this pool")
        self.open_pools -= 1


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()
    own = SimpleNamespace(_cuda_endAllocateToPool=gpu.end_allocate)
    monkeypatch.setattr(cuda_graphs, "torch", SimpleNamespace(cuda=gpu, _C=own))
    monkeypatch.setattr(cuda_graphs, "_with_streams", weakref.WeakSet())
    return gpu


def recorded(compute: Callable[[], None]) -> None:
    CudaRecorder(torch.device("cuda", 0)).record(compute)


def test_a_step_is_run_twice_and_then_captured_apart_from_the_default_stream(gpu: Gpu) -> None:
    seen = []
    recorded(lambda: seen.append((gpu.current, gpu.debug, gpu.captured)))
    assert seen == [("capture", 0, 0), ("capture", 2, 0), ("capture", 0, 1)], "the second time a wait is an error"
    assert (gpu.current, gpu.debug, gpu.open_pools) == ("default", 0, 0)


def test_a_step_that_waits_for_the_device_is_refused_before_anything_is_captured(gpu: Gpu) -> None:
    def waits() -> None:
        if gpu.debug == 2:
            raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(CannotRecord, match="RuntimeError: called a synchronizing CUDA operation"):
        recorded(waits)
    assert (gpu.current, gpu.debug, gpu.open_pools, gpu.captured) == ("default", 0, 0, 0)
    assert gpu.joined == 1, "what was begun reads memory that is given away next"


def test_no_two_models_that_live_record_on_one_stream(gpu: Gpu) -> None:
    recorders = [CudaRecorder(torch.device("cuda", 0)) for _ in range(40)]
    for recorder in recorders[:32]:
        recorder.record(lambda: None)
    assert len({recorder.stream.cuda_stream for recorder in recorders[:32]}) == 32
    with pytest.raises(CannotRecord, match="32 models"):
        recorders[32].record(lambda: None)
    freed = recorders[5].stream.cuda_stream
    del recorder, recorders[5]
    recorders[32].record(lambda: None)
    assert recorders[32].stream.cuda_stream == freed


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_capture_that_fails_leaves_neither_its_stream_nor_its_pool_behind(
    gpu: Gpu, error: type[BaseException]
) -> None:
    gpu.refuses = error  # type: ignore[assignment]
    with pytest.raises(CannotRecord if error is RuntimeError else KeyboardInterrupt):
        recorded(lambda: None)
    assert (gpu.current, gpu.debug, gpu.open_pools) == ("default", 0, 0)


def test_a_step_that_raises_while_it_is_captured_is_refused_too(gpu: Gpu) -> None:
    def raises() -> None:
        if gpu.captured:
            raise ValueError("no copy from memory that is not pinned")

    with pytest.raises(CannotRecord, match="ValueError: no copy"):
        recorded(raises)
    assert (gpu.current, gpu.open_pools) == ("default", 0)
