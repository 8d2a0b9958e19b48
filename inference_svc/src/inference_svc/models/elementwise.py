"""The loops of elementwise_kernel as functions of addresses, on as many threads as they are worth. Who calls them knows
what lies there: nothing is checked."""

from dataclasses import dataclass

import torch

from inference_svc.models.elementwise_kernel import (
    ADDITION_SIZE,
    GATE_SIZE,
    NORM_SIZE,
    PLACING_SIZE,
    compile_addition,
    compile_gate,
    compile_norm,
    compile_placing,
)
from inference_svc.models.orders import address_of, bits_of, order_of
from inference_svc.models.torch_threads import run

_WORTH_SHARING = 50_000
"""Numbers below which another thread is not worth asking."""

_ROWS_AT_ONCE = 4
_NUMBERS_AT_ONCE = 4096


class Scale:
    """What a norm multiplies by, and what it adds to the mean of squares."""

    def __init__(self, factors: torch.Tensor, epsilon: float) -> None:
        """`factors` `(size,)`, float32."""
        self._factors = factors.detach().clone()
        self.size = len(factors)
        self.address = address_of(self._factors, torch.float32, self.size)
        self.epsilon_bits = bits_of(epsilon)


@dataclass(frozen=True, slots=True)
class Heads:
    """Where one kind of heads is found in a row, and where those of all tokens go, `(tokens, heads, size)`."""

    offset: int
    count: int
    result_at: int
    scale: Scale | None = None


def normalise(
    rows_at: int, row_count: int, scale: Scale, result_at: int, *, others_at: int = 0, sums_at: int = 0
) -> None:
    """Rows of the scale's size, each divided by its root mean square, times the scale. With `others_at`, of sums with
    these, which are left at `sums_at`."""
    order = order_of(
        NORM_SIZE,
        rows_at,
        others_at,
        sums_at,
        scale.address,
        result_at,
        row_count,
        scale.size,
        _ROWS_AT_ONCE,
        scale.epsilon_bits,
    )
    run(compile_norm(), order, _thread_count(row_count * scale.size))


def add(numbers_at: int, others_at: int, count: int) -> None:
    """Adds as many other numbers to these, each to one."""
    order = order_of(ADDITION_SIZE, numbers_at, others_at, count, _NUMBERS_AT_ONCE)
    run(compile_addition(), order, _thread_count(count))


def gate(
    gates_at: int, values_at: int, stride: int, row_count: int, size: int, curve: tuple[int, int], result_at: int
) -> None:
    """Each gate g times its value times the logistic function of a g + b g^3, whose bits are the curve's. Gates and
    values lie `stride` numbers a row, results `size`."""
    order = order_of(GATE_SIZE, gates_at, values_at, stride, result_at, row_count, size, _ROWS_AT_ONCE, *curve)
    run(compile_gate(), order, _thread_count(row_count * size))


def place(given_at: int, stride: int, token_count: int, size: int, angles_at: tuple[int, int], *kinds: Heads) -> None:
    """Heads of `size` numbers, of queries, keys and values that lie in rows of `stride` numbers, each kind to itself.
    Queries and keys are rotated by the angles whose cosines and sines `(tokens, size)` lie at two addresses, the second
    half of a head being what the first is turned with; with zeros they are not. Absent kinds have no heads. Scales of
    several kinds have one epsilon, the first one's."""
    numbers = [0] * 12
    for index, kind in enumerate(kinds):
        scale_at = kind.scale.address if kind.scale else 0
        numbers[4 * index : 4 * index + 4] = (kind.offset, kind.count, scale_at, kind.result_at)
    epsilon = next((kind.scale.epsilon_bits for kind in kinds if kind.scale), 0)
    order = order_of(PLACING_SIZE, given_at, stride, token_count, size, _ROWS_AT_ONCE, *angles_at, epsilon, *numbers)
    run(compile_placing(), order, _thread_count(token_count * stride))


def _thread_count(numbers: int) -> int:
    return torch.get_num_threads() if numbers >= _WORTH_SHARING else 1
