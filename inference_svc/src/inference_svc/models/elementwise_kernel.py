"""What a decoder computes number by number, in one pass over memory each: norms, and gates times values."""

from functools import cache
from typing import Any

import numpy as np
from numba import carray, njit

from inference_svc.models.compiled import LOOPS, compile_work, exponential, float_of_bits, floats, take
from inference_svc.models.torch_threads import Work

NORM_SIZE, GATE_SIZE, ROTATION_SIZE = 8, 8, 9
"""Numbers of an order, the counter first."""

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
def _gate_row(gates: Any, values: Any, linear: Any, cubic: Any) -> None:
    """Leaves each gate times its value times the logistic function of a polynomial of the gate."""
    for index in range(len(gates)):
        gate = gates[index]
        near = np.float32(-_FAR) if gate < np.float32(-_FAR) else gate
        near = np.float32(_FAR) if near > np.float32(_FAR) else near
        steep = near * (linear + cubic * near * near)
        gates[index] = gate * values[index] / (np.float32(1.0) + exponential(-steep))


def _normalise(numbers: Any) -> None:
    """Takes rows until none is left; so does `_gate`. Any number of threads may, at once."""
    order = carray(numbers, (NORM_SIZE,))
    rows_at, scale_at, result_at, row_count, size, rows_at_once, epsilon_bits = order[1:8]
    rows = carray(floats(rows_at), (row_count, size))
    result = carray(floats(result_at), (row_count, size))
    scale = carray(floats(scale_at), size)
    epsilon = float_of_bits(np.int32(epsilon_bits))
    while True:
        first = take(order.ctypes.data, rows_at_once)
        if first >= row_count:
            return
        for row in range(first, min(first + rows_at_once, row_count)):
            _normalise_row(rows[row], scale, epsilon, result[row])


def _gate(numbers: Any) -> None:
    order = carray(numbers, (GATE_SIZE,))
    gates_at, values_at, row_count, size, rows_at_once, linear_bits, cubic_bits = order[1:8]
    gates = carray(floats(gates_at), (row_count, size))
    values = carray(floats(values_at), (row_count, size))
    linear, cubic = float_of_bits(np.int32(linear_bits)), float_of_bits(np.int32(cubic_bits))
    while True:
        first = take(order.ctypes.data, rows_at_once)
        if first >= row_count:
            return
        for row in range(first, min(first + rows_at_once, row_count)):
            _gate_row(gates[row], values[row], linear, cubic)


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _rotate_head(head: Any, cosines: Any, sines: Any, result: Any) -> None:
    half = len(head) // 2
    for index in range(half):
        first, second = head[index], head[index + half]
        result[index] = first * cosines[index] - second * sines[index]
        result[index + half] = second * cosines[index + half] + first * sines[index + half]


def _rotate(numbers: Any) -> None:
    order = carray(numbers, (ROTATION_SIZE,))
    given_at, result_at, cosines_at, sines_at, token_count, head_count, size, tokens_at_once = order[1:9]
    given = carray(floats(given_at), (token_count, head_count, size))
    result = carray(floats(result_at), (token_count, head_count, size))
    cosines, sines = carray(floats(cosines_at), (token_count, size)), carray(floats(sines_at), (token_count, size))
    while True:
        first = take(order.ctypes.data, tokens_at_once)
        if first >= token_count:
            return
        for token in range(first, min(first + tokens_at_once, token_count)):
            for head in range(head_count):
                _rotate_head(given[token, head], cosines[token], sines[token], result[token, head])


@cache
def compile_norm() -> Work:
    return compile_work(_normalise)


@cache
def compile_gate() -> Work:
    return compile_work(_gate)


@cache
def compile_rotation() -> Work:
    return compile_work(_rotate)
