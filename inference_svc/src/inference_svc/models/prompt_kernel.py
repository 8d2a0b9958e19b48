"""Attention of a prompt's tokens to what comes before them, compiled for processors of AVX2 and FMA.

Heads that share keys, of one token after the other, are columns of panels: products with keys, 64 positions at a time,
come out as a row a position, whose largest numbers and exponentials are taken side by side; then the panel's columns
are rows of products with values. What was summed before is scaled when a larger product comes (Milakov and Gimelshein,
2018), so nothing is kept of all positions. Positions that no token of a panel may see are passed over.

The positions are parted at multiples of 64 and a token's sums know only what it sees: the same bits in any company, in
any chunks and on any number of threads.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import carray, njit

from inference_svc.models.compiled import LOOPS, compile_work, exponential, float_of_bits, floats, sizes, take
from inference_svc.models.tile_kernel import FLOAT_BYTES, INPUTS_AT_ONCE, PANEL, tile
from inference_svc.models.torch_threads import Work

_KEYS = 64  # positions at once
_zero, _one, _two = np.float32(0.0), np.float32(1.0), np.float32(2.0)
_NOTHING = np.float32(-np.inf)
_LEAST = np.float32(np.finfo(np.float32).min)
_VANISHING = np.float32(-87.0)

_one_key, _two_keys, _three_keys = (tile(rows, adds=False) for rows in (1, 2, 3))
_one_column, _two_columns, _three_columns = (tile(rows, input_step=PANEL) for rows in (1, 2, 3))


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _multiply_keys(panel: Any, keys: Any, count: Any, size: Any, scores: Any) -> None:
    """Scores `(count, PANEL)` of a panel `(size, PANEL)` of queries with keys `(count, size)`; all are addresses."""
    row = 0
    while row < count:
        left = count - row
        key, into = keys + row * size * FLOAT_BYTES, scores + row * PANEL * FLOAT_BYTES
        if left == 1:
            _one_key(panel, key, into, size, size, PANEL, 0)
            row += 1
        elif left == 2 or left == 4:
            _two_keys(panel, key, into, size, size, PANEL, 0)
            row += 2
        else:
            _three_keys(panel, key, into, size, size, PANEL, 0)
            row += 3


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _add_values(panel: Any, weights: Any, count: Any, columns: Any, sums: Any, stride: Any) -> None:
    """To sums, `columns` rows of a panel's width that lie `stride` apart, those of values `(count, PANEL)` times
    weights `(count, PANEL)`; all are addresses."""
    column = 0
    while column < columns:
        left = columns - column
        weight, into = weights + column * FLOAT_BYTES, sums + column * stride * FLOAT_BYTES
        if left == 1:
            _one_column(panel, weight, into, count, 1, stride, 0)
            column += 1
        elif left == 2 or left == 4:
            _two_columns(panel, weight, into, count, 1, stride, 0)
            column += 2
        else:
            _three_columns(panel, weight, into, count, 1, stride, 0)
            column += 3


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _cap(scores: Any, softcap: Any) -> None:
    for key in range(len(scores)):
        for column in range(PANEL):
            raised = exponential(_two * scores[key, column] / softcap)
            scores[key, column] = softcap * (_one - _two / (raised + _one))


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _hide(scores: Any, first: Any, positions: Any, window: Any) -> None:
    """Of scores `(count, PANEL)` with positions from `first` on, those that a column's own position does not see."""
    for key in range(len(scores)):
        for column in range(PANEL):
            distance = positions[column] - np.int32(first + key)
            if distance < 0 or distance >= window:
                scores[key, column] = _NOTHING


@njit(**{**LOOPS, "fastmath": {"reassoc", "contract", "nsz", "arcp", "nnan"}})  # type: ignore[untyped-decorator]
def _raise(largest: Any, scores: Any) -> None:
    for key in range(0, len(scores), INPUTS_AT_ONCE):
        for column in range(PANEL):
            one = max(scores[key, column], scores[key + 1, column])
            two = max(scores[key + 2, column], scores[key + 3, column])
            largest[column] = max(largest[column], max(one, two))


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _weigh(scores: Any, largest: Any, totals: Any) -> None:
    """Scores become weights, which are added to the totals."""
    for key in range(0, len(scores), INPUTS_AT_ONCE):
        for column in range(PANEL):
            total = _zero
            for turn in range(INPUTS_AT_ONCE):
                above = scores[key + turn, column] - largest[column]
                weight = _zero if above < _VANISHING else exponential(above)
                scores[key + turn, column] = weight
                total += weight
            totals[column] += total


