"""Sums of products of a few rows with a panel of 32 columns, held in registers: what products and attention are made of
here. Compiled for processors of AVX2 and FMA.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from inference_svc.models.compiled import LINE_BYTES, build_prefetch, external

PANEL = 32
"""Columns of a panel: four registers of eight numbers, which three rows of sums leave room for among sixteen."""

INPUTS_AT_ONCE = 4
"""The number of inputs must be a multiple of it."""

FLOAT_BYTES = 4
_LANES = 8

_SIZE = ir.IntType(64)
_NUMBER = ir.FloatType()
_VECTOR = ir.VectorType(_NUMBER, _LANES)
_COUNT = ir.IntType(32)


def _broadcast(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    number = builder.insert_element(undefined, builder.load(address, align=FLOAT_BYTES), _COUNT(0))
    return builder.shuffle_vector(number, undefined, ir.Constant(ir.VectorType(_COUNT, _LANES), [0] * _LANES))


def tile(row_count: int, line_count: int = 0, *, input_step: int = 1, adds: bool = True) -> Callable[..., None]:
    """A function of compiled code that adds to `row_count` rows of a panel's sums that of a block of inputs, or with
    `adds` false leaves it there, and in every turn of INPUTS_AT_ONCE inputs fetches `line_count` lines from `ahead` on.
    Strides are in numbers, and so is `input_step`, from one input of a row to the next."""

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
            given_at = builder.mul(index, _SIZE(input_step))
            given = [_broadcast(builder, builder.gep(row, [given_at])) for row in feature_rows]
            for column in columns:
                weight = builder.load(vector_at(weight_row, column * _LANES), align=FLOAT_BYTES)
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
                total = running[row][column]
                if adds:
                    total = builder.fadd(builder.load(place, align=FLOAT_BYTES), total)
                builder.store(total, place, align=FLOAT_BYTES)
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


def tiles(*, input_step: int = 1, adds: bool = True) -> Callable[..., None]:
    """A function of compiled code for any number of rows of one panel, three at a time, that fetches nothing ahead;
    else as `tile` has it."""
    one_row, two_rows, three_rows = (tile(rows, input_step=input_step, adds=adds) for rows in (1, 2, 3))

    @njit(nogil=True)  # type: ignore[untyped-decorator]
    def multiply(
        weights: Any, features: Any, sums: Any, row_count: Any, input_count: Any, feature_stride: Any, sum_stride: Any
    ) -> None:
        row = 0
        while row < row_count:
            left = row_count - row
            given, into = features + row * feature_stride * FLOAT_BYTES, sums + row * sum_stride * FLOAT_BYTES
            if left == 1:
                one_row(weights, given, into, input_count, feature_stride, sum_stride, 0)
                row += 1
            elif left == 2 or left == 4:  # four are two and two: a single row keeps the fewest sums at once
                two_rows(weights, given, into, input_count, feature_stride, sum_stride, 0)
                row += 2
            else:
                three_rows(weights, given, into, input_count, feature_stride, sum_stride, 0)
                row += 3

    found: Callable[..., None] = multiply
    return found
