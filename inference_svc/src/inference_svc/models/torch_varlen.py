"""torch's variable-length attention (FlashAttention 2), for whoever calls it: where it can be had, for which heads, and
how far off it is on this device."""

import logging
from collections.abc import Callable, Iterable, Set
from inspect import signature
from typing import Any

import torch

ALLOWED_DIFFERENCE = 3e-2
_log = logging.getLogger(__name__)


def varlen_function(dtype: torch.dtype, device: torch.device, wanted: Set[str]) -> Callable[..., Any] | None:
    """`varlen_attn`, where it takes the arguments `wanted`; None for other devices and number types, and for a torch
    that is older."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if set(signature(varlen_attn).parameters) >= wanted else None


def takes_heads(query: torch.Tensor, value: torch.Tensor, dtype: torch.dtype) -> bool:
    """Of numbers of `dtype` (some layers attend in another than the model's) and of a multiple of 8 up to 256."""
    size = query.shape[-1]
    return query.dtype == value.dtype == dtype and size == value.shape[-1] and size % 8 == 0 and size <= 256


def worst_difference(pairs: Iterable[tuple[torch.Tensor, Callable[[], torch.Tensor]]]) -> float:
    """Of what is expected and what is found, over the largest number expected; infinite where finding it raises or
    gives what is not finite."""
    worst = 0.0
    for expected, find in pairs:
        try:
            found = find()
        except (RuntimeError, TypeError, ValueError) as error:
            _log.warning("torch's variable-length attention does not run here: %s", error)
            return float("inf")
        difference = (found - expected).float().abs().max() / expected.float().abs().max()
        worst = max(worst, float(difference) if bool(found.isfinite().all()) else float("inf"))
    return worst
