"""Attention of a step's single tokens by a compiled kernel, over all of torch's threads. CPU only."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inference_svc.models.attention_kernel import Scoring
from inference_svc.models.step_plan import StepPlan

if TYPE_CHECKING:
    from inference_svc.models.token_kernel import TokenKernels

_WORTH_A_THREAD = 300_000
"""Numbers of keys that a thread should have to read: below, handing over takes longer than it saves."""


class TokenAttention:
    """Attends the tokens of a plan's decode groups; where their places lie makes no difference."""

    def __init__(self, kernels: "TokenKernels", thread_count: Callable[[], int] = torch.get_num_threads) -> None:
        """`thread_count` is asked at every step: a model may have fewer threads while it loads than when it serves."""
        self._kernels = kernels
        self._thread_count = thread_count
        self._threads_now = 1
        self._helpers = ThreadPoolExecutor(os.cpu_count(), "attention")  # which starts none before it is needed
        self._tokens = self._places = self._positions = np.empty(0, dtype=np.int64)
        self._written = slice(0)  # of the tokens: those whose keys and values are not in the cache yet

    @classmethod
    def where_possible(cls, dtype: torch.dtype, device: torch.device) -> "TokenAttention | None":
        """None for other devices and number types, and where numba is not installed."""
        if device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
            return None
        try:
            from inference_svc.models.token_kernel import compile_kernels
        except ImportError:
            return None
        return cls(compile_kernels())

    def begin(self, plan: StepPlan) -> None:
        """The plan of the forward that follows."""
        self._threads_now = self._thread_count()
        tokens: list[int] = []
        places = list(plan.decode_places)
        for group in plan.groups:
            tokens.extend(range(group.first, group.last))
            if group.shared:
                places.extend([group.place] * (group.last - group.first))
        self._tokens = np.array(tokens, dtype=np.int64)
        self._places = np.array(places, dtype=np.int64)
        self._positions = np.array(plan.positions, dtype=np.int64)[self._tokens]
        self._written = slice(len(plan.decode_places))

    def write(self, cached: torch.Tensor, new: torch.Tensor) -> None:
        """Keep the keys, or the values, of those tokens that are one row each, the packed row's first.

        `cached` `(places, heads, capacity, dimension)`, `new` `(heads, tokens, dimension)`.
        """
        of = self._written
        self._kernels.write(
            _array(cached), _array(new.transpose(0, 1).contiguous()), self._places[of], self._positions[of]
        )

    def attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        window: int | None,
        scoring: Scoring,
        output: torch.Tensor,
    ) -> None:
        """`query` `(heads, tokens, dimension)`, keys and values as the cache has them; fills the tokens' rows of
        `output` `(tokens, heads, dimension)`."""
        if not len(self._tokens):
            return
        found = output if output.dtype == torch.float32 else output.float()
        scale = query.shape[-1] ** -0.5 if scoring.scaling is None else scoring.scaling
        sinks = torch.empty(0) if scoring.sinks is None else scoring.sinks.float().contiguous()
        rows = query.transpose(0, 1).float().contiguous().numpy()
        cached = (_array(keys), _array(values))
        settings = (
            window or 0,
            np.float32(scale),
            np.float32(scoring.softcap or 0.0),
            sinks.numpy(),
            found.numpy(),
        )

        def part(start: int, end: int) -> None:
            of = slice(start, end)
            self._kernels.attend(rows, *cached, self._tokens[of], self._places[of], self._positions[of], *settings)

        cuts = self._cuts(keys.shape[1] * keys.shape[3])
        helped = [self._helpers.submit(part, *cut) for cut in cuts[1:]]
        part(*cuts[0])
        for future in helped:
            future.result()
        if found is not output:
            output.copy_(found)

    def _cuts(self, key_size: int) -> list[tuple[int, int]]:
        """Ranges of tokens, one a thread, with about as many keys each."""
        before = np.cumsum(self._positions + 1)
        most = int(before[-1]) * key_size // _WORTH_A_THREAD
        parts = max(1, min(self._threads_now, len(before), most))
        ends = [int(np.searchsorted(before, before[-1] * part / parts)) for part in range(1, parts)]
        edges = [0, *ends, len(before)]
        return [(start, end) for start, end in pairwise(edges) if end > start]


def _array(tensor: torch.Tensor) -> "np.ndarray[Any, Any]":
    """The same memory; bfloat16, which numpy has not, as int16."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
