"""How many rows a packed product has: few different numbers, so that its kernels are made once.

oneDNN makes code for every number of rows that it meets, keeps about half a MiB of it, and forgets what it used longest
ago of 1,024 kernels. A model of three shapes of weights that meets any number up to 512 would make them for ever. A row
more costs nothing that can be measured where there are many, and a share of the product where there are few.
"""

import torch

_STEP = 8
_FEW = 64


def filler_count(token_count: int, device: torch.device, *, few: int = 0) -> int:
    """Rows to add that nobody reads; none for up to `few` tokens, nor where kernels take any number."""
    if device.type != "cpu" or token_count <= few:
        return 0
    return -token_count % _STEP


def decode_filler_count(token_count: int, device: torch.device) -> int:
    """As `filler_count`; steps of single tokens are few rows, each of which counts. Never a product of one row: its
    kernel sums in another order than that of many."""
    return 1 if token_count == 1 else filler_count(token_count, device, few=_FEW)
