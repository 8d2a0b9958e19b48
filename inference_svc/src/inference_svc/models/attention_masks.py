"""Which keys a token may see, as numbers added to its products: 0, or minus infinity."""

import torch

from inference_svc.models.kv_cache import KEY_BLOCK
from inference_svc.models.step_plan import QUERY_BLOCK, DecodeGroup, PromptBlock


class AttentionMasks:
    """Masks of one model's cache. Those of decode groups last one step, those of prompt blocks are views of a band that
    is made once for each window."""

    def __init__(self, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        self._capacity = capacity
        self._dtype = dtype
        self._device = device
        self._key_positions = torch.arange(capacity, device=device)
        self._bands: dict[int | None, torch.Tensor] = {}
        self._of_groups: dict[tuple[int, int | None], torch.Tensor] = {}
        self._positions = self._key_positions[:0]

    def begin(self, positions: torch.Tensor) -> None:
        """A step begins, of packed tokens at these positions."""
        self._positions = positions
        self._of_groups.clear()

    def of_group(self, group: DecodeGroup, window: int | None) -> torch.Tensor:
        """`(tokens, 1, 1, keys)`."""
        found = self._of_groups.get((group.first, window))
        if found is None:
            position = self._positions[group.first : group.last, None]
            distance = position - self._key_positions[None, : group.key_length]
            found = self._visible(distance, window)[:, None, None, :]
            self._of_groups[group.first, window] = found
        return found

    def of_block(self, block: PromptBlock, first_key: int, window: int | None) -> torch.Tensor:
        """`(1, 1, QUERY_BLOCK, keys from first_key)`."""
        band = self._bands.get(window)
        if band is None:
            # Entry (row, column) stands for a query `row + capacity - column` positions behind its key.
            row = torch.arange(QUERY_BLOCK, device=self._device)[:, None]
            column = torch.arange(2 * self._capacity + KEY_BLOCK, device=self._device)[None, :]
            band = self._bands[window] = self._visible(row + self._capacity - column, window)
        start = self._capacity - block.start + first_key
        return band[:, start : start + block.key_length - first_key][None, None]

    def _visible(self, distance: torch.Tensor, window: int | None) -> torch.Tensor:
        hidden = distance < 0
        if window is not None:
            hidden |= distance >= window
        mask = torch.zeros(distance.shape, dtype=self._dtype, device=self._device)
        return mask.masked_fill_(hidden, float("-inf"))
