"""Attention of a prompt's tokens to what comes before them, compiled for processors of AVX2 and FMA.

Heads that share keys, of one token after the other, are columns of panels: products with keys, 64 positions at a time,
come out as a row a position, whose largest numbers and exponentials are taken side by side; then the panel's columns
are rows of products with values. What was summed before is scaled when a larger product comes (Milakov and Gimelshein,
2018), so nothing is kept of all positions. Positions that no token of a panel may see are passed over.

The positions are parted at multiples of 64 and a token's sums know only what it sees: the same bits in any company, in
any chunks and on any number of threads.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import carray, njit

from inference_svc.models.compiled import (
    LOOPS,
    MAXIMA,
    capped,
    compile_work,
    exponential,
    float_of_bits,
    floats,
    sizes,
    take,
)
from inference_svc.models.tile_kernel import FLOAT_BYTES, INPUTS_AT_ONCE, PANEL, tiles
from inference_svc.models.torch_threads import Work

_KEYS = 64  # positions at once: sums are parted there
_zero, _one = np.float32(0.0), np.float32(1.0)
_HIDDEN = np.float32(-np.inf)  # the score of what is not seen
_LEAST = np.float32(np.finfo(np.float32).min)  # the largest score of nothing: a difference to it is a number
_VANISHING = np.float32(-87.0)  # scores so far below the largest weigh 0

_multiply_keys = tiles(adds=False)
_add_values = tiles(input_step=PANEL)


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _cap(scores: Any, softcap: Any) -> None:
    for key in range(len(scores)):
        for column in range(PANEL):
            scores[key, column] = capped(scores[key, column], softcap)


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _hide(scores: Any, first: Any, positions: Any, window: Any) -> None:
    """Of scores `(count, PANEL)` with positions from `first` on, those that a column's own position does not see."""
    for key in range(len(scores)):
        for column in range(PANEL):
            distance = positions[column] - np.int32(first + key)
            if distance < 0 or distance >= window:
                scores[key, column] = _HIDDEN


@njit(**MAXIMA)  # type: ignore[untyped-decorator]
def _raise(largest: Any, scores: Any) -> None:
    """The largest of each column so far, and of scores `(positions, PANEL)`."""
    for key in range(0, len(scores), INPUTS_AT_ONCE):
        for column in range(PANEL):
            one = max(scores[key, column], scores[key + 1, column])
            two = max(scores[key + 2, column], scores[key + 3, column])
            largest[column] = max(largest[column], max(one, two))


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _weigh(scores: Any, largest: Any, totals: Any) -> None:
    """Scores become weights, which are added to the totals; what is hidden weighs nothing, and not nearly nothing."""
    for key in range(0, len(scores), INPUTS_AT_ONCE):
        for column in range(PANEL):
            total = _zero
            for turn in range(INPUTS_AT_ONCE):
                above = scores[key + turn, column] - largest[column]
                weight = _zero if above < _VANISHING else exponential(above)
                scores[key + turn, column] = weight
                total += weight
            totals[column] += total


