"""Beginnings that sequences have in common are computed once: blocks of keys and values, kept beside the slots.

A slot is read as one stretch, so what is found is copied into it: a few percent of what computing it costs. A block of
a prompt can be found as soon as it is computed; what an answer added, when its sequence leaves the slot.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from inference_svc.engine.block_keys import BlockKeys
from inference_svc.engine.runner import Row
from inference_svc.models.block_pool import BlockPool, PrefixCounts
from inference_svc.models.kv_cache import SlotCache, empty_like
from inference_svc.requests import Generation

BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class PrefixSettings:
    """`token_count` tokens are kept beside what the slots hold; 0 keeps none. A token of an answer is computed in
    another way than one of a prompt and may differ from it in the last bit: without `shares_answers` a prompt finds
    only what was computed as a prompt, and has the same bits whether anything was found or not."""

    token_count: int = 0
    shares_answers: bool = True


@dataclass(slots=True, eq=False)
class _Reader:
    """The sequence in a slot. `token_ids` are computed, or copied, and known to be good; `at_open` were known when it
    took the slot, and `wanted` are the keys of those blocks that it would take from others."""

    keys: BlockKeys
    at_open: tuple[int, ...]
    wanted: Sequence[bytes]
    token_ids: list[int] = field(default_factory=list)


class PrefixStore:
    def __init__(self, cache: SlotCache, settings: PrefixSettings) -> None:
        self._cache = cache
        self._shares_answers = settings.shares_answers
        self._pool = BlockPool(settings.token_count // BLOCK_TOKENS, BLOCK_TOKENS)
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []  # a layer's part of the slots, and of the blocks
        self._readers: dict[int, _Reader] = {}

    def counts(self) -> PrefixCounts:
        return self._pool.counts()

    @property
    def byte_count(self) -> int:
        return sum(kept.nbytes for _, kept in self._layers)

    def open(self, slot: int, generation: Generation) -> int:
        """How many leading tokens the slot holds now, fewer than there are."""
        if not self._pool.block_count:
            return 0
        token_ids = (*generation.prompt_ids, *generation.resumed_ids)
        keys = self._keys_of(generation)
        keys.follow(token_ids)
        # The last token is computed anew, for its logits; so is all of a prompt whose logprobs are asked for.
        scores = generation.detail.prompt_logprobs and not generation.resumed_ids
        wanted = () if scores else tuple(keys.keys[: (len(token_ids) - 1) // BLOCK_TOKENS])
        self._readers[slot] = _Reader(keys, token_ids, wanted)
        return self._copy_found(slot, len(token_ids))

    def look_again(self, slot: int) -> int:
        """As `open`, when others may have computed more of the same beginning since."""
        return self._copy_found(slot, 0) if slot in self._readers else 0

    def keep(self, row: Row, *, is_good: bool) -> None:
        """A row of the slot is computed; with `is_good` its logits are known to be finite."""
        reader = self._readers.get(row.slot)
        if reader is None or row.start > len(reader.token_ids):
            return
        before = len(reader.token_ids) // BLOCK_TOKENS
        reader.token_ids += row.token_ids[len(reader.token_ids) - row.start :]
        if row.start >= len(reader.at_open):
            return  # of the answer
        until = min(len(reader.token_ids), len(reader.at_open)) // BLOCK_TOKENS
        if until > before and (is_good or self._is_finite(row.slot, before, until)):
            self._publish(row.slot, reader.keys.keys[:until], must_hold=before)

    def close(self, slot: int) -> None:
        """Before the slot is cleared."""
        reader = self._readers.pop(slot, None)
        if reader is not None:
            reader.keys.follow(reader.token_ids)
            until = len(reader.token_ids) // BLOCK_TOKENS
            if self._is_finite(slot, 0, until):
                self._publish(slot, reader.keys.keys[:until])

    def _keys_of(self, generation: Generation) -> BlockKeys:
        exact_length = None if self._shares_answers else len(generation.prompt_ids)
        return BlockKeys(generation.context.tenant, BLOCK_TOKENS, exact_length)

    def _copy_found(self, slot: int, asked_tokens: int) -> int:
        reader = self._readers[slot]
        first = len(reader.token_ids) // BLOCK_TOKENS
        if not asked_tokens and not (first < len(reader.wanted) and self._pool.has(reader.wanted[first])):
            return len(reader.token_ids)
        found = self._pool.match(reader.wanted[first:], asked_tokens)
        if found:
            self._to_slot(slot, first, found)
            reader.token_ids = list(reader.at_open[: (first + len(found)) * BLOCK_TOKENS])
        self._pool.release(found)
        return len(reader.token_ids)

    def _publish(self, slot: int, keys: Sequence[bytes], *, must_hold: int = 0) -> None:
        """Keep what is not kept of these leading blocks of a slot, as far as there is place; all count as used now.
        Nothing where fewer than `must_hold` of the first are kept still: they cost a copy that would be lost again."""
        held = self._pool.hold(keys)
        first = len(held)
        if first >= must_hold:
            taken = self._pool.take(min(len(keys) - first, self._pool.available))
            self._to_blocks(slot, first, taken)
            for block, key in zip(taken, keys[first:], strict=False):
                self._pool.publish(block, key)
            held += taken
        self._pool.release(held)

    def _is_finite(self, slot: int, first: int, until: int) -> bool:
        """What is not finite stays so through every later layer: the last one tells of all."""
        place = self._cache.place_of(slot)
        part = self._cache.parts[-1][place, :, first * BLOCK_TOKENS : until * BLOCK_TOKENS]
        return bool(torch.isfinite(part).all())

    def _to_slot(self, slot: int, first: int, blocks: list[int]) -> None:
        place, start = self._cache.place_of(slot), first * BLOCK_TOKENS
        end = start + len(blocks) * BLOCK_TOKENS
        index = torch.tensor(blocks, device=self._layers[0][1].device)
        for part, kept in self._layers:
            _in_blocks(part[place, :, start:end]).copy_(kept[index].transpose(0, 1))
        self._cache.note_written(slot, end)

    def _to_blocks(self, slot: int, first: int, blocks: list[int]) -> None:
        if not blocks:
            return
        if not self._layers:
            self._layers = [(part, self._room_for(part)) for part in self._cache.parts]
        place, start = self._cache.place_of(slot), first * BLOCK_TOKENS
        end = start + len(blocks) * BLOCK_TOKENS
        index = torch.tensor(blocks, device=self._layers[0][1].device)
        for part, kept in self._layers:
            kept[index] = _in_blocks(part[place, :, start:end]).transpose(0, 1)

    def _room_for(self, part: torch.Tensor) -> torch.Tensor:
        _, heads, _, dimension = part.shape
        return empty_like(part, (self._pool.block_count, heads, BLOCK_TOKENS, dimension))


def _in_blocks(stretch: torch.Tensor) -> torch.Tensor:
    """A view, `(heads, blocks, block tokens, dimension)`."""
    heads, tokens, dimension = stretch.shape
    return stretch.view(heads, tokens // BLOCK_TOKENS, BLOCK_TOKENS, dimension)
