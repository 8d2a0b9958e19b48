"""Attention over copies of the blocks: for any device, number type and scoring, and what other kernels are held to."""

import torch

from inference_svc.models.attention_kernel import Scoring, weigh
from inference_svc.models.paged_attention import PagedLayout
from inference_svc.models.paged_plan import Chunk

_BLOCK_TOKENS = 16
_GATHERED_AT_ONCE = 1 << 24  # numbers of keys, and as many of values: bounds what the copies take


class GatheredAttention:
    """A PagedKernel."""

    reads_in_place = False

    def __init__(self, block_tokens: int = _BLOCK_TOKENS) -> None:
        self.block_tokens = block_tokens

    def takes(self, query: torch.Tensor, values: torch.Tensor, scoring: Scoring) -> bool:
        return True

    def attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        layout: PagedLayout,
        window: int | None,
        scoring: Scoring,
    ) -> torch.Tensor:
        output = query.new_empty(*query.shape[:2], values.shape[-1])
        row_size = layout.step.table.shape[1] * keys[0].numel()
        at_once = max(1, _GATHERED_AT_ONCE // row_size)
        for first in range(0, layout.singles, at_once):
            rows = slice(first, min(first + at_once, layout.singles))
            output[rows] = _attend_singles(query[rows], keys, values, rows, layout, window, scoring)
        for chunk in layout.chunks:
            packed = slice(chunk.first, chunk.last)
            output[packed] = _attend_chunk(query[packed], keys, values, chunk, layout, window, scoring)
        return output


def _attend_singles(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    rows: slice,
    layout: PagedLayout,
    window: int | None,
    scoring: Scoring,
) -> torch.Tensor:
    """Every token is a row of the batch; the queries that share a key head are its queries."""
    table = layout.step.table[rows]
    last = layout.step.key_counts[rows, None] - 1
    hidden = _hidden(last, torch.arange(table.shape[1] * keys.shape[1], device=table.device), window)
    key, value = _gathered(keys, table, hidden), _gathered(values, table, hidden)
    count, heads, dimension = query.shape
    grouped = query.view(count, key.shape[1], heads // key.shape[1], dimension)
    scoring = scoring.sinks_as(1, grouped.shape[1], grouped.shape[2], 1)
    return weigh(grouped, key, value, _mask(hidden, query)[:, None, None], scoring).reshape(count, heads, -1)


def _attend_chunk(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    chunk: Chunk,
    layout: PagedLayout,
    window: int | None,
    scoring: Scoring,
) -> torch.Tensor:
    count, heads, dimension = query.shape
    end = chunk.start + count
    size = keys.shape[1]
    first = 0 if window is None else max(0, chunk.start - window + 1) // size
    table = layout.step.table[chunk.row : chunk.row + 1, first : -(-end // size)]
    position = torch.arange(first * size, first * size + table.shape[1] * size, device=table.device)
    beyond = (position >= end)[None]
    key, value = _gathered(keys, table, beyond), _gathered(values, table, beyond)
    hidden = _hidden(torch.arange(chunk.start, end, device=table.device)[:, None], position, window)
    key_heads = key.shape[1]
    grouped = query.transpose(0, 1).reshape(key_heads, heads // key_heads, count, dimension)
    shared = (key_heads, heads // key_heads, *key.shape[2:])
    key, value = key[0][:, None].expand(shared), value[0][:, None].expand(*shared[:3], value.shape[-1])
    scoring = scoring.sinks_as(key_heads, heads // key_heads, 1, 1)
    attended = weigh(grouped, key, value, _mask(hidden, query)[None, None], scoring)
    return attended.reshape(heads, count, -1).transpose(0, 1)


def _hidden(position: torch.Tensor, key_position: torch.Tensor, window: int | None) -> torch.Tensor:
    distance = position - key_position
    hidden = distance < 0
    return hidden if window is None else hidden | (distance >= window)


def _gathered(cached: torch.Tensor, table: torch.Tensor, left_out: torch.Tensor) -> torch.Tensor:
    """`(rows, heads, keys, dimension)`; zero where `left_out` `(rows, keys)` says."""
    found = cached[table].flatten(1, 2).masked_fill_(left_out[:, :, None, None], 0)
    return found.transpose(1, 2)


def _mask(hidden: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))
