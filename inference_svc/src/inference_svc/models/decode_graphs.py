"""Steps of single tokens, recorded once for some batch sizes and repeated: the host then gives one order a step, where
a forward is hundreds. Which size, and what fills it up, is decided here for any device; a Recorder knows how to record.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from inference_svc.models.paged_plan import PagedPlan, fill_padding
from inference_svc.models.step_buffers import StepBuffers, StepShape
from inference_svc.models.transfer import sent

Repeat = Callable[[], None]
Compute = Callable[[StepBuffers, torch.Tensor], None]
"""Computes the single rows of the buffers, which are sent already, and writes their logits."""


class CannotRecord(Exception):
    """Steps of this model are not to be recorded on this device."""


class Recorder(Protocol):
    def record(self, compute: Repeat) -> Repeat:
        """Runs `compute` once or more, and gives what does the same again on the same tensors. Raises CannotRecord."""
        ...


class CallAgain:
    """Records nothing: repeats by calling. For devices without graphs this is what holds the rest of the way right."""

    def record(self, compute: Repeat) -> Repeat:
        compute()
        return compute


def batch_sizes(most: int) -> list[int]:
    """1, 2, 4, and from there every eighth, up to and with `most`: at most seven rows are computed for nothing."""
    return sorted({size for size in (1, 2, 4, *range(8, most, 8)) if size < most} | {most})


class DecodeGraphs:
    def __init__(
        self,
        recorder: Recorder,
        compute: Compute,
        *,
        slot_count: int,
        table_width: int,
        scratch: int,
        block_tokens: int,
        device: torch.device,
    ) -> None:
        """`scratch` is the block that padding writes to."""
        self._recorder = recorder
        self._compute = compute
        self._table_width = table_width
        self._scratch = scratch
        self._block_tokens = block_tokens
        self._device = device
        self._sizes = batch_sizes(slot_count)
        self._recorded: dict[int, tuple[StepBuffers, Repeat]] = {}
        self._logits = torch.empty(0)

    def record(self, vocabulary_size: int) -> Iterator[None]:
        """Record every batch size, one at a time, the largest first: the memory of its recording serves the others too.
        Raises CannotRecord; none is recorded then."""
        self._logits = torch.zeros(self._sizes[-1], vocabulary_size, device=self._device)
        recorded = {}
        for size in reversed(self._sizes):
            recorded[size] = self._record_one(size)
            yield
        self._recorded = recorded

    def _record_one(self, size: int) -> tuple[StepBuffers, Repeat]:
        buffers = StepBuffers(StepShape(size, size, self._table_width, size), self._device)
        fill_padding(buffers.host, 0, self._scratch, self._block_tokens)
        buffers.send()
        logits = self._logits[:size]
        return buffers, self._recorder.record(lambda: self._compute(buffers, logits))

    def logits_of(self, plan: PagedPlan, wanted: Sequence[int]) -> torch.Tensor | None:
        """Logits `(wanted, vocabulary)` in memory that the next call writes; None where nothing recorded computes
        this plan: only plans of single tokens, each of which samples, are."""
        count = plan.singles
        if plan.chunks or len(wanted) != count or not self._recorded or count > self._sizes[-1]:
            return None
        buffers, repeat = self._recorded[self._sizes[bisect_left(self._sizes, count)]]
        plan.fill(buffers.host, range(count))
        fill_padding(buffers.host, count, self._scratch, self._block_tokens)
        buffers.send()
        repeat()
        rows = self._logits[:count]
        in_order = np.asarray(wanted, dtype=np.int64)
        return rows if (in_order == np.arange(count)).all() else rows[sent(in_order, self._device)]
