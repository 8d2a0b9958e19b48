"""The largest numbers of a row. To find them torch reads a row one number at a time on the CPU; its plain maximum is
ten times faster, so the blocks that hold them are looked for first."""

import torch

_BLOCK = 64
_WORTH = 4  # times more blocks than numbers wanted


def likeliest(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest value and its first index in each row of `(rows, columns)`. NaN is larger than any number."""
    if scores.shape[1] < _BLOCK:
        return scores.max(-1)
    best, block = _block_maxima(scores).max(-1)
    start, within = _columns_of(block, scores)
    return best, start + scores.gather(1, within).max(-1).indices


def top(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest values of each row, largest first, and their indices; of equals at the end, any."""
    rows, columns = scores.shape
    if columns < _BLOCK * _WORTH * count or columns % _BLOCK:
        return scores.topk(count)
    blocks = _block_maxima(scores).topk(count).indices
    within = (blocks * _BLOCK)[:, :, None] + torch.arange(_BLOCK, device=scores.device)
    within = within.view(rows, -1)
    values, index = scores.gather(1, within).topk(count)
    return values, within.gather(1, index)


def _block_maxima(scores: torch.Tensor) -> torch.Tensor:
    rows, columns = scores.shape
    whole = columns // _BLOCK * _BLOCK
    by_block = scores[:, :whole].reshape(rows, -1, _BLOCK).amax(-1)
    if whole < columns:
        by_block = torch.cat([by_block, scores[:, whole:].amax(-1, keepdim=True)], 1)
    return by_block


def _columns_of(block: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First column and all columns of one block a row; the last block is read from the row's end, as long as others."""
    start = (block * _BLOCK).clamp(max=scores.shape[1] - _BLOCK)
    return start, start[:, None] + torch.arange(_BLOCK, device=scores.device)
