"""Attention over whole inputs that lie end to end in one row, each seeing only itself.

transformers knows packing for causal masks only; here a function registered with its attention interface gets the
layout as a keyword argument of the forward and attends group by group, or in one call where the layout names what can.
No state: several models share the function.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

ATTENTION_NAME = "seam_packed_whole_inputs"


@dataclass(frozen=True, slots=True)
class EqualInputs:
    """`count` neighbouring inputs of `length` tokens each; the first begins at `start` of the row."""

    start: int
    count: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.count * self.length


@dataclass(frozen=True, slots=True, eq=False)
class PackedLayout:
    """Where inputs lie in a packed row. `lengths` in the row's order; neighbours of one length make one group, which
    is one attention call, so a row laid in order of length needs fewest."""

    lengths: tuple[int, ...]
    device: torch.device
    groups: tuple[EqualInputs, ...]
    starts: torch.Tensor  # (inputs,) int64
    positions: torch.Tensor  # (tokens,) int64, from 0 in every input
    bounds: torch.Tensor  # (inputs + 1,) int32: where each begins, and where the last one ends
    whole_row: "WholeRow | None" = None
    _masks: dict[tuple[int, int, bool], torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device, whole_row: "WholeRow | None" = None) -> "PackedLayout":
        groups, start = [], 0
        for length, run in groupby(lengths):
            groups.append(EqualInputs(start, sum(1 for _ in run), length))
            start = groups[-1].end
        counts = torch.tensor(lengths, dtype=torch.int64)
        bounds = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        positions = torch.arange(start) - torch.repeat_interleave(bounds[:-1], counts)
        on_device = (bounds[:-1].to(device), positions.to(device), bounds.int().to(device))
        return cls(tuple(lengths), device, tuple(groups), *on_device, whole_row)

    @property
    def token_count(self) -> int:
        """Of all inputs; the row may be longer, with filler at its end that nobody reads."""
        return self.groups[-1].end

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def lasts(self) -> torch.Tensor:
        """Index in the row of every input's last token."""
        return torch.cat([self.starts[1:], self.starts.new_tensor([self.token_count])]) - 1

    def window_mask(self, length: int, window: int, causal: bool) -> torch.Tensor:
        """`(length, length)` bool, true where a query (row) sees a key: fewer than `window` tokens away. Kept for
        the row's other layers."""
        mask = self._masks.get((length, window, causal))
        if mask is None:
            place = torch.arange(length, device=self.device)
            away = place[:, None] - place[None, :]
            mask = (away >= 0) & (away < window) if causal else away.abs() < window
            self._masks[length, window, causal] = mask
        return mask


class WholeRow(Protocol):
    """Attends for all inputs of a row in one call. Shapes as in `attend_whole_inputs`."""

    def takes(self, query: torch.Tensor, value: torch.Tensor) -> bool:
        """Whether it can compute this layer."""
        ...

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
    ) -> torch.Tensor: ...


def attend_whole_inputs(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    packing: PackedLayout | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: `query` `(1, heads, tokens, head)` to `(1, tokens, heads, head)`.

    Raises NotImplementedError for what this does not compute (soft caps, sinks): better no model than a wrong one.
    """
    if packing is None:
        raise NotImplementedError("the model does not hand the packing on to its attention")
    for name in ("softcap", "s_aux", "head_mask", "position_bias"):
        if others.get(name) is not None:
            raise NotImplementedError(f"its attention needs {name}")
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    return attend(query, key, value, packing, scaling=scaling, causal=causal, window=sliding_window), None


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: PackedLayout,
    *,
    scaling: float | None,
    causal: bool = False,
    window: int | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Shapes as in `attend_whole_inputs`. `bias` `(1, heads, longest, longest)` is added to the scores of every
    input, its upper left corner to shorter ones; it depends on distance alone."""
    if bias is None and packing.whole_row is not None and packing.whole_row.takes(query, value):
        return packing.whole_row.attend(query, key, value, packing, scaling=scaling, causal=causal, window=window)
    tokens, heads = query.shape[2], query.shape[1]
    out: torch.Tensor = value.new_empty(1, tokens, heads, value.shape[3])
    out[:, packing.token_count :] = 0.0
    for group in packing.groups:
        mask, plain_causal = None, causal
        if window is not None and group.length > window:
            mask, plain_causal = packing.window_mask(group.length, window, causal), False
        elif bias is not None:
            mask = bias[:, :, : group.length, : group.length]
        rows = scaled_dot_product_attention(
            _rows(query, group),
            _rows(key, group),
            _rows(value, group),
            attn_mask=mask,
            is_causal=plain_causal,
            scale=scaling,
            enable_gqa=key.shape[1] != heads,
        )
        place = out[0, group.start : group.end]
        place.view(group.count, group.length, heads, -1).copy_(rows.transpose(1, 2))
    return out


def _rows(packed: torch.Tensor, group: EqualInputs) -> torch.Tensor:
    """`(count, heads, length, head)`, a view."""
    part = packed[0, :, group.start : group.end]
    return part.view(part.shape[0], group.count, group.length, part.shape[2]).transpose(0, 1)


def register_packed_attention() -> None:
    """Make the function known to transformers under ATTENTION_NAME; again is harmless."""
    AttentionInterface.register(ATTENTION_NAME, attend_whole_inputs)
