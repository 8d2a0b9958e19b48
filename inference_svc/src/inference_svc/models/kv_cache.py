"""Where each sequence's keys and values lie.

One tensor pair a layer, `(places, key heads, tokens, head dimension)`. A sequence keeps its slot for life; the place of
its slot may change, so that the sequences of one decode group lie side by side and are read as one view, not gathered.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

KEY_BLOCK = 128
"""Key lengths are rounded up to this: few groups of equal length, and little computed for nothing. On the benchmark
model 128 made 13 % more tokens than 512; 64 made 1 % more than 128 and moved half as many sequences again."""

_LINE = 64  # bytes of a cache line


def padded_length(token_count: int) -> int:
    return -(-token_count // KEY_BLOCK) * KEY_BLOCK


def empty_like(part: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Zeros of the type and on the device of `part`. On a CPU they are the system's zero pages: nothing is written,
    and no memory held, before a token comes there."""
    if part.device.type != "cpu":
        return torch.zeros(shape, dtype=part.dtype, device=part.device)
    size = math.prod(shape) * part.dtype.itemsize
    zeros = np.zeros(size + _LINE, np.uint8)
    start = -zeros.ctypes.data % _LINE  # as torch aligns its own
    return torch.from_numpy(zeros[start : start + size]).view(part.dtype).reshape(shape)


class SlotCache:
    """Preallocated keys and values of `slot_count` sequences.

    Positions of a place that hold no token are zero: masked positions still enter products, where a stale NaN would
    poison whoever comes next.
    """

    def __init__(self, slot_count: int, max_tokens: int) -> None:
        self.slot_count = slot_count
        self.capacity = padded_length(max_tokens)
        self.move_count = 0
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._place_of = list(range(slot_count))
        self._slot_at = list(range(slot_count))
        self._filled = [0] * slot_count  # by place

    def layer(self, index: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and values of a layer, made at its first use in the shape the layer really has.

        `key` and `value` are `(1, heads, tokens, dimension)`.
        """
        pair = self._layers.get(index)
        if pair is None:
            pair = (self._slots_like(key), self._slots_like(value))
            self._layers[index] = pair
        return pair

    def _slots_like(self, part: torch.Tensor) -> torch.Tensor:
        _, heads, _, dimension = part.shape
        return empty_like(part, (self.slot_count, heads, self.capacity, dimension))

    @property
    def layer_count(self) -> int:
        return len(self._layers)

    @property
    def byte_count(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def place_of(self, slot: int) -> int:
        return self._place_of[slot]

    def note_written(self, slot: int, token_count: int) -> None:
        place = self._place_of[slot]
        self._filled[place] = max(self._filled[place], token_count)

    def clear(self, slot: int) -> None:
        place = self._place_of[slot]
        self._zero(place, 0, self._filled[place])
        self._filled[place] = 0

    def arrange(self, groups: Sequence[Sequence[int]]) -> None:
        """Bring each group's slots together: the first group to places 0 and up, the next behind it, in any order
        within a group. Who already lies in its group's range stays."""
        start = 0
        for group in groups:
            end = start + len(group)
            members = set(group)
            free = iter([place for place in range(start, end) if self._slot_at[place] not in members])
            for slot in group:
                if not start <= self._place_of[slot] < end:
                    self._swap(next(free), self._place_of[slot])
            start = end

    def _swap(self, a: int, b: int) -> None:
        self.move_count += 1
        in_a, in_b = self._filled[a], self._filled[b]
        for part in self.parts:
            kept = part[a, :, :in_a].clone()
            part[a, :, :in_b].copy_(part[b, :, :in_b])
            part[b, :, :in_a].copy_(kept)
        self._zero(a, in_b, in_a)
        self._zero(b, in_a, in_b)
        self._filled[a], self._filled[b] = in_b, in_a
        slot_a, slot_b = self._slot_at[a], self._slot_at[b]
        self._slot_at[a], self._slot_at[b] = slot_b, slot_a
        self._place_of[slot_a], self._place_of[slot_b] = b, a

    def _zero(self, place: int, start: int, end: int) -> None:
        if end > start:
            for part in self.parts:
                part[place, :, start:end].zero_()

    @property
    def parts(self) -> list[torch.Tensor]:
        """Keys and values of every layer, first to last, each `(places, key heads, tokens, head dimension)`."""
        return [part for pair in self._layers.values() for part in pair]
