"""Which blocks of a paged cache hold each slot's tokens. Pure: it never sees the cache itself.

A slot's table begins with blocks that other sequences filled and go on being read by them; the rest are its own. Full
blocks of what is computed and known to be finite can be found by others at once, and are written no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from inference_svc.engine.block_keys import BlockKeys
from inference_svc.engine.runner import Row
from inference_svc.models.block_pool import BlockPool, PrefixCounts
from inference_svc.requests import Generation


@dataclass(slots=True, eq=False)
class _Reader:
    """The sequence in a slot. `token_ids` are computed, or found, and known to be finite; `at_open` were known when it
    took the slot, and `wanted` are the keys of those blocks that it would take from others."""

    keys: BlockKeys | None  # None: it shares nothing
    at_open: tuple[int, ...]
    wanted: Sequence[bytes]
    blocks: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)


class BlockTables:
    """`rows` are the tables, `(slots, blocks of the longest context) int32`; places that hold no block name
    `scratch`, a block of nobody's."""

    def __init__(
        self,
        pool: BlockPool,
        slot_count: int,
        max_context_tokens: int,
        *,
        shares: bool = True,
        shares_answers: bool = True,
    ) -> None:
        """Without `shares` every slot has blocks of its own; without `shares_answers` a prompt finds only what was
        computed as a prompt."""
        self.scratch = pool.block_count
        self.rows: npt.NDArray[np.int32] = np.full(
            (slot_count, -(-max_context_tokens // pool.block_tokens)), self.scratch, dtype=np.int32
        )
        self._pool = pool
        self._shares = shares
        self._shares_answers = shares_answers
        self._readers: dict[int, _Reader] = {}
        self._held = 0  # blocks, counted once for each holder

    @property
    def block_tokens(self) -> int:
        return self._pool.block_tokens

    @property
    def token_count(self) -> int:
        return self._pool.block_count * self._pool.block_tokens

    def counts(self) -> PrefixCounts:
        return self._pool.counts()

    @property
    def tokens_held_again(self) -> int:
        """Tokens of blocks, once for each holder after the first."""
        distinct = self._pool.block_count - self._pool.available
        return (self._held - distinct) * self._pool.block_tokens

    def tokens_held_with_others(self, slot: int) -> int:
        """Tokens of blocks that stay held when this slot is closed."""
        reader = self._readers.get(slot)
        shared = 0 if reader is None else sum(self._pool.holders(block) > 1 for block in reader.blocks)
        return shared * self._pool.block_tokens

    def open(self, slot: int, generation: Generation) -> int:
        """How many leading tokens the slot holds now, fewer than there are."""
        token_ids = (*generation.prompt_ids, *generation.resumed_ids)
        if not self._shares:
            self._readers[slot] = _Reader(None, token_ids, ())
            return 0
        keys, wanted = self._keys_of(generation, token_ids)
        self._readers[slot] = _Reader(keys, token_ids, wanted)
        return self._take_found(slot, len(token_ids))

    def tokens_to_share(self, generation: Generation) -> int:
        """Tokens of held blocks that a slot would hold too if it were opened for this now."""
        if not self._shares:
            return 0
        _, wanted = self._keys_of(generation, (*generation.prompt_ids, *generation.resumed_ids))
        found = self._pool.match(wanted)
        self._pool.release(found)
        return sum(self._pool.holders(block) > 0 for block in found) * self._pool.block_tokens

    def _keys_of(self, generation: Generation, token_ids: Sequence[int]) -> tuple[BlockKeys, tuple[bytes, ...]]:
        """The sequence's keys, and those that it would take from others."""
        exact_length = None if self._shares_answers else len(generation.prompt_ids)
        keys = BlockKeys(generation.context.tenant, self._pool.block_tokens, exact_length)
        keys.follow(token_ids)
        # The last token is computed anew, for its logits; so is all of a prompt whose logprobs are asked for.
        scores = generation.detail.prompt_logprobs and not generation.resumed_ids
        return keys, () if scores else tuple(keys.keys[: (len(token_ids) - 1) // self._pool.block_tokens])

    def look_again(self, slot: int) -> int:
        """As `open`, when others may have computed more of the same beginning since."""
        reader = self._readers[slot]
        first = len(reader.token_ids) // self._pool.block_tokens
        if first < len(reader.wanted) and self._pool.has(reader.wanted[first]):
            return self._take_found(slot, 0)
        return len(reader.token_ids)

    def reach(self, slot: int, token_count: int) -> None:
        """Have blocks for so many leading tokens; a slot that nobody opened shares nothing. Raises NoFreeBlocks, and
        has then taken none."""
        reader = self._readers.setdefault(slot, _Reader(None, (), ()))
        missing = -(-token_count // self._pool.block_tokens) - len(reader.blocks)
        if missing > 0:
            self._put(slot, len(reader.blocks), self._pool.take(missing))

    def keep(self, row: Row) -> None:
        """A row of the slot is computed and known to be finite."""
        reader = self._readers.get(row.slot)
        if reader is None or row.start > len(reader.token_ids):
            return
        before = len(reader.token_ids) // self._pool.block_tokens
        reader.token_ids += row.token_ids[len(reader.token_ids) - row.start :]
        if reader.keys is not None and len(reader.token_ids) // self._pool.block_tokens > before:
            reader.keys.follow(reader.token_ids)
            for index in range(before, len(reader.token_ids) // self._pool.block_tokens):
                self._publish(row.slot, index, reader.keys.keys[index])

    def close(self, slot: int) -> None:
        reader = self._readers.pop(slot, None)
        if reader is not None:
            self._held -= len(reader.blocks)
            self._pool.release(reader.blocks)
            self.rows[slot, : len(reader.blocks)] = self.scratch

    def blocks_of(self, slot: int) -> list[int]:
        reader = self._readers.get(slot)
        return [] if reader is None else list(reader.blocks)

    def _take_found(self, slot: int, asked_tokens: int) -> int:
        """Found blocks take the place of those that the slot would fill, or has begun to fill, itself."""
        reader = self._readers[slot]
        first = len(reader.token_ids) // self._pool.block_tokens
        found = self._pool.match(reader.wanted[first:], asked_tokens)
        if found:
            begun = reader.blocks[first : first + len(found)]
            self._held -= len(begun)
            self._pool.release(begun)
            self._put(slot, first, found)
            reader.token_ids = list(reader.at_open[: (first + len(found)) * self._pool.block_tokens])
        return len(reader.token_ids)

    def _publish(self, slot: int, index: int, key: bytes) -> None:
        """Where another sequence was faster, its block serves both."""
        blocks = self._readers[slot].blocks
        if not self._pool.publish(blocks[index], key):
            theirs = self._pool.match([key])
            self._pool.release([blocks[index]])
            blocks[index : index + 1] = theirs
            self.rows[slot, index] = theirs[0]

    def _put(self, slot: int, first: int, blocks: list[int]) -> None:
        self._readers[slot].blocks[first : first + len(blocks)] = blocks
        self._held += len(blocks)
        self.rows[slot, first : first + len(blocks)] = blocks
