"""Attention of a step's prompts by a compiled kernel, over all of torch's threads: CPUs of narrow vectors, float32."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from inference_svc.models.attention_kernel import Scoring
from inference_svc.models.orders import address_of, bits_of, order_of
from inference_svc.models.processor import has_narrow_vectors
from inference_svc.models.step_plan import QUERY_BLOCK, Span, StepPlan
from inference_svc.models.torch_threads import run

_WORTH_SHARING = 200_000
"""Multiplications below which another thread is not worth asking."""

_WORTH_SHARING_COPIES = 50_000
"""Numbers below which it is not to copy them."""

_NO_WINDOW = 1 << 30  # positions


class PromptAttention:
    """Keeps the keys and values of a plan's spans, and attends the tokens of its prompt blocks."""

    def __init__(self, thread_count: Callable[[], int] = torch.get_num_threads) -> None:
        """`thread_count` is asked at every step. Raises ImportError where numba is not installed."""
        from inference_svc.models import prompt_kernel, tile_kernel

        self._kernel = prompt_kernel
        self._inputs_at_once = tile_kernel.INPUTS_AT_ONCE
        self._attending = prompt_kernel.compile_prompt_attention()
        self._keeping = prompt_kernel.compile_keeping()
        self._thread_count = thread_count
        self._threads_now = 1
        self._blocks = self._pieces = _numbers([])
        self._pair_count = 0  # of tokens and positions that they see, at most
        self._kept_count = 0

    @classmethod
    def where_possible(cls, dtype: torch.dtype, device: torch.device) -> "PromptAttention | None":
        """None for other devices, number types and processors, and where numba is not installed."""
        if device.type != "cpu" or dtype != torch.float32 or not has_narrow_vectors():
            return None
        try:
            return cls()
        except ImportError:
            return None

    def takes(self, key_size: int) -> bool:
        return key_size % self._inputs_at_once == 0

    def begin(self, plan: StepPlan) -> None:
        """The plan of the forward that follows."""
        self._threads_now = self._thread_count()
        blocks = [(each.first, each.last - each.first, each.place, each.start + each.offset) for each in plan.blocks]
        blocks.sort(key=lambda block: -block[3])  # what takes longest is begun first
        self._blocks = _numbers(blocks)
        self._pair_count = sum(count * (position + count) for _, count, _, position in blocks)
        self._pieces = _numbers([piece for span in plan.writes for piece in _pieces(span)])
        self._kept_count = sum(span.last - span.first for span in plan.writes)

    def keep(self, key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Writes `key` and `value` `(key heads, tokens, dimension)` of the plan's spans into `keys` and `values`
        `(places, key heads, capacity, dimension)`."""
        if not len(self._pieces):
            return
        new_key, new_value = key.transpose(0, 1).contiguous(), value.transpose(0, 1).contiguous()
        (token_count, key_heads, key_size), value_size = new_key.shape, new_value.shape[2]
        order = order_of(
            self._kernel.KEEPING_SIZE,
            address_of(new_key, torch.float32, token_count, key_heads, key_size),
            address_of(new_value, torch.float32, token_count, key_heads, value_size),
            self._pieces.ctypes.data,
            *_addresses(keys, values),
            len(self._pieces),
            token_count,
            key_heads,
            *(len(keys), keys.shape[2], key_size, value_size),
        )
        copied = self._kept_count * key_heads * (key_size + value_size)
        run(self._keeping, order, self._threads_now if copied >= _WORTH_SHARING_COPIES else 1)

    def attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        window: int | None,
        scoring: Scoring,
        output: torch.Tensor,
    ) -> None:
        """`query` `(heads, tokens, dimension)`, `keys` and `values` as in `keep`. Fills the rows of the blocks' tokens
        in `output` `(tokens, heads, dimension)`."""
        if not len(self._blocks):
            return
        rows = query.transpose(0, 1).contiguous()
        token_count, head_count, key_size = rows.shape
        value_size = values.shape[3]
        sinks = torch.empty(0) if scoring.sinks is None else scoring.sinks.float().contiguous()
        order = order_of(
            self._kernel.ATTENDING_SIZE,
            address_of(rows, torch.float32, token_count, head_count, key_size),
            address_of(output, torch.float32, token_count, head_count, value_size),
            address_of(sinks, torch.float32, len(sinks)),
            self._blocks.ctypes.data,
            *_addresses(keys, values),
            len(self._blocks),
            token_count,
            head_count,
            keys.shape[1],
            *(len(keys), keys.shape[2], key_size, value_size),
            window or _NO_WINDOW,
            bits_of(key_size**-0.5 if scoring.scaling is None else scoring.scaling),
            bits_of(scoring.softcap or 0.0),
            len(sinks),
        )
        work = self._pair_count * head_count * (key_size + value_size)
        run(self._attending, order, self._threads_now if work >= _WORTH_SHARING else 1)


def _pieces(span: Span) -> list[tuple[int, int, int, int]]:
    starts = range(span.first, span.last, QUERY_BLOCK)
    return [
        (first, min(QUERY_BLOCK, span.last - first), span.place, span.start + first - span.first) for first in starts
    ]


def _numbers(blocks: Sequence[tuple[int, int, int, int]]) -> "np.ndarray[Any, Any]":
    return np.array(blocks, dtype=np.int64).reshape(-1, 4)


def _addresses(keys: torch.Tensor, values: torch.Tensor) -> tuple[int, int]:
    shape = keys.shape[:3]
    return (
        address_of(keys, torch.float32, *shape, keys.shape[3]),
        address_of(values, torch.float32, *shape, values.shape[3]),
    )
