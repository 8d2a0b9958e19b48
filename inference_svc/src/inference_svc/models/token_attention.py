"""Attention of a step's single tokens by a compiled kernel, over all of torch's threads. CPU only."""

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import torch

from inference_svc.models.attention_kernel import Scoring
from inference_svc.models.orders import address_of, bits_of, order_of
from inference_svc.models.step_plan import StepPlan
from inference_svc.models.torch_threads import run

_Numbers = np.ndarray[Any, Any]

_WORTH_A_PART = 20_000
"""Numbers of keys that a part should have to read: below, handing over takes longer than it saves."""

_PARTS_OF_A_THREAD = 4  # so that one who comes late leaves little to wait for


class TokenAttention:
    """Attends the tokens of a plan's decode groups; where their places lie makes no difference."""

    def __init__(self, dtype: torch.dtype, thread_count: Callable[[], int] = torch.get_num_threads) -> None:
        """`dtype` is the cache's. `thread_count` is asked at every step: a model may have fewer threads while it loads
        than when it serves. Raises ImportError where numba is not installed."""
        from inference_svc.models.token_kernel import ORDER_SIZE, compile_attention

        self._dtype = dtype
        self._work = compile_attention(reads_bfloat16=dtype == torch.bfloat16)
        self._order_size = ORDER_SIZE
        self._thread_count = thread_count
        self._threads_now = 1
        self._room = self._tokens = self._places = self._positions = np.empty(0, dtype=np.int64)
        self._addresses: tuple[int, ...] = ()  # of the last three, which lie in the first
        self._edges: dict[int, _Numbers] = {}  # by numbers of a position, of layers that have called; there too
        self._new_count = 0  # of the first tokens: those whose keys and values are not in the cache yet

    @classmethod
    def where_possible(cls, dtype: torch.dtype, device: torch.device) -> "TokenAttention | None":
        """None for other devices and number types, and where numba is not installed."""
        if device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
            return None
        try:
            return cls(dtype)
        except ImportError:
            return None

    def begin(self, plan: StepPlan) -> None:
        """The plan of the forward that follows."""
        self._threads_now = self._thread_count()
        tokens: list[int] = []
        places = list(plan.decode_places)
        for group in plan.groups:
            tokens.extend(range(group.first, group.last))
            if group.shared:
                places.extend([group.place] * (group.last - group.first))
        count, most_edges = len(tokens), self._threads_now * _PARTS_OF_A_THREAD + 1
        wanted = 3 * count + len(self._edges) * most_edges
        if len(self._room) < wanted:
            self._room = np.empty(2 * wanted, dtype=np.int64)
        self._tokens, self._places, self._positions = self._room[: 3 * count].reshape(3, count)
        self._tokens[:], self._places[:] = tokens, places
        self._positions[:] = np.array(plan.positions, dtype=np.int64)[self._tokens]
        self._new_count = len(plan.decode_places)
        self._addresses = tuple(each.ctypes.data for each in (self._tokens, self._places, self._positions))
        self._lay_edges(3 * count)

    def _lay_edges(self, first: int) -> None:
        for key_size in self._edges:
            found = self._cut(key_size)
            laid = self._edges[key_size] = self._room[first : first + len(found)]
            laid[:] = found
            first += len(found)

    @property
    def shape(self) -> Hashable:
        """Of the step: what is told of its tokens lies in the same places in all that have the same."""
        parts = tuple((key_size, len(edges)) for key_size, edges in self._edges.items())
        return self._addresses, len(self._tokens), self._new_count, self._threads_now, parts

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        window: int | None,
        scoring: Scoring,
        output: torch.Tensor,
    ) -> None:
        """`query` `(heads, tokens, dimension)`, `key` and `value` with key heads: those of tokens that are one row each
        are kept in the cache, `keys` and `values` `(places, key heads, capacity, dimension)`. Fills the tokens' rows of
        `output` `(tokens, heads, dimension)`."""
        if not len(self._tokens):
            return
        found = output if output.dtype == torch.float32 else output.float()
        scale = query.shape[-1] ** -0.5 if scoring.scaling is None else scoring.scaling
        sinks = torch.empty(0) if scoring.sinks is None else scoring.sinks.float().contiguous()
        rows = query.transpose(0, 1).float().contiguous()
        new_key, new_value = key.transpose(0, 1).contiguous(), value.transpose(0, 1).contiguous()
        key_numbers = keys.shape[1] * keys.shape[3]
        if key_numbers not in self._edges:
            self._edges[key_numbers] = self._cut(key_numbers)
        edges = self._edges[key_numbers]
        head_count, key_head_count = rows.shape[1], keys.shape[1]
        key_size, value_size = keys.shape[3], values.shape[3]
        cache_shape = keys.shape[:3]
        order = order_of(
            self._order_size,
            address_of(rows, torch.float32, len(rows), head_count, key_size),
            address_of(found, torch.float32, len(rows), head_count, value_size),
            address_of(sinks, torch.float32, len(sinks)),
            *self._addresses,
            edges.ctypes.data,
            len(edges) - 1,
            len(self._tokens),
            len(rows),
            head_count,
            key_head_count,
            *(cache_shape[0], cache_shape[2], key_size, value_size),
            window or 0,
            bits_of(scale),
            bits_of(scoring.softcap or 0.0),
            len(sinks),
            self._new_count,
            address_of(keys, self._dtype, *cache_shape, key_size),
            address_of(values, self._dtype, *cache_shape, value_size),
            address_of(new_key, self._dtype, len(rows), key_head_count, key_size),
            address_of(new_value, self._dtype, len(rows), key_head_count, value_size),
        )
        run(self._work, order, self._threads_now if len(edges) > 2 else 1)
        if found is not output:
            output.copy_(found)

    def _cut(self, key_size: int) -> "_Numbers":
        """Where the tokens are cut into parts with about as many keys each, whose numbers are `key_size` a position."""
        if not len(self._tokens):
            return np.zeros(1, dtype=np.int64)
        before = np.cumsum(self._positions + 1)
        most = int(before[-1]) * key_size // _WORTH_A_PART if self._threads_now > 1 else 1
        parts = max(1, min(self._threads_now * _PARTS_OF_A_THREAD, len(before), most))
        cuts = np.searchsorted(before, before[-1] * np.arange(1, parts) / parts)
        return np.concatenate(([0], cuts, [len(before)]))
