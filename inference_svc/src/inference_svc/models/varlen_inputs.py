"""Attention of all inputs of a packed row in one call, by torch's variable-length attention. CUDA, bfloat16, float16.

By group, a pass of mixed texts is hundreds of small calls a layer, for which a GPU waits.
"""

import logging
from collections.abc import Callable
from inspect import signature
from typing import Any

import torch

from inference_svc.models.packed_bidirectional import PackedLayout, attend

_log = logging.getLogger(__name__)

_WANTED_OF_TORCH = {"scale", "window_size", "enable_gqa"}
_ALLOWED_DIFFERENCE = 3e-2


class VarlenInputs:
    """A WholeRow."""

    def __init__(self, function: Callable[..., Any], dtype: torch.dtype) -> None:
        """`function` is torch's, for numbers of `dtype`."""
        self._function = function
        self._dtype = dtype

    @classmethod
    def where_right(cls, dtype: torch.dtype, device: torch.device) -> "VarlenInputs | None":
        """None for other devices and number types, where torch is older, and where what it gives here is wrong."""
        if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
            return None
        try:
            from torch.nn.attention.varlen import varlen_attn
        except ImportError:
            return None
        if not set(signature(varlen_attn).parameters) >= _WANTED_OF_TORCH:
            return None
        kernel = cls(varlen_attn, dtype)
        difference = difference_from_groups(kernel, dtype, device)
        if difference <= _ALLOWED_DIFFERENCE:
            return kernel
        _log.warning("torch's attention over packed inputs is not right here: off by %g", difference)
        return None

    def takes(self, query: torch.Tensor, value: torch.Tensor) -> bool:
        size = query.shape[-1]
        return query.dtype == value.dtype == self._dtype and size == value.shape[-1] and size % 8 == 0 and size <= 256

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        packing: PackedLayout,
        *,
        scaling: float | None,
        causal: bool,
        window: int | None,
    ) -> torch.Tensor:
        away, count = -1 if window is None else window - 1, packing.token_count
        rows = self._function(
            *(each[0, :, :count].transpose(0, 1) for each in (query, key, value)),
            packing.bounds,
            packing.bounds,
            packing.longest,
            packing.longest,
            scale=scaling,
            window_size=(away, 0 if causal else away),
            enable_gqa=key.shape[1] != query.shape[1],
        )
        filler = query.shape[2] - count
        return torch.nn.functional.pad(rows, (0, 0, 0, 0, 0, filler))[None] if filler else rows[None]


def difference_from_groups(kernel: VarlenInputs, dtype: torch.dtype, device: torch.device) -> float:
    """How far it is from attention group by group, with and without windows and causality; infinite where it raises."""
    generator = torch.Generator().manual_seed(0)
    packing = PackedLayout.of([1, 7, 7, 40, 300], device)

    def drawn(heads: int) -> torch.Tensor:
        return torch.randn(1, heads, packing.token_count, 64, generator=generator).to(device, dtype)

    query, key, value = drawn(6), drawn(2), drawn(2)
    worst = 0.0
    for causal in (False, True):
        for window in (None, 20):
            expected = attend(query, key, value, packing, scaling=None, causal=causal, window=window)
            try:
                found = kernel.attend(query, key, value, packing, scaling=None, causal=causal, window=window)
            except (RuntimeError, TypeError, ValueError) as error:
                _log.warning("torch's attention over packed inputs does not run here: %s", error)
                return float("inf")
            difference = (found - expected).float().abs().max() / expected.float().abs().max()
            worst = max(worst, float(difference) if bool(found.isfinite().all()) else float("inf"))
    return worst
