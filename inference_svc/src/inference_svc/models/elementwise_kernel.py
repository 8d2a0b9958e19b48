"""What a decoder computes number by number, in one pass over memory each: norms, of rows and of sums of rows, gates
times values, and queries, keys and values put in their places, normalised and rotated on the way."""

from functools import cache
from typing import Any

import numpy as np
from numba import carray, njit

from inference_svc.models.compiled import LOOPS, compile_work, exponential, float_of_bits, floats, take
from inference_svc.models.torch_threads import Work

NORM_SIZE, ADDITION_SIZE, GATE_SIZE, PLACING_SIZE = 10, 5, 10, 21
"""Numbers of an order, the counter first."""

_FLOAT_BYTES = 4

_FAR = 1e4  # where any such function is 0 or 1, and the polynomial a number still


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _normalise_row(row: Any, scale: Any, epsilon: Any, result: Any) -> None:
    total = np.float32(0.0)
    for index in range(len(row)):
        total += row[index] * row[index]
    factor = np.float32(1.0) / np.sqrt(total / np.float32(len(row)) + epsilon)
    for index in range(len(row)):
        result[index] = row[index] * factor * scale[index]


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _gate_row(gates: Any, values: Any, linear: Any, cubic: Any, result: Any) -> None:
    """Each gate times its value times the logistic function of a polynomial of the gate."""
    for index in range(len(gates)):
        gate = gates[index]
        near = np.float32(-_FAR) if gate < np.float32(-_FAR) else gate
        near = np.float32(_FAR) if near > np.float32(_FAR) else near
        steep = near * (linear + cubic * near * near)
        result[index] = gate * values[index] / (np.float32(1.0) + exponential(-steep))


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _add_row(one: Any, other: Any, result: Any) -> None:
    for index in range(len(one)):
        result[index] = one[index] + other[index]


def _normalise(numbers: Any) -> None:
    """Rows, or where there is an address of others the sums of both, which are left at another. Takes rows until none
    is left; so do the others. Any number of threads may, at once."""
    order = carray(numbers, (NORM_SIZE,))
    rows_at, others_at, sums_at, scale_at, result_at, row_count, size, rows_at_once, epsilon_bits = order[1:10]
    rows = carray(floats(rows_at), (row_count, size))
    others = carray(floats(others_at), (row_count, size))
    sums = carray(floats(sums_at), (row_count, size))
    result = carray(floats(result_at), (row_count, size))
    scale = carray(floats(scale_at), size)
    epsilon = float_of_bits(np.int32(epsilon_bits))
    while True:
        first = take(order.ctypes.data, rows_at_once)
        if first >= row_count:
            return
        for row in range(first, min(first + rows_at_once, row_count)):
            if others_at:
                _add_row(rows[row], others[row], sums[row])
                _normalise_row(sums[row], scale, epsilon, result[row])
            else:
                _normalise_row(rows[row], scale, epsilon, result[row])


def _add(numbers: Any) -> None:
    """To each of so many numbers another one."""
    order = carray(numbers, (ADDITION_SIZE,))
    numbers_at, others_at, count, at_once = order[1:5]
    while True:
        first = take(order.ctypes.data, at_once)
        if first >= count:
            return
        some = min(at_once, count - first)
        into = carray(floats(numbers_at + first * _FLOAT_BYTES), some)
        others = carray(floats(others_at + first * _FLOAT_BYTES), some)
        for index in range(some):
            into[index] += others[index]


def _gate(numbers: Any) -> None:
    """Gates and values lie in rows of `stride` numbers, the results in rows of `size` elsewhere."""
    order = carray(numbers, (GATE_SIZE,))
    gates_at, values_at, stride, result_at, row_count, size, rows_at_once, linear_bits, cubic_bits = order[1:10]
    linear, cubic = float_of_bits(np.int32(linear_bits)), float_of_bits(np.int32(cubic_bits))
    while True:
        first = take(order.ctypes.data, rows_at_once)
        if first >= row_count:
            return
        for row in range(first, min(first + rows_at_once, row_count)):
            gates = carray(floats(gates_at + row * stride * _FLOAT_BYTES), size)
            values = carray(floats(values_at + row * stride * _FLOAT_BYTES), size)
            _gate_row(gates, values, linear, cubic, carray(floats(result_at + row * size * _FLOAT_BYTES), size))


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _rotate_head(head: Any, cosines: Any, sines: Any, result: Any) -> None:
    half = len(head) // 2
    for index in range(half):
        first, second = head[index], head[index + half]
        result[index] = first * cosines[index] - second * sines[index]
        result[index + half] = second * cosines[index + half] + first * sines[index + half]


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _place_heads(
    given_at: Any,
    head_count: Any,
    size: Any,
    scale_at: Any,
    epsilon: Any,
    cosines_at: Any,
    sines_at: Any,
    result_at: Any,
) -> None:
    """One token's heads: normalised where there is an address of a scale, rotated where there is one of cosines."""
    scale = carray(floats(scale_at), size)
    cosines, sines = carray(floats(cosines_at), size), carray(floats(sines_at), size)
    for head in range(head_count):
        given = carray(floats(given_at + head * size * _FLOAT_BYTES), size)
        result = carray(floats(result_at + head * size * _FLOAT_BYTES), size)
        if scale_at:
            _normalise_row(given, scale, epsilon, result)
            given = result
        if cosines_at:
            _rotate_head(given, cosines, sines, result)
        elif not scale_at:
            for index in range(size):
                result[index] = given[index]


def _place(numbers: Any) -> None:
    """Queries, keys and values, side by side in rows of `stride` numbers with gaps between, each kind to itself."""
    order = carray(numbers, (PLACING_SIZE,))
    given_at, stride, token_count, size, tokens_at_once, cosines_at, sines_at, epsilon_bits = order[1:9]
    epsilon = float_of_bits(np.int32(epsilon_bits))
    while True:
        first = take(order.ctypes.data, tokens_at_once)
        if first >= token_count:
            return
        for token in range(first, min(first + tokens_at_once, token_count)):
            row_at = given_at + token * stride * _FLOAT_BYTES
            turn = token * size * _FLOAT_BYTES
            for kind in range(3):
                offset, head_count, scale_at, result_at = order[9 + 4 * kind : 13 + 4 * kind]
                is_turned = cosines_at and kind < 2
                _place_heads(
                    row_at + offset * _FLOAT_BYTES,
                    head_count,
                    size,
                    scale_at,
                    epsilon,
                    cosines_at + turn if is_turned else 0,
                    sines_at + turn if is_turned else 0,
                    result_at + token * head_count * size * _FLOAT_BYTES,
                )


@cache
def compile_norm() -> Work:
    return compile_work(_normalise)


@cache
def compile_addition() -> Work:
    return compile_work(_add)


@cache
def compile_gate() -> Work:
    return compile_work(_gate)


@cache
def compile_placing() -> Work:
    return compile_work(_place)
