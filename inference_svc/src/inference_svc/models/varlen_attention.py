"""Attention that reads the blocks where they lie, by torch's variable-length attention. CUDA, bfloat16 and float16.

Its kernel (FlashAttention 2) wants blocks of a multiple of 256 tokens and heads of a multiple of 8 up to 256. It is
always told to make one pass over the keys: several are faster for a few long sequences, but then what a sequence gets
depends on its neighbours, and for packed rows torch computes them wrongly (pytorch#194167).
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from inference_svc.models.attention_kernel import Scoring
from inference_svc.models.gathered_attention import GatheredAttention
from inference_svc.models.paged_attention import PagedKernel, PagedLayout
from inference_svc.models.paged_plan import Chunk, fill_ends
from inference_svc.models.step_buffers import StepBuffers, StepShape
from inference_svc.models.torch_varlen import ALLOWED_DIFFERENCE, takes_heads, varlen_function, worst_difference

_log = logging.getLogger(__name__)

_BLOCK_TOKENS = 256
_WANTED_OF_TORCH = {"block_table", "seqused_k", "num_splits", "enable_gqa", "return_aux"}


class VarlenAttention:
    """A PagedKernel."""

    reads_in_place = True

    def __init__(
        self, function: Callable[..., Any], with_logsumexp: Any, dtype: torch.dtype, *, takes_sinks: bool = False
    ) -> None:
        """`function` is torch's, for numbers of `dtype`; `with_logsumexp` asks it for its sums' logarithms as well."""
        self.block_tokens = _BLOCK_TOKENS
        self._function = function
        self._dtype = dtype
        self._with_logsumexp = with_logsumexp
        self._takes_sinks = takes_sinks

    @classmethod
    def where_right(cls, dtype: torch.dtype, device: torch.device) -> "VarlenAttention | None":
        """None for other devices and number types, where torch is older, and where what it gives here is wrong."""
        function = varlen_function(dtype, device, _WANTED_OF_TORCH)
        if function is None:
            return None
        from torch.nn.attention.varlen import AuxRequest

        for takes_sinks in (True, False):
            kernel = cls(function, AuxRequest(lse=True), dtype, takes_sinks=takes_sinks)
            difference = difference_from_plain(kernel, dtype, device, with_sinks=takes_sinks)
            if difference <= ALLOWED_DIFFERENCE:
                return kernel
            _log.warning("torch's paged attention is not right here (sinks: %s): off by %g", takes_sinks, difference)
        return None

    def takes(self, query: torch.Tensor, values: torch.Tensor, scoring: Scoring) -> bool:
        return (
            takes_heads(query, values, self._dtype)
            and scoring.softcap is None
            and (scoring.sinks is None or self._takes_sinks)
        )

    def attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        layout: PagedLayout,
        window: int | None,
        scoring: Scoring,
    ) -> torch.Tensor:
        """Single tokens apart from chunks: alone, queries that share a key head read it once."""
        singles, rows = layout.singles, len(layout.step.key_counts)
        parts = []
        if singles:
            of = (slice(singles), slice(singles), slice(singles + 1), 1)
            parts.append(self._attend_rows(query, keys, values, layout, window, scoring, *of))
        if rows > singles:
            of = (slice(singles, rows), slice(singles, None), slice(singles + 1, rows + 2), layout.longest_chunk)
            parts.append(self._attend_rows(query, keys, values, layout, window, scoring, *of))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend_rows(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        layout: PagedLayout,
        window: int | None,
        scoring: Scoring,
        rows: slice,
        tokens: slice,
        ends: slice,
        longest: int,
    ) -> torch.Tensor:
        step = layout.step
        left, right = _window(window, longest, layout.longest_keys, takes_sums=scoring.sinks is not None)
        answer = self._function(
            query[tokens],
            keys,
            values,
            step.query_ends[ends],
            step.key_ends[ends],
            longest,
            layout.longest_keys,
            scale=scoring.scaling,
            window_size=(left, right),
            enable_gqa=query.shape[1] != keys.shape[2],
            seqused_k=step.key_counts[rows],
            block_table=step.table[rows],
            num_splits=1,
            return_aux=None if scoring.sinks is None else self._with_logsumexp,
        )
        if scoring.sinks is None:
            attended: torch.Tensor = answer
            return attended
        attended, logsumexp = answer  # the latter (heads, tokens)
        share = torch.sigmoid(logsumexp - scoring.sinks.to(logsumexp.dtype)[:, None])
        return attended * share.T[:, :, None].to(attended.dtype)


def _window(window: int | None, longest: int, longest_keys: int, *, takes_sums: bool) -> tuple[int, int]:
    """A lone query at the end of its keys sees them all without being told that it is causal, and is then computed with
    the others that share its key head; their logarithms however come in an order that depends on the number of rows.
    A window as wide as all keys keeps them apart."""
    if window is not None:
        return window - 1, 0
    if longest > 1:
        return -1, 0
    return (longest_keys, 0) if takes_sums else (-1, -1)


def difference_from_plain(kernel: PagedKernel, dtype: torch.dtype, device: torch.device, *, with_sinks: bool) -> float:
    """How far the kernel is from the plain definition, over single rows and chunks with and without a window, as
    `worst_difference` has it."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    heads, key_heads, dimension, size = 6, 2, 64, kernel.block_tokens
    keys, values = drawn(7, size, key_heads, dimension), drawn(7, size, key_heads, dimension)
    layout = _layout_for_check(size, device)
    query = drawn(len(layout.step.token_ids), heads, dimension)
    sinks = drawn(heads) if with_sinks else None
    scoring = Scoring(None, None, sinks)
    asked = [(query, keys, values, layout, window, scoring) for window in (None, 40)]
    return worst_difference((GatheredAttention(size).attend(*each), partial(kernel.attend, *each)) for each in asked)


def _layout_for_check(size: int, device: torch.device) -> PagedLayout:
    """Four single rows of one key and many, then chunks of 5 and 70 tokens, over one to three blocks each."""
    counts, lengths = [2 * size + 3, 9, 1, size, size + 7, 70], [1, 1, 1, 1, 5, 70]
    buffers = StepBuffers(StepShape(sum(lengths), len(counts), 3, 0), device)
    host = buffers.host
    host.table[:] = [[5, 0, 3], [1, 6, 6], [0, 6, 6], [3, 6, 6], [2, 4, 6], [6, 6, 6]]
    host.key_counts[:] = counts
    fill_ends(host.query_ends, lengths, 4)
    fill_ends(host.key_ends, counts, 4)
    buffers.send()
    chunks = (Chunk(4, 9, 4, size + 2), Chunk(9, 79, 5, 0))
    return PagedLayout(buffers.device, 4, chunks, 70, max(counts))
