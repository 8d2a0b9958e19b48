"""Attention of single tokens to their own sequences, compiled for this CPU: plain loops that read each key and value
once, from where it lies and no further than the sequence goes.

torch multiplies few queries by many keys with a matrix kernel that first copies the keys into another order, and needs
equal lengths. Here a token's numbers depend on nothing but its own sequence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

_zero, _one, _two, _half = np.float32(0.0), np.float32(1.0), np.float32(2.0), np.float32(0.5)
_LOOPS = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy", "nogil": True}
_MAXIMUM = {**_LOOPS, "fastmath": {"reassoc", "contract", "nsz", "arcp", "nnan"}}  # a NaN is told by the exponentials


@intrinsic  # type: ignore[untyped-decorator]
def _float_of_bits(typing_context: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.int32), generate


def _number(cached: Any) -> Any:
    """What a number of the cache stands for: float32 for itself, int16 for the upper half of a float32 (bfloat16)."""
    raise NotImplementedError


@overload(_number, inline="always")
def _compiled_number(cached):  # type: ignore[no-untyped-def]
    # Without annotations: numba wants the very signature of what is given back.
    if cached == types.int16:
        return lambda cached: _float_of_bits(np.int32(cached) << np.int32(16))
    return lambda cached: cached


@njit(inline="always", **_LOOPS)  # type: ignore[untyped-decorator]
def _exponential(x: Any) -> Any:
    """2 to a whole power times a polynomial of the rest (Cephes' expf): as exact as float32, and vectorised."""
    x = np.float32(-87.0) if x < np.float32(-87.0) else x
    x = np.float32(88.0) if x > np.float32(88.0) else x
    power = np.floor(x * np.float32(1.44269504) + _half)
    rest = x - power * np.float32(0.693359375) + power * np.float32(2.12194440e-4)
    series = np.float32(1.9875691500e-4)
    series = series * rest + np.float32(1.3981999507e-3)
    series = series * rest + np.float32(8.3334519073e-3)
    series = series * rest + np.float32(4.1665795894e-2)
    series = series * rest + np.float32(1.6666665459e-1)
    series = series * rest + np.float32(5.0000001201e-1)
    scale = _float_of_bits(np.int32((np.int32(power) + np.int32(127)) << np.int32(23)))
    return (series * rest * rest + rest + _one) * scale


@njit(**_LOOPS)  # type: ignore[untyped-decorator]
def _score(weights: Any, query: Any, keys: Any, first: Any, end: Any, scale: Any) -> None:
    """Four heads at a time: a key is read once for them, and their sums are added side by side."""
    head = 0
    while head + 4 <= query.shape[0]:
        for position in range(first, end):
            key = keys[position]
            one, two, three, four = _zero, _zero, _zero, _zero
            for index in range(query.shape[1]):
                number = _number(key[index])
                one += query[head, index] * number
                two += query[head + 1, index] * number
                three += query[head + 2, index] * number
                four += query[head + 3, index] * number
            weights[head, position] = one * scale
            weights[head + 1, position] = two * scale
            weights[head + 2, position] = three * scale
            weights[head + 3, position] = four * scale
        head += 4
    for rest in range(head, query.shape[0]):
        for position in range(first, end):
            total = _zero
            for index in range(query.shape[1]):
                total += query[rest, index] * _number(keys[position, index])
            weights[rest, position] = total * scale


@njit(**_LOOPS)  # type: ignore[untyped-decorator]
def _cap(scores: Any, softcap: Any) -> None:
    for index in range(len(scores)):
        scores[index] = softcap * (_one - _two / (_exponential(_two * scores[index] / softcap) + _one))


@njit(**_MAXIMUM)  # type: ignore[untyped-decorator]
def _largest(scores: Any) -> Any:
    found = scores[0]
    for index in range(1, len(scores)):
        found = max(found, scores[index])
    return found


@njit(**_LOOPS)  # type: ignore[untyped-decorator]
def _normalise(scores: Any, sinks: Any) -> None:
    """`sinks` is empty, or holds the logit that this head adds for attending to nothing."""
    largest, total = _largest(scores), _zero
    if len(sinks):
        largest = max(largest, sinks[0])
        total = _exponential(sinks[0] - largest)
    for index in range(len(scores)):
        weight = _exponential(scores[index] - largest)
        scores[index] = weight
        total += weight
    share = _one / total
    for index in range(len(scores)):
        scores[index] *= share


@njit(**_LOOPS)  # type: ignore[untyped-decorator]
def _mix(output: Any, weights: Any, values: Any, first: Any, end: Any) -> None:
    """Eight positions at a time, for which the output is read and written once."""
    output[:] = _zero
    place = first
    while place + 8 <= end:
        for head in range(output.shape[0]):
            share = weights[head, place : place + 8]
            for index in range(output.shape[1]):
                output[head, index] += (
                    share[0] * _number(values[place, index])
                    + share[1] * _number(values[place + 1, index])
                    + share[2] * _number(values[place + 2, index])
                    + share[3] * _number(values[place + 3, index])
                    + share[4] * _number(values[place + 4, index])
                    + share[5] * _number(values[place + 5, index])
                    + share[6] * _number(values[place + 6, index])
                    + share[7] * _number(values[place + 7, index])
                )
        place += 8
    for rest in range(place, end):
        for head in range(output.shape[0]):
            weight = weights[head, rest]
            for index in range(output.shape[1]):
                output[head, index] += weight * _number(values[rest, index])


def _attend_tokens(
    query: Any,
    keys: Any,
    values: Any,
    tokens: Any,
    places: Any,
    positions: Any,
    window: Any,
    scale: Any,
    softcap: Any,
    sinks: Any,
    output: Any,
) -> None:
    """`query` and `output` `(all tokens, heads, dimension)`; token `tokens[i]` is position `positions[i]` of the
    sequence at `places[i]` of `keys` and `values`. `window` and `softcap` 0 are none, as are empty `sinks`."""
    shared_by = query.shape[1] // keys.shape[1]
    weights = np.empty((shared_by, keys.shape[2]), np.float32)
    for index in range(len(tokens)):
        token, place, end = tokens[index], places[index], positions[index] + 1
        first = max(0, end - window) if window else 0
        for key_head in range(keys.shape[1]):
            heads = slice(key_head * shared_by, (key_head + 1) * shared_by)
            _score(weights, query[token, heads], keys[place, key_head], first, end, scale)
            for shared in range(shared_by):
                if softcap:
                    _cap(weights[shared, first:end], softcap)
                head = key_head * shared_by + shared
                _normalise(weights[shared, first:end], sinks[head : head + 1])
            _mix(output[token, heads], weights, values[place, key_head], first, end)


def _write_tokens(cached: Any, new: Any, places: Any, positions: Any) -> None:
    """`new` `(tokens, key heads, dimension)`: the first of them, one for each of `places`."""
    for index in range(len(places)):
        for head in range(new.shape[1]):
            row = cached[places[index], head, positions[index]]
            for each in range(new.shape[2]):
                row[each] = new[index, head, each]


@dataclass(frozen=True, slots=True)
class TokenKernels:
    """`_attend_tokens` and `_write_tokens`, compiled at their first call."""

    attend: Callable[..., None]
    write: Callable[..., None]


def compile_kernels() -> TokenKernels:
    """For this CPU; a second or two, once for a folder that can be written, else once a process."""
    try:
        return TokenKernels(njit(cache=True, **_LOOPS)(_attend_tokens), njit(cache=True, **_LOOPS)(_write_tokens))
    except RuntimeError:  # no folder to keep them in
        return TokenKernels(njit(**_LOOPS)(_attend_tokens), njit(**_LOOPS)(_write_tokens))
