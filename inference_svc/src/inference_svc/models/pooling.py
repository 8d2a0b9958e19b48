"""From a packed row of hidden states to one vector an input."""

from collections.abc import Callable, Sequence
from enum import Enum

import torch

from inference_svc.models.packed_bidirectional import PackedLayout

Readout = Callable[[torch.Tensor, PackedLayout], torch.Tensor]
"""`(tokens, hidden)` and its layout to `(inputs, dimensions or labels)`."""


class Pooling(Enum):
    MEAN = "mean"
    FIRST = "cls"
    LAST = "lasttoken"
    MAX = "max"
    MEAN_SQRT_LENGTH = "mean_sqrt_len_tokens"
    WEIGHTED_MEAN = "weightedmean"


def pool(hidden: torch.Tensor, layout: PackedLayout, kinds: Sequence[Pooling]) -> torch.Tensor:
    """`(inputs, hidden * kinds)` float32: each kind's vector, side by side in their order."""
    pooled = [_pool_one(hidden, layout, kind) for kind in kinds]
    return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)


def _pool_one(hidden: torch.Tensor, layout: PackedLayout, kind: Pooling) -> torch.Tensor:
    match kind:
        case Pooling.FIRST:
            return hidden[layout.starts].float()
        case Pooling.LAST:
            return hidden[layout.lasts].float()
        case Pooling.MAX:
            return _by_group(hidden, layout, lambda rows: rows.amax(dim=1))
        case Pooling.MEAN if hidden.device.type == "cuda":
            return mean_in_one(hidden, layout)
        case Pooling.MEAN:
            return _by_group(hidden, layout, lambda rows: rows.mean(dim=1))
        case Pooling.MEAN_SQRT_LENGTH:
            return _by_group(hidden, layout, lambda rows: rows.sum(dim=1) / rows.shape[1] ** 0.5)
        case Pooling.WEIGHTED_MEAN:
            return _by_group(hidden, layout, _weighted_mean)


def mean_in_one(hidden: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
    """One call for all inputs; each is summed alone as well. Its bits are not those of a mean by group."""
    counts = layout.bounds.diff()
    return torch.segment_reduce(hidden[: layout.token_count].float(), "mean", lengths=counts, unsafe=True)


def _by_group(
    hidden: torch.Tensor, layout: PackedLayout, reduce: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Reduce `(count, length, hidden)` of every group over its length. Summing an input alone, not as a difference of
    running sums, keeps its vector the same whatever else the row holds."""
    parts = []
    for group in layout.groups:
        rows = hidden[group.start : group.end].view(group.count, group.length, -1)
        parts.append(reduce(rows.float()))
    return torch.cat(parts)


def _weighted_mean(rows: torch.Tensor) -> torch.Tensor:
    """Token i of n weighs i (from 1): later tokens of a causal model have seen more (SGPT, arXiv 2202.08904)."""
    weights = torch.arange(1, rows.shape[1] + 1, device=rows.device, dtype=rows.dtype)
    return (rows * weights[None, :, None]).sum(dim=1) / weights.sum()
