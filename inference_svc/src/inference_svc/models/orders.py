"""What compiled work is handed: an array of whole numbers. The first is the counter that threads take parts from; the
others are addresses, sizes, and the bits of float32 numbers. Compiled loops check nothing: it is done here."""

import ctypes
from typing import Any

import numpy as np
import torch


def order_of(size: int, *numbers: int) -> Any:
    """An order for work that reads `size` numbers, the counter among them."""
    if len(numbers) + 1 != size:
        raise RuntimeError(f"the work reads {size - 1} numbers, not {len(numbers)}")
    return (ctypes.c_int64 * size)(0, *numbers)


def address_of(tensor: torch.Tensor, dtype: torch.dtype, *shape: int) -> int:
    """Of numbers of this type that lie one behind the other in this shape. Raises RuntimeError where they do not."""
    if tensor.dtype != dtype or tensor.shape != shape or not tensor.is_contiguous() or tensor.device.type != "cpu":
        raise RuntimeError(
            f"compiled for contiguous {dtype} {shape} on the CPU, not {tensor.dtype} {tuple(tensor.shape)}"
            f" of strides {tensor.stride()} on {tensor.device.type}"
        )
    return tensor.data_ptr()


def bits_of(number: float) -> int:
    """The bits of a float32, as a whole number."""
    return int(np.float32(number).view(np.int32))
