"""Products of rows with a float32 matrix laid out in panels, compiled for processors of AVX2 and FMA.

A panel is 32 columns of the product (outputs), each input's 32 weights side by side. While a stretch of a panel that
fits the first cache is multiplied with rows three at a time, the next stretch is fetched from memory, a line at a time
between the products: with few rows, reading weights and computing take about as long as each other, and here the
longer of the two is what counts and not their sum.

Every number of the result is the bias and the sums of 128 inputs each, all added in the order of the inputs: the same
bits whatever the number of rows, and whichever thread computes it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from inference_svc.models.compiled import LINE_BYTES, build_prefetch, compile_work, external, take
from inference_svc.models.torch_threads import Work

PANEL = 32
"""Outputs of a panel: four registers of eight numbers, which three rows of sums leave room for among sixteen."""

INPUTS_AT_ONCE = 4
"""The number of inputs must be a multiple of it."""

_FLOAT_BYTES, _LANES = 4, 8
_BLOCK = 128  # inputs that are summed by themselves: 16 KiB of weights
_MANY_ROWS, _BLOCKS_OF_MANY = 160, 2  # multiplied with a few rows before the next: many rows come from afar
_LINES_OF_ONE, _LINES_OF_TWO, _LINES_OF_THREE = 8, 4, 2  # fetched in a turn, which takes the longer the more rows
_PANEL_BYTES = PANEL * _FLOAT_BYTES

_SIZE = ir.IntType(64)
_NUMBER = ir.FloatType()
_VECTOR = ir.VectorType(_NUMBER, _LANES)
_COUNT = ir.IntType(32)


def _broadcast(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    number = builder.insert_element(undefined, builder.load(address, align=_FLOAT_BYTES), _COUNT(0))
    return builder.shuffle_vector(number, undefined, ir.Constant(ir.VectorType(_COUNT, _LANES), [0] * _LANES))


def _tile(row_count: int, line_count: int) -> Callable[..., None]:
    """A function of compiled code that adds to `row_count` rows of a panel's sums that of a block of inputs, and in
    every turn of INPUTS_AT_ONCE inputs fetches `line_count` lines from `ahead` on. Strides in numbers."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        weights, features, sums, input_count, feature_stride, sum_stride, ahead = arguments
        columns = range(PANEL // _LANES)
        multiply_add = external(builder, f"llvm.fma.v{_LANES}f32", _VECTOR, _VECTOR, _VECTOR, _VECTOR)
        numbers = _NUMBER.as_pointer()
        weight_at = builder.inttoptr(weights, numbers)
        feature_at = builder.inttoptr(features, numbers)
        sum_at = builder.inttoptr(sums, numbers)
        feature_rows = [builder.gep(feature_at, [builder.mul(feature_stride, _SIZE(r))]) for r in range(row_count)]
        sum_rows = [builder.gep(sum_at, [builder.mul(sum_stride, _SIZE(r))]) for r in range(row_count)]

        def vector_at(start: ir.Value, index: ir.Value | int) -> ir.Value:
            offset = _SIZE(index) if isinstance(index, int) else index
            return builder.bitcast(builder.gep(start, [offset]), _VECTOR.as_pointer())

        before = builder.block
        loop, behind = builder.append_basic_block("inputs"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        first_input = builder.phi(_SIZE)
        first_input.add_incoming(_SIZE(0), before)
        carried = [[builder.phi(_VECTOR) for _ in columns] for _ in sum_rows]
        running: list[list[ir.Value]] = [list(row) for row in carried]
        lines_at = builder.add(ahead, builder.mul(first_input, _SIZE(line_count * LINE_BYTES // INPUTS_AT_ONCE)))
        for line in range(line_count):
            build_prefetch(builder, builder.add(lines_at, _SIZE(line * LINE_BYTES)))
        for turn in range(INPUTS_AT_ONCE):
            index = builder.add(first_input, _SIZE(turn))
            weight_row = builder.gep(weight_at, [builder.mul(index, _SIZE(PANEL))])
            given = [_broadcast(builder, builder.gep(row, [index])) for row in feature_rows]
            for column in columns:
                weight = builder.load(vector_at(weight_row, column * _LANES), align=_FLOAT_BYTES)
                for row in range(row_count):
                    running[row][column] = builder.call(multiply_add, [given[row], weight, running[row][column]])
        following = builder.add(first_input, _SIZE(INPUTS_AT_ONCE))
        first_input.add_incoming(following, loop)
        for row in range(row_count):
            for column in columns:
                carried[row][column].add_incoming(ir.Constant(_VECTOR, [0.0] * _LANES), before)
                carried[row][column].add_incoming(running[row][column], loop)
        builder.cbranch(builder.icmp_signed("<", following, input_count), loop, behind)
        builder.position_at_end(behind)
        for row in range(row_count):
            for column in columns:
                place = vector_at(sum_rows[row], column * _LANES)
                total = builder.fadd(builder.load(place, align=_FLOAT_BYTES), running[row][column])
                builder.store(total, place, align=_FLOAT_BYTES)
        return context.get_dummy_value()

    @intrinsic  # type: ignore[untyped-decorator]
    def add_products(
        typing_context: Any,
        weights: Any,
        features: Any,
        sums: Any,
        input_count: Any,
        feature_stride: Any,
        sum_stride: Any,
        ahead: Any,
    ) -> Any:
        return types.void(*[types.intp] * 7), generate

    found: Callable[..., None] = add_products
    return found


@intrinsic  # type: ignore[untyped-decorator]
def _copy_panel(typing_context: Any, source: Any, target: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        panel = ir.VectorType(_NUMBER, PANEL).as_pointer()
        source, target = (builder.inttoptr(address, panel) for address in arguments)
        builder.store(builder.load(source, align=_FLOAT_BYTES), target, align=_FLOAT_BYTES)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


_one_row = _tile(1, _LINES_OF_ONE)
_two_rows, _two_rows_unfetched = _tile(2, _LINES_OF_TWO), _tile(2, 0)
_three_rows, _three_rows_unfetched = _tile(3, _LINES_OF_THREE), _tile(3, 0)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _panel(
    weights: Any, bias: Any, features: Any, result: Any, row_count: Any, input_count: Any, result_stride: Any
) -> None:
    """One panel for all rows. Everything is an address or a number."""
    for row in range(row_count):
        _copy_panel(bias, result + row * result_stride * _FLOAT_BYTES)
    stretch = _BLOCK * _BLOCKS_OF_MANY if row_count > _MANY_ROWS else _BLOCK
    done = 0
    while done < input_count:
        end = min(done + stretch, input_count)
        ahead = weights + end * _PANEL_BYTES
        enough = ahead + stretch * _PANEL_BYTES
        row = 0
        while row < row_count:
            left = row_count - row
            into = result + row * result_stride * _FLOAT_BYTES
            for first in range(done, end, _BLOCK):
                at = weights + first * _PANEL_BYTES
                given = features + (row * input_count + first) * _FLOAT_BYTES
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
                features + first_row * input_count * _FLOAT_BYTES,
                result + (first_row * stride + panel * PANEL) * _FLOAT_BYTES,
                rows,
                input_count,
                stride,
            )


def compile_product() -> Work:
    return compile_work(_work)
