"""Attention over a paged cache: new keys and values are written where the plan says, then each row reads its blocks."""

from dataclasses import dataclass
from typing import Protocol

import torch

from inference_svc.models.attention_kernel import Scoring
from inference_svc.models.paged_cache import PagedCache
from inference_svc.models.paged_plan import Chunk
from inference_svc.models.step_buffers import DeviceStep


@dataclass(frozen=True, slots=True)
class PagedLayout:
    """Of a forward: its inputs on the device, and what the host must know to call kernels. The first `singles` packed
    tokens are a row each, the chunks are the other rows."""

    step: DeviceStep
    singles: int
    chunks: tuple[Chunk, ...]
    longest_chunk: int
    longest_keys: int


class PagedKernel(Protocol):
    """Reads a paged cache for all rows of a forward."""

    @property
    def block_tokens(self) -> int:
        """Tokens of a block, as it wants them."""
        ...

    @property
    def reads_in_place(self) -> bool:
        """Whether it takes no copies of keys and values, so that its cost follows the keys that there are and not the
        width of the table."""
        ...

    def takes(self, query: torch.Tensor, values: torch.Tensor, scoring: Scoring) -> bool:
        """Whether it can compute this layer."""
        ...

    def attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        layout: PagedLayout,
        window: int | None,
        scoring: Scoring,
    ) -> torch.Tensor:
        """`query` `(tokens, heads, dimension)`, `keys` and `values` as the cache has them; gives `(tokens, heads,
        dimension of values)`. Each token sees the keys of its own row up to itself, `window` of them at most.

        Reads nothing of a masked position that could spoil what it gives. Where all rows are single ones it depends on
        nothing but the tensors of `layout.step`, whose content may be another when the call is recorded and repeated.
        """
        ...


class PagedAttention:
    """A LayerAttention. `begin` names the layout of the forward that follows."""

    def __init__(self, cache: PagedCache, kernel: PagedKernel, otherwise: PagedKernel) -> None:
        """`otherwise` takes every layer that `kernel` does not."""
        self._cache = cache
        self._kernel = kernel
        self._otherwise = otherwise
        self._layout: PagedLayout | None = None
        self.windows_seen: dict[int, int | None] = {}
        """By layer that has called: the sliding window that it asked for."""
        self.reads_in_place = kernel.reads_in_place
        """Whether every layer that has called was."""

    def begin(self, layout: PagedLayout) -> None:
        self._layout = layout

    @property
    def may_wait(self) -> bool:
        return False

    @property
    def shape(self) -> None:
        return None

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        window: int | None,
        scoring: Scoring,
    ) -> torch.Tensor:
        layout = self._layout
        assert layout is not None, "begin comes first"
        self.windows_seen[layer] = window
        new_keys, new_values = key[0].transpose(0, 1), value[0].transpose(0, 1)
        keys, values = self._cache.layer(layer, new_keys, new_values)
        keys.flatten(0, 1).index_copy_(0, layout.step.places, new_keys)
        values.flatten(0, 1).index_copy_(0, layout.step.places, new_values)
        kernel, rows = self._kernel, query[0].transpose(0, 1)
        if not kernel.takes(rows, values, scoring):
            kernel = self._otherwise
            self.reads_in_place &= kernel.reads_in_place
        return kernel.attend(rows, keys, values, layout, window, scoring).unsqueeze(0)