class _Scratch(NamedTuple):
    """What one thread works in: of a block's panels, and of 64 positions."""

    queries: Any
    """`(panels, size, PANEL)`, scaled."""
    positions: Any
    """`(panels, PANEL)`: of each column's token."""
    largest: Any
    totals: Any
    """`(panels, PANEL)`: the largest product so far, and the sum of weights."""
    sums: Any
    """`(panels, PANEL, value size)`, the last filled up to whole panels: of values times weights."""
    scores: Any
    """`(positions, PANEL)`: products, then weights."""
    factors: Any
    """`(PANEL)`: what the sums so far are scaled by."""
    values: Any
    """`(panels of values, positions, PANEL)`."""


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _scratch(row_count: Any, size: Any, value_size: Any) -> Any:
    """For blocks of so many rows, which are heads of tokens."""
    panels, value_panels = -(-row_count // PANEL), -(-value_size // PANEL)
    return _Scratch(
        np.empty((panels, size, PANEL), np.float32),
        np.empty((panels, PANEL), np.int32),
        np.empty((panels, PANEL), np.float32),
        np.empty((panels, PANEL), np.float32),
        np.empty((panels, PANEL, value_panels * PANEL), np.float32),
        np.empty((_KEYS, PANEL), np.float32),
        np.empty(PANEL, np.float32),
        np.zeros((value_panels, _KEYS, PANEL), np.float32),
    )


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _take_queries(query: Any, first_position: Any, scale: Any, sinks: Any, scratch: Any) -> None:
    """`query` `(tokens, heads, size)`; of columns that are left over in the last panel there is a query of zeros."""
    tokens, heads, size = query.shape
    row_count = tokens * heads
    for panel in range(-(-row_count // PANEL)):
        queries = scratch.queries[panel]
        for column in range(PANEL):
            row = panel * PANEL + column
            token, head = min(row // heads, tokens - 1), row % heads
            scratch.positions[panel, column] = first_position + token
            scratch.largest[panel, column] = max(sinks[head], _LEAST) if len(sinks) else _LEAST
            scratch.totals[panel, column] = _one if len(sinks) and sinks[head] >= _LEAST else _zero
            factor = scale if row < row_count else _zero
            for index in range(size):
                queries[index, column] = query[token, head, index] * factor
            for index in range(scratch.sums.shape[2]):
                scratch.sums[panel, column, index] = _zero


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _take_values(values: Any, count: Any, panels: Any) -> None:
    """The first of `values` `(positions, size)`."""
    for part in range(len(panels)):
        left = min(PANEL, values.shape[1] - part * PANEL)
        for position in range(count):
            for column in range(left):
                panels[part, position, column] = values[position, part * PANEL + column]


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _attend_panel(
    scratch: Any, panel: Any, row_count: Any, keys: Any, first: Any, count: Any, window: Any, softcap: Any
) -> None:
    """Of the panel's first rows, what `count` positions from `first` on add."""
    positions, largest, totals, sums = (
        scratch.positions[panel],
        scratch.largest[panel],
        scratch.totals[panel],
        scratch.sums[panel],
    )
    size, stride = keys.shape[1], sums.shape[1]
    scores_at = scratch.scores.ctypes.data
    queries_at, keys_at = scratch.queries[panel].ctypes.data, keys[first:].ctypes.data
    _multiply_keys(queries_at, keys_at, scores_at, count, size, size, PANEL)
    if softcap:
        _cap(scratch.scores[:count], softcap)
    rounded = -(-count // INPUTS_AT_ONCE) * INPUTS_AT_ONCE
    for key in range(count, rounded):
        for column in range(PANEL):
            scratch.scores[key, column] = _HIDDEN
    scores = scratch.scores[:rounded]
    if positions[0] < first + count - 1 or first <= positions[PANEL - 1] - window:
        _hide(scores, first, positions, window)
    for column in range(PANEL):
        scratch.factors[column] = largest[column]
    _raise(largest, scores)
    for column in range(PANEL):
        fallen = scratch.factors[column] - largest[column]
        scratch.factors[column] = _zero if fallen < _VANISHING else exponential(fallen)
        totals[column] *= scratch.factors[column]
    _weigh(scores, largest, totals)
    for row in range(row_count):
        if scratch.factors[row] != _one:
            for index in range(stride):
                sums[row, index] *= scratch.factors[row]
    for part in range(len(scratch.values)):
        into = sums.ctypes.data + part * PANEL * FLOAT_BYTES
        _add_values(scratch.values[part].ctypes.data, scores_at, into, row_count, rounded, 1, stride)


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _attend_block(
    query: Any,
    output: Any,
    keys: Any,
    values: Any,
    first_position: Any,
    window: Any,
    scale: Any,
    softcap: Any,
    sinks: Any,
    scratch: Any,
) -> None:
    """`query` and `output` `(tokens, heads that share keys, size)`, of positions `first_position` and up, `keys` and
    `values` `(positions, size)`. `softcap` 0 is none, as are empty `sinks`."""
    tokens, heads = query.shape[0], query.shape[1]
    row_count, end = tokens * heads, first_position + tokens
    _take_queries(query, first_position, scale, sinks, scratch)
    for first in range(max(0, first_position + 1 - window) // _KEYS * _KEYS, end, _KEYS):
        rounded = -(-(end - first) // INPUTS_AT_ONCE) * INPUTS_AT_ONCE
        _take_values(values[first:], min(_KEYS, rounded), scratch.values)
        for panel in range(-(-row_count // PANEL)):
            least, most = scratch.positions[panel, 0], scratch.positions[panel, PANEL - 1]
            count = min(_KEYS, most + 1 - first)
            if count > 0 and first + count > least + 1 - window:
                rows = min(PANEL, row_count - panel * PANEL)
                _attend_panel(scratch, panel, rows, keys, first, count, window, softcap)
    for row in range(row_count):
        panel, column = row // PANEL, row % PANEL
        share = _one / scratch.totals[panel, column]
        for index in range(values.shape[1]):
            output[row // heads, row % heads, index] = scratch.sums[panel, column, index] * share


BLOCK_SIZE = 4
"""Numbers of a block: its first token, how many, its sequence's place, and the first token's position."""

ATTENDING_SIZE, KEEPING_SIZE = 19, 13
"""Numbers of an order, the counter first."""


def _attend(numbers: Any) -> None:
    """Takes parts until none is left: blocks of tokens, by the heads that share keys. Any number of threads may."""
    order = carray(numbers, (ATTENDING_SIZE,))
    query_at, output_at, sinks_at, blocks_at, keys_at, values_at = order[1:7]
    block_count, row_count, heads, key_heads, place_count, capacity = order[7:13]
    key_size, value_size, window, scale_bits, softcap_bits, sink_count = order[13:19]
    query = carray(floats(query_at), (row_count, heads, key_size))
    output = carray(floats(output_at), (row_count, heads, value_size))
    keys = carray(floats(keys_at), (place_count, key_heads, capacity, key_size))
    values = carray(floats(values_at), (place_count, key_heads, capacity, value_size))
    blocks = carray(sizes(blocks_at), (block_count, BLOCK_SIZE))
    sinks = carray(floats(sinks_at), sink_count)
    shared_by = heads // key_heads
    part = take(order.ctypes.data, 1)
    if part >= block_count * key_heads:
        return  # a thread that comes late
    longest = 0
    for block in range(block_count):
        longest = max(longest, blocks[block, 1])
    scratch = _scratch(longest * shared_by, key_size, value_size)
    while part < block_count * key_heads:
        first, count, place, position = blocks[part // key_heads]
        key_head = part % key_heads
        sharing = slice(key_head * shared_by, (key_head + 1) * shared_by)
        _attend_block(
            query[first : first + count, sharing],
            output[first : first + count, sharing],
            keys[place, key_head],
            values[place, key_head],
            position,
            window,
            float_of_bits(np.int32(scale_bits)),
            float_of_bits(np.int32(softcap_bits)),
            sinks[sharing],
            scratch,
        )
        part = take(order.ctypes.data, 1)


def _keep(numbers: Any) -> None:
    """Takes blocks until none is left, whose keys and values go where their sequences' are. Any number of threads
    may."""
    order = carray(numbers, (KEEPING_SIZE,))
    new_keys_at, new_values_at, blocks_at, keys_at, values_at = order[1:6]
    block_count, row_count, key_heads, place_count, capacity, key_size, value_size = order[6:13]
    new_keys = carray(floats(new_keys_at), (row_count, key_heads, key_size))
    new_values = carray(floats(new_values_at), (row_count, key_heads, value_size))
    keys = carray(floats(keys_at), (place_count, key_heads, capacity, key_size))
    values = carray(floats(values_at), (place_count, key_heads, capacity, value_size))
    blocks = carray(sizes(blocks_at), (block_count, BLOCK_SIZE))
    while True:
        block = take(order.ctypes.data, 1)
        if block >= block_count:
            return
        first, count, place, position = blocks[block]
        for head in range(key_heads):
            for token in range(count):
                for index in range(key_size):
                    keys[place, head, position + token, index] = new_keys[first + token, head, index]
                for index in range(value_size):
                    values[place, head, position + token, index] = new_values[first + token, head, index]


@cache
def compile_prompt_attention() -> Work:
    return compile_work(_attend)


@cache
def compile_keeping() -> Work:
    return compile_work(_keep)
