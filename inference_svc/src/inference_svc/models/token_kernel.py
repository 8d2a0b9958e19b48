"""Attention of single tokens to their own sequences, compiled for this CPU: plain loops that read each key and value
once, from where it lies, and ask for what comes next in time, the next head's and the next sequence's too.

torch multiplies few queries by many keys with a matrix kernel that first copies the keys into another order, and needs
equal lengths. Here a token's numbers depend on nothing but its own sequence.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.extending import overload

from inference_svc.models.compiled import (
    LINE_BYTES,
    LOOPS,
    MAXIMA,
    capped,
    compile_work,
    exponential,
    float_of_bits,
    floats,
    halves,
    prefetch,
    sizes,
    take,
)
from inference_svc.models.torch_threads import Work

_zero, _one = np.float32(0.0), np.float32(1.0)
_AHEAD = 16
"""Positions between what is read and what is asked for."""


def _number(cached: Any) -> Any:
    """What a number of the cache stands for: float32 for itself, int16 for the upper half of a float32 (bfloat16)."""
    raise NotImplementedError


@overload(_number, inline="always")
def _compiled_number(cached):  # type: ignore[no-untyped-def]
    # Without annotations: numba wants the very signature of what is given back.
    if cached == types.int16:
        return lambda cached: float_of_bits(np.int32(cached) << np.int32(16))
    return lambda cached: cached


@njit(inline="always", **LOOPS)  # type: ignore[untyped-decorator]
def _ask_ahead(position: Any, end: Any, rows: Any, following: Any) -> None:
    """`rows` `(positions, dimension)`, of which `end` are read; `following` is the address of what is read then."""
    size = rows.strides[0]
    ahead = position + _AHEAD
    start = rows.ctypes.data + ahead * size if ahead < end else following + (ahead - end) * size
    for offset in range(0, size, LINE_BYTES):
        prefetch(start + offset)


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _score(weights: Any, query: Any, keys: Any, first: Any, end: Any, scale: Any, following: Any) -> None:
    """Four heads at a time: a key is read once for them, and their sums are added side by side."""
    head = 0
    while head + 4 <= query.shape[0]:
        for position in range(first, end):
            if head == 0:
                _ask_ahead(position, end, keys, following)
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


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _cap(scores: Any, softcap: Any) -> None:
    for index in range(len(scores)):
        scores[index] = capped(scores[index], softcap)


@njit(**MAXIMA)  # type: ignore[untyped-decorator]
def _largest(scores: Any) -> Any:
    found = scores[0]
    for index in range(1, len(scores)):
        found = max(found, scores[index])
    return found


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _normalise(scores: Any, sinks: Any) -> None:
    """`sinks` is empty, or holds the logit that this head adds for attending to nothing."""
    largest, total = _largest(scores), _zero
    if len(sinks):
        largest = max(largest, sinks[0])
        total = exponential(sinks[0] - largest)
    for index in range(len(scores)):
        weight = exponential(scores[index] - largest)
        scores[index] = weight
        total += weight
    share = _one / total
    for index in range(len(scores)):
        scores[index] *= share


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _mix(output: Any, weights: Any, values: Any, first: Any, end: Any, following: Any) -> None:
    """Eight positions at a time, for which the output is read and written once."""
    output[:] = _zero
    place = first
    while place + 8 <= end:
        for turn in range(8):
            _ask_ahead(place + turn, end, values, following)
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


@njit(inline="always", **LOOPS)  # type: ignore[untyped-decorator]
def _first_seen(position: Any, window: Any) -> Any:
    return max(0, position + 1 - window) if window else 0


@njit(**LOOPS)  # type: ignore[untyped-decorator]
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
        first = _first_seen(positions[index], window)
        for key_head in range(keys.shape[1]):
            heads = slice(key_head * shared_by, (key_head + 1) * shared_by)
            key_rows, value_rows = keys[place, key_head], values[place, key_head]
            _score(weights, query[token, heads], key_rows, first, end, scale, value_rows[first:].ctypes.data)
            for shared in range(shared_by):
                if softcap:
                    _cap(weights[shared, first:end], softcap)
                head = key_head * shared_by + shared
                _normalise(weights[shared, first:end], sinks[head : head + 1])
            if key_head + 1 < keys.shape[1]:
                following = keys[place, key_head + 1, first:].ctypes.data
            else:
                after = min(index + 1, len(tokens) - 1)
                following = keys[places[after], 0, _first_seen(positions[after], window) :].ctypes.data
            _mix(output[token, heads], weights, value_rows, first, end, following)


@njit(inline="always", **LOOPS)  # type: ignore[untyped-decorator]
def _write(cached: Any, new: Any, place: Any, position: Any) -> None:
    """`new` `(key heads, dimension)`."""
    for head in range(new.shape[0]):
        row = cached[place, head, position]
        for index in range(new.shape[1]):
            row[index] = new[head, index]


ORDER_SIZE = 26


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _attend_parts(order: Any, keys_at: Any, values_at: Any, new_keys_at: Any, new_values_at: Any) -> None:
    """Takes parts until none is left: the tokens between one edge and the next. The first `new_count` tokens are not in
    the cache yet, and are written there before they attend: nobody else reads what they write. Any number of threads
    may, at once."""
    query_at, output_at, sinks_at, tokens_at, places_at, positions_at, edges_at = order[1:8]
    part_count, token_count, row_count, heads, key_heads, place_count, capacity = order[8:15]
    key_size, value_size, window, scale_bits, softcap_bits, sink_count, new_count = order[15:22]
    query = carray(floats(query_at), (row_count, heads, key_size))
    output = carray(floats(output_at), (row_count, heads, value_size))
    keys = carray(keys_at, (place_count, key_heads, capacity, key_size))
    values = carray(values_at, (place_count, key_heads, capacity, value_size))
    new_keys = carray(new_keys_at, (row_count, key_heads, key_size))
    new_values = carray(new_values_at, (row_count, key_heads, value_size))
    tokens, places = carray(sizes(tokens_at), token_count), carray(sizes(places_at), token_count)
    positions, edges = carray(sizes(positions_at), token_count), carray(sizes(edges_at), part_count + 1)
    while True:
        part = take(order.ctypes.data, 1)
        if part >= part_count:
            return
        for index in range(edges[part], min(edges[part + 1], new_count)):
            _write(keys, new_keys[tokens[index]], places[index], positions[index])
            _write(values, new_values[tokens[index]], places[index], positions[index])
        of = slice(edges[part], edges[part + 1])
        _attend_tokens(
            query,
            keys,
            values,
            tokens[of],
            places[of],
            positions[of],
            window,
            float_of_bits(np.int32(scale_bits)),
            float_of_bits(np.int32(softcap_bits)),
            carray(floats(sinks_at), sink_count),
            output,
        )


def _attend_float32(numbers: Any) -> None:
    order = carray(numbers, (ORDER_SIZE,))
    _attend_parts(order, floats(order[22]), floats(order[23]), floats(order[24]), floats(order[25]))


def _attend_bfloat16(numbers: Any) -> None:
    order = carray(numbers, (ORDER_SIZE,))
    _attend_parts(order, halves(order[22]), halves(order[23]), halves(order[24]), halves(order[25]))


@cache
def compile_attention(*, reads_bfloat16: bool = False) -> Work:
    """For this CPU and a cache of float32 or bfloat16."""
    return compile_work(_attend_bfloat16 if reads_bfloat16 else _attend_float32)
