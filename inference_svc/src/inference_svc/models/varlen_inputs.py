"""Attention of all inputs of a packed row in one call, by torch's variable-length attention. CUDA, bfloat16, float16.

By group, a pass of mixed texts is hundreds of small calls a layer, for which a GPU waits.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from inference_svc.models.packed_bidirectional import PackedLayout, attend
from inference_svc.models.torch_varlen import ALLOWED_DIFFERENCE, takes_heads, varlen_function, worst_difference

_log = logging.getLogger(__name__)

_WANTED_OF_TORCH = {"scale", "window_size", "enable_gqa"}


class VarlenInputs:
    """A WholeRow."""

    def __init__(self, function: Callable[..., Any], dtype: torch.dtype) -> None:
        """`function` is torch's, for numbers of `dtype`."""
        self._function = function
        self._dtype = dtype

    @classmethod
    def where_right(cls, dtype: torch.dtype, device: torch.device) -> "VarlenInputs | None":
        """None for other devices and number types, where torch is older, and where what it gives here is wrong."""
        function = varlen_function(dtype, device, _WANTED_OF_TORCH)
        if function is None:
            return None
        kernel = cls(function, dtype)
        difference = difference_from_groups(kernel, dtype, device)
        if difference <= ALLOWED_DIFFERENCE:
            return kernel
        _log.warning("torch's attention over packed inputs is not right here: off by %g", difference)
        return None

    def takes(self, query: torch.Tensor, value: torch.Tensor) -> bool:
        return takes_heads(query, value, self._dtype)

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
    """How far it is from attention group by group, with and without windows and causality."""
    generator = torch.Generator().manual_seed(0)
    packing = PackedLayout.of([1, 7, 7, 40, 300], device)

    def drawn(heads: int) -> torch.Tensor:
        return torch.randn(1, heads, packing.token_count, 64, generator=generator).to(device, dtype)

    query, key, value = drawn(6), drawn(2), drawn(2)
    ways: list[dict[str, Any]] = [
        {"scaling": None, "causal": causal, "window": window} for causal in (False, True) for window in (None, 20)
    ]
    return worst_difference(
        (attend(query, key, value, packing, **way), partial(kernel.attend, query, key, value, packing, **way))
        for way in ways
    )
