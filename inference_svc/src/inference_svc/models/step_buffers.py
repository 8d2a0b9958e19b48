"""What a paged forward is told: one stretch of memory on the host, and the same on the device, so that a step needs one
copy. A recorded forward reads it again and again."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Longs = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class StepShape:
    """Packed tokens, sequences, blocks in a row of the table, and packed indices whose logits are wanted."""

    tokens: int
    rows: int
    blocks: int
    wanted: int


@dataclass(frozen=True, slots=True)
class HostStep:
    """Views of the host's memory, to be filled. The first rows are those of one token."""

    token_ids: Longs  # (tokens,)
    positions: Longs  # (tokens,)
    places: Longs  # (tokens,), where in the cache, blocks end to end, their keys and values go
    wanted: Longs  # (wanted,)
    table: Ints  # (rows, blocks)
    key_counts: Ints  # (rows,)
    query_ends: Ints  # (rows + 2,): packed tokens up to the end of each single row, from 0; then of each other, from 0
    key_ends: Ints  # (rows + 2,): likewise their keys


@dataclass(frozen=True, slots=True)
class DeviceStep:
    """The same on the device."""

    token_ids: torch.Tensor
    positions: torch.Tensor
    places: torch.Tensor
    wanted: torch.Tensor
    table: torch.Tensor
    key_counts: torch.Tensor
    query_ends: torch.Tensor
    key_ends: torch.Tensor


class StepBuffers:
    """On a CPU host and device are the same memory."""

    def __init__(self, shape: StepShape, device: torch.device) -> None:
        self.shape = shape
        lengths = [shape.tokens] * 3 + [shape.wanted]
        sizes: list[tuple[int, ...]] = [(length,) for length in lengths]
        small: list[tuple[int, ...]] = [(shape.rows, shape.blocks), (shape.rows,), (shape.rows + 2,), (shape.rows + 2,)]
        byte_count = 8 * sum(lengths) + 4 * sum(math.prod(size) for size in small)
        is_apart = device.type != "cpu"
        self._host = torch.zeros(byte_count, dtype=torch.uint8, pin_memory=is_apart)
        self._device = torch.empty(byte_count, dtype=torch.uint8, device=device) if is_apart else self._host
        self._is_apart = is_apart
        on_host, on_device = _views(self._host, sizes, small), _views(self._device, sizes, small)
        self.host = HostStep(*(view.numpy() for view in on_host))
        self.device = DeviceStep(*on_device)

    def send(self) -> None:
        """What was filled is on the device for whatever is asked of it next."""
        if self._is_apart:
            self._device.copy_(self._host, non_blocking=True)


def _views(memory: torch.Tensor, longs: list[tuple[int, ...]], ints: list[tuple[int, ...]]) -> list[torch.Tensor]:
    views, start = [], 0
    for shapes, dtype in ((longs, torch.int64), (ints, torch.int32)):
        for shape in shapes:
            end = start + math.prod(shape) * dtype.itemsize
            views.append(memory[start:end].view(dtype).reshape(shape))
            start = end
    return views
