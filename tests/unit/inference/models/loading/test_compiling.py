"""Compiled loops where their folder, their threads or their kind of processor is not to be had."""

import ctypes
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
import torch
from inference_svc.models import compiled, torch_threads
from inference_svc.models.onednn_linear import OneDnnLinear
from inference_svc.models.orders import address_of, order_of
from inference_svc.models.panel_linear import PanelLinear
from inference_svc.models.prepacked import kinds_here


def _count_up(numbers: Any) -> None:
    order = numba.carray(numbers, (2,))
    order[1] += 1


def _counts(work: Callable[[Any], None]) -> bool:
    order = order_of(2, 41)
    work(order)
    return bool(order[1] == 42)


@pytest.mark.parametrize("fault", [RuntimeError("no locator"), OSError("disk full"), EOFError("torn")])
def test_a_folder_that_cannot_be_used_costs_a_compilation_and_nothing_else(
    fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = compiled.cfunc

    def refusing(*arguments: Any, cache: bool = False, **named: Any) -> Any:
        if cache:
            raise fault
        return plain(*arguments, **named)

    monkeypatch.setattr(compiled, "cfunc", refusing)
    assert _counts(compiled.compile_work(_count_up))


def test_kept_code_is_named_by_all_that_it_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.compile_work(_count_up)
    before = _count_up.__qualname__
    compiled._stamp.cache_clear()
    monkeypatch.setattr(compiled.llvmlite, "__version__", "another")
    compiled.compile_work(_count_up)
    assert _count_up.__qualname__ != before
    compiled._stamp.cache_clear()


def test_without_a_library_of_threads_work_is_done_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_threads, "sharing", lambda: None)
    order = order_of(2, 0)
    calls = []
    torch_threads.run(calls.append, order, 4)
    assert calls == [order]


@pytest.mark.parametrize(
    ("capability", "kinds"),
    [("AVX2", (PanelLinear, OneDnnLinear)), ("AVX512", (OneDnnLinear,)), ("DEFAULT", (OneDnnLinear,))],
)
def test_the_kind_of_product_follows_the_processor_alone(
    capability: str, kinds: tuple[type, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert kinds_here() == kinds


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(4, 6, dtype=torch.float64),
        torch.zeros(6, 4).t(),
        torch.zeros(4, 5),
        torch.zeros(24),
        torch.zeros(4, 6, device="meta"),
    ],
)
def test_memory_that_loops_would_misread_is_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(RuntimeError, match="contiguous"):
        address_of(tensor, torch.float32, 4, 6)


def test_an_order_of_another_size_is_refused() -> None:
    with pytest.raises(RuntimeError, match="reads 3 numbers"):
        order_of(4, 1, 2)
    assert list(order_of(3, 1, 2)) == [0, 1, 2]
    assert ctypes.sizeof(order_of(3, 1, 2)) == 3 * np.dtype(np.int64).itemsize
