"""How many rows a product of oneDNN has: few different numbers, so that its kernels are made once.

oneDNN makes code for every number of rows that it meets, keeps about half a MiB of it, and forgets what it used longest
ago of 1,024 kernels. A model of four shapes of weights that meets any number up to 512 would make them for ever, and
one that meets all of 64 numbers keeps 140 MiB of them. A row more costs nothing that can be measured where there are
many, and a share of the product where there are few.
"""

_STEPS = ((16, 1), (32, 2), (64, 4), (128, 8))  # up to so many rows, their number is a multiple of
_STEP_OF_MANY = 16
_STEP_OF_PASSES = 8


def filler_count(token_count: int) -> int:
    """Rows to add to a pass of whole texts; nobody reads them."""
    return -token_count % max(_STEP_OF_PASSES, _step(token_count))


def decode_filler_count(token_count: int) -> int:
    """As `filler_count`, where single tokens are few rows, each of which counts. Never a product of one row: its kernel
    sums in another order than that of many."""
    return 1 if token_count == 1 else -token_count % _step(token_count)


def _step(token_count: int) -> int:
    return next((step for most, step in _STEPS if token_count <= most), _STEP_OF_MANY)
