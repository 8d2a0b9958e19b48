"""How the rows of a step are laid end to end, and which tokens attend together.

A token of the prompt attends in a block of prompt positions; a token of the answer attends alone, whether it was just
sampled or comes again after preemption or resume. Blocks start at fixed positions and key lengths depend on nothing
but the token's own position, so neither the batch nor the chunking changes the shape in which a token is computed.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from inference_svc.engine.runner import Row
from inference_svc.models.kv_cache import SlotCache, padded_length

QUERY_BLOCK = 64
"""Prompt positions are attended in aligned blocks of this many queries: a multiple of what the CPU kernel splits by."""


@dataclass(frozen=True, slots=True)
class Span:
    """Packed tokens `first` up to `last` are positions `start` and up of the sequence at `place`."""

    first: int
    last: int
    place: int
    start: int


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Packed tokens `first` up to `last`, each attending alone to at most `key_length` keys: when `shared`, all to
    `place`, else each to its own of the plan's `decode_places`, which is `place + i - first` for token i if the plan
    laid them side by side."""

    first: int
    last: int
    place: int
    shared: bool
    key_length: int


@dataclass(frozen=True, slots=True)
class PromptBlock:
    """Packed tokens `first` up to `last`, at `offset` and up of the query block that begins at position `start`."""

    first: int
    last: int
    place: int
    start: int
    offset: int
    key_length: int


_Piece = TypeVar("_Piece", Span, DecodeGroup, PromptBlock)


@dataclass(slots=True)
class StepPlan:
    token_ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    decode_places: list[int] = field(default_factory=list)  # of the first tokens: those that are one row of one token
    groups: list[DecodeGroup] = field(default_factory=list)
    blocks: list[PromptBlock] = field(default_factory=list)
    writes: list[Span] = field(default_factory=list)  # of the other tokens
    row_ends: list[int] = field(default_factory=list)  # packed index behind each row's last token, by row

    @property
    def attends(self) -> bool:
        return bool(self.groups or self.blocks)


def plan_step(
    rows: Sequence[Row], prompt_lengths: Mapping[int, int], cache: SlotCache, *, side_by_side: bool = True
) -> StepPlan:
    """Lay the rows out. `prompt_lengths` is by slot.

    With `side_by_side`, the sequences of a decode group are brought together in the cache; without, each stays where it
    is and all that decode are one group.
    """
    plan = StepPlan(row_ends=[0] * len(rows))
    alone: dict[int, list[int]] = defaultdict(list)  # key length -> rows
    for index, row in enumerate(rows):
        cache.note_written(row.slot, row.start + len(row.token_ids))
        if len(row.token_ids) == 1 and row.start >= prompt_lengths[row.slot]:
            alone[padded_length(row.start + 1) if side_by_side else cache.capacity].append(index)
    lengths = sorted(alone)
    if side_by_side:
        cache.arrange([[rows[index].slot for index in alone[length]] for length in lengths])
    for length in lengths:
        _add_decode_rows(plan, rows, alone[length], length, cache)
    together = {index for members in alone.values() for index in members}
    for index, row in enumerate(rows):
        if index not in together:
            _add_chunk(plan, row, prompt_lengths[row.slot], cache.place_of(row.slot))
            plan.row_ends[index] = len(plan.token_ids)
    return plan


def _add_decode_rows(plan: StepPlan, rows: Sequence[Row], members: list[int], length: int, cache: SlotCache) -> None:
    first = len(plan.token_ids)
    members = sorted(members, key=lambda index: cache.place_of(rows[index].slot))
    for index in members:
        row = rows[index]
        plan.token_ids.append(row.token_ids[0])
        plan.positions.append(row.start)
        plan.decode_places.append(cache.place_of(row.slot))
        plan.row_ends[index] = len(plan.token_ids)
    plan.groups.append(DecodeGroup(first, len(plan.token_ids), plan.decode_places[first], False, length))


def _add_chunk(plan: StepPlan, row: Row, prompt_length: int, place: int) -> None:
    first, start, end = len(plan.token_ids), row.start, row.start + len(row.token_ids)
    plan.token_ids.extend(row.token_ids)
    plan.positions.extend(range(start, end))
    plan.writes.append(Span(first, len(plan.token_ids), place, start))
    packed = first - start  # what leads from a position to its packed index
    position, prompt_end = start, min(end, prompt_length)
    while position < prompt_end:
        block = position - position % QUERY_BLOCK
        until = min(block + QUERY_BLOCK, prompt_end)
        length = padded_length(block + QUERY_BLOCK)
        plan.blocks.append(PromptBlock(packed + position, packed + until, place, block, position - block, length))
        position = until
    while position < end:
        length = padded_length(position + 1)
        until = min(length, end)
        plan.groups.append(DecodeGroup(packed + position, packed + until, place, True, length))
        position = until


def part_of_plan(plan: StepPlan, runs: Sequence[tuple[int, int]], *, attends: bool) -> StepPlan:
    """What a plan says of some of its tokens, packed anew: those of `runs`, each from its first index up to its second,
    in order. Of the tokens that are one row each, all must be among them, or none. Without `attends`, their keys and
    values are written and that is all."""
    part = StepPlan()
    for first, last in runs:
        moved = len(part.token_ids) - first
        part.token_ids += plan.token_ids[first:last]
        part.positions += plan.positions[first:last]
        if first < len(plan.decode_places):
            part.decode_places = plan.decode_places
        for span, start, end in _within(plan.writes, first, last):
            part.writes.append(Span(start + moved, end + moved, span.place, span.start + start - span.first))
        if attends:
            for group, start, end in _within(plan.groups, first, last):
                part.groups.append(replace(group, first=start + moved, last=end + moved))
            for block, start, end in _within(plan.blocks, first, last):
                offset = block.offset + start - block.first
                part.blocks.append(replace(block, first=start + moved, last=end + moved, offset=offset))
    return part


def _within(pieces: Sequence[_Piece], first: int, last: int) -> Iterator[tuple[_Piece, int, int]]:
    """Those that have tokens between these indices, and which."""
    for piece in pieces:
        if piece.first < last and first < piece.last:
            yield piece, max(piece.first, first), min(piece.last, last)