@njit(**LOOPS)  # type: ignore[untyped-decorator]
def _attend_block(
    query: Any,
    output: Any,
    keys: Any,
    values: Any,
    first_position: Any,
    first_head: Any,
    shared_by: Any,
    window: Any,
    scale: Any,
    softcap: Any,
    sinks: Any,
) -> None:
    """`query` `(tokens, heads, size)` of positions `first_position` and up, of whose heads `shared_by` from
    `first_head` on see `keys` and `values` `(positions, size)`; `output` like `query`."""
    row_count = len(query) * shared_by
    panel_count = -(-row_count // PANEL)
    size, value_size = keys.shape[1], values.shape[1]
    value_panels = -(-value_size // PANEL)
    stride = value_panels * PANEL
    queries = np.zeros((panel_count, size, PANEL), np.float32)
    sums = np.zeros((panel_count * PANEL, stride), np.float32)
    largest = np.full((panel_count, PANEL), _LEAST, np.float32)
    totals = np.zeros((panel_count, PANEL), np.float32)
    positions = np.full((panel_count, PANEL), first_position + len(query) - 1, np.int32)
    scores = np.empty((_KEYS, PANEL), np.float32)
    before = np.empty(PANEL, np.float32)
    columns = np.zeros((value_panels, _KEYS, PANEL), np.float32)
    for row in range(row_count):
        panel, column = row // PANEL, row % PANEL
        token, head = row // shared_by, first_head + row % shared_by
        positions[panel, column] = first_position + token
        for index in range(size):
            queries[panel, index, column] = query[token, head, index] * scale
        if len(sinks):
            largest[panel, column], totals[panel, column] = sinks[head], _one
    end = first_position + len(query)
    seen = max(0, first_position + 1 - window) // _KEYS * _KEYS
    for first in range(seen, end, _KEYS):
        whole = min(_KEYS, -(-(end - first) // INPUTS_AT_ONCE) * INPUTS_AT_ONCE)
        for part in range(value_panels):
            left = min(PANEL, value_size - part * PANEL)
            for key in range(whole):
                for column in range(left):
                    columns[part, key, column] = values[first + key, part * PANEL + column]
        for panel in range(panel_count):
            least, most = positions[panel, 0], positions[panel, PANEL - 1]
            count = min(_KEYS, most + 1 - first)
            if count <= 0 or first + count <= least + 1 - window:
                continue
            _multiply_keys(queries[panel].ctypes.data, keys[first:].ctypes.data, count, size, scores.ctypes.data)
            rounded = -(-count // INPUTS_AT_ONCE) * INPUTS_AT_ONCE
            for key in range(count, rounded):
                for column in range(PANEL):
                    scores[key, column] = _NOTHING
            of_block = scores[:rounded]
            if softcap:
                _cap(of_block, softcap)
            if least < first + count - 1 or first <= most - window:
                _hide(of_block, first, positions[panel], window)
            for column in range(PANEL):
                before[column] = largest[panel, column]
            _raise(largest[panel], of_block)
            for column in range(PANEL):
                fallen = before[column] - largest[panel, column]
                before[column] = _zero if fallen < _VANISHING else exponential(fallen)
                totals[panel, column] *= before[column]
            _weigh(of_block, largest[panel], totals[panel])
            rows = min(PANEL, row_count - panel * PANEL)
            for column in range(rows):
                if before[column] != _one:
                    for index in range(stride):
                        sums[panel * PANEL + column, index] *= before[column]
            for part in range(value_panels):
                into = sums[panel * PANEL, part * PANEL :].ctypes.data
                _add_values(columns[part].ctypes.data, scores.ctypes.data, rounded, rows, into, stride)
    for row in range(row_count):
        token, head = row // shared_by, first_head + row % shared_by
        share = _one / totals[row // PANEL, row % PANEL]
        for index in range(value_size):
            output[token, head, index] = sums[row, index] * share


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
    shared_by = heads // key_heads
    while True:
        part = take(order.ctypes.data, 1)
        if part >= block_count * key_heads:
            return
        first, count, place, position = blocks[part // key_heads]
        key_head = part % key_heads
        _attend_block(
            query[first : first + count],
            output[first : first + count],
            keys[place, key_head],
            values[place, key_head],
            position,
            key_head * shared_by,
            shared_by,
            window,
            float_of_bits(np.int32(scale_bits)),
            float_of_bits(np.int32(softcap_bits)),
            carray(floats(sinks_at), sink_count),
        )


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
