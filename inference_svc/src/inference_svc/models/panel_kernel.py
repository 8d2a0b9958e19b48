"""Products of rows with a float32 matrix laid out in panels, compiled for processors of AVX2 and FMA.

A panel is 32 columns of the product, outputs, each input's 32 weights side by side. While a stretch of a panel that
fits the first cache is multiplied with rows three at a time, the next stretch is fetched from memory, a line at a time
between the products: with few rows, reading weights and computing take about as long as each other, and here the
longer of the two is what counts and not their sum.

Every number of the result is the bias and the sums of 128 inputs each, all added in the order of the inputs: the same
bits whatever the number of rows, and whichever thread computes it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from inference_svc.models.compiled import LINE_BYTES, compile_work, take
from inference_svc.models.tile_kernel import FLOAT_BYTES, INPUTS_AT_ONCE, PANEL, tile
from inference_svc.models.torch_threads import Work

_BLOCK = 128  # inputs that are summed by themselves: 16 KiB of weights
_MANY_ROWS, _BLOCKS_OF_MANY = 160, 2  # multiplied with a few rows before the next: many rows come from afar
_LINES_OF_ONE, _LINES_OF_TWO, _LINES_OF_THREE = 8, 4, 2  # fetched in a turn, which takes the longer the more rows
_PANEL_BYTES = PANEL * FLOAT_BYTES


@intrinsic  # type: ignore[untyped-decorator]
def _copy_panel(typing_context: Any, source: Any, target: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        panel = ir.VectorType(ir.FloatType(), PANEL).as_pointer()
        source, target = (builder.inttoptr(address, panel) for address in arguments)
        builder.store(builder.load(source, align=FLOAT_BYTES), target, align=FLOAT_BYTES)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


_one_row = tile(1, _LINES_OF_ONE)
_two_rows, _two_rows_unfetched = tile(2, _LINES_OF_TWO), tile(2)
_three_rows, _three_rows_unfetched = tile(3, _LINES_OF_THREE), tile(3)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _panel(
    weights: Any, bias: Any, features: Any, result: Any, row_count: Any, input_count: Any, result_stride: Any
) -> None:
    """One panel for all rows. Everything is an address or a number."""
    for row in range(row_count):
        _copy_panel(bias, result + row * result_stride * FLOAT_BYTES)
    stretch = _BLOCK * _BLOCKS_OF_MANY if row_count > _MANY_ROWS else _BLOCK
    done = 0
    while done < input_count:
        end = min(done + stretch, input_count)
        ahead = weights + end * _PANEL_BYTES
        enough = ahead + stretch * _PANEL_BYTES
        row = 0
        while row < row_count:
            left = row_count - row
            into = result + row * result_stride * FLOAT_BYTES
            for first in range(done, end, _BLOCK):
                at = weights + first * _PANEL_BYTES
                given = features + (row * input_count + first) * FLOAT_BYTES
                count = min(_BLOCK, end - first)
                if left == 1:
                    _one_row(at, given, into, count, input_count, result_stride, ahead)
                    lines, rows = _LINES_OF_ONE, 1
                elif left == 2 or left == 4:  # four are two and two: a single row keeps the fewest sums at once
                    if ahead < enough:
                        _two_rows(at, given, into, count, input_count, result_stride, ahead)
                    else:
                        _two_rows_unfetched(at, given, into, count, input_count, result_stride, ahead)
                    lines, rows = _LINES_OF_TWO, 2
                else:
                    if ahead < enough:
                        _three_rows(at, given, into, count, input_count, result_stride, ahead)
                    else:
                        _three_rows_unfetched(at, given, into, count, input_count, result_stride, ahead)
                    lines, rows = _LINES_OF_THREE, 3
                ahead += lines * LINE_BYTES * count // INPUTS_AT_ONCE
            row += rows
        done = end


ORDER_SIZE = 12


def _work(numbers: Any) -> None:
    """Takes parts until none is left: a few panels for some of the rows. Any number of threads may, at once."""
    work = carray(numbers, (ORDER_SIZE,), np.intp)
    weights, bias, features, result, row_count, input_count, panel_count = work[1:8]
    panels_of_part, rows_of_part, row_parts, part_count = work[8:12]
    stride = panel_count * PANEL
    while True:
        part = take(work.ctypes.data, 1)
        if part >= part_count:
            return
        first_row = part % row_parts * rows_of_part
        rows = min(rows_of_part, row_count - first_row)
        first_panel = part // row_parts * panels_of_part
        for panel in range(first_panel, min(first_panel + panels_of_part, panel_count)):
            _panel(
                weights + panel * input_count * _PANEL_BYTES,
                bias + panel * _PANEL_BYTES,
                features + first_row * input_count * FLOAT_BYTES,
                result + (first_row * stride + panel * PANEL) * FLOAT_BYTES,
                rows,
                input_count,
                stride,
            )


def compile_product() -> Work:
    return compile_work(_work)
