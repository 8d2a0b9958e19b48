"""Laws of the pool of cache blocks, whatever sequences of whatever tenants begin, grow and end in whatever order.

Each sequence is held as a paged cache would hold it: found blocks first, then blocks of its own, published when full.
A shadow cache keeps the tokens that each block really holds.
"""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from inference_svc.engine.block_keys import BlockKeys
from inference_svc.models.block_pool import BlockPool, NoFreeBlocks

SIZE = 2
Content = tuple[str, tuple[int, ...]]  # a tenant, and all tokens up to the end of the block


@dataclass(eq=False)
class Held:
    tenant: str
    ids: list[int]
    keys: BlockKeys
    shared: int  # leading blocks that were found
    blocks: list[int] = field(default_factory=list)
    published: int = 0  # blocks that it has tried to publish, or found


class BlockPoolLaws(RuleBasedStateMachine):
    @initialize(blocks=st.integers(1, 8))
    def begin(self, blocks):
        self.pool = BlockPool(blocks, SIZE)
        self.holders: list[Held] = []
        self.content: dict[int, Content] = {}  # what was last written to each block

    @rule(tenant=st.sampled_from("ab"), ids=st.lists(st.integers(0, 1), min_size=1, max_size=9))
    def open(self, tenant, ids):
        keys = BlockKeys(tenant, SIZE)
        keys.follow(ids)
        before = self.pool.counts()
        found = self.pool.match(keys.keys[: (len(ids) - 1) // SIZE], len(ids))
        for index, block in enumerate(found):
            assert self.content[block] == (tenant, tuple(ids[: (index + 1) * SIZE]))
        after = self.pool.counts()
        assert after.hit_tokens - before.hit_tokens == len(found) * SIZE < len(ids)
        assert after.asked_tokens - before.asked_tokens == len(ids)
        held = Held(tenant, ids, keys, len(found), found, len(found))
        try:
            held.blocks += self.take(-(-len(ids) // SIZE) - len(found))
        except NoFreeBlocks:
            self.pool.release(found)
            return
        self.holders.append(held)

    def take(self, count):
        readable = {block for held in self.holders for block in held.blocks}
        available = self.pool.available
        try:
            taken = self.pool.take(count)
        except NoFreeBlocks:
            assert count > available == self.pool.available
            raise
        assert not readable & set(taken), "a block in two hands"
        assert len(set(taken)) == count
        return taken

    @precondition(lambda self: self.holders)
    @rule(choice=st.data(), token=st.integers(0, 1))
    def grow(self, choice, token):
        held = choice.draw(st.sampled_from(self.holders))
        if len(held.ids) % SIZE == 0:
            try:
                held.blocks += self.take(1)
            except NoFreeBlocks:
                return
        held.ids.append(token)
        held.keys.follow(held.ids)

    @precondition(lambda self: self.holders)
    @rule(choice=st.data())
    def publish(self, choice):
        """Its own full blocks are written and become findable."""
        held = choice.draw(st.sampled_from(self.holders))
        for index in range(held.published, len(held.ids) // SIZE):
            block = held.blocks[index]
            self.content[block] = (held.tenant, tuple(held.ids[: (index + 1) * SIZE]))
            known = self.pool.has(held.keys.keys[index])
            assert self.pool.publish(block, held.keys.keys[index]) is not known
            held.published = index + 1

    @precondition(lambda self: self.holders)
    @rule(choice=st.data())
    def close(self, choice):
        held = choice.draw(st.sampled_from(self.holders))
        self.holders.remove(held)
        self.pool.release(held.blocks)

    @rule()
    def clear(self):
        self.pool.clear()
        counts = self.pool.counts()
        assert counts.free_blocks + counts.held_blocks == self.pool.block_count

    @invariant()
    def blocks_are_counted(self):
        held = {block for each in self.holders for block in each.blocks}
        counts = self.pool.counts()
        assert counts.held_blocks == len(held)
        assert counts.free_blocks + len(held) + (self.pool.available - counts.free_blocks) == self.pool.block_count
        if not self.holders:
            assert self.pool.available == self.pool.block_count

    @invariant()
    def what_two_hold_is_the_same_to_both(self):
        told: dict[int, Content] = {}
        for held in self.holders:
            for index, block in enumerate(held.blocks):
                content = (held.tenant, tuple(held.ids[: (index + 1) * SIZE]))
                assert told.setdefault(block, content) == content

    def teardown(self):
        for held in getattr(self, "holders", []):
            self.pool.release(held.blocks)
        if hasattr(self, "pool"):
            self.pool.clear()
            counts = self.pool.counts()
            assert (counts.free_blocks, counts.cached_blocks, counts.held_blocks) == (self.pool.block_count, 0, 0)


TestBlockPoolLaws = BlockPoolLaws.TestCase
TestBlockPoolLaws.settings = settings(max_examples=80, stateful_step_count=40)


def _publish(pool: BlockPool, tenant: str, ids: list[int]) -> list[int]:
    keys = BlockKeys(tenant, pool.block_tokens)
    keys.follow(ids)
    blocks = pool.take(len(keys.keys))
    for block, key in zip(blocks, keys.keys, strict=True):
        pool.publish(block, key)
    pool.release(blocks)
    return blocks


def _found(pool: BlockPool, tenant: str, ids: list[int]) -> int:
    keys = BlockKeys(tenant, pool.block_tokens)
    keys.follow(ids)
    found = pool.match(keys.keys)
    pool.release(found)
    return len(found)


def test_the_longest_ago_goes_first_and_of_a_sequence_its_end():
    pool = BlockPool(4, SIZE)
    _publish(pool, "a", [1, 1, 2, 2])
    _publish(pool, "a", [3, 3, 4, 4])
    assert _found(pool, "a", [1, 1, 2, 2]) == 2  # used again: now the other one is older
    pool.release(pool.take(1))
    assert (_found(pool, "a", [1, 1, 2, 2]), _found(pool, "a", [3, 3, 4, 4])) == (2, 1)


def test_an_earlier_block_tells_equal_later_ones_apart():
    pool = BlockPool(4, SIZE)
    _publish(pool, "a", [1, 1, 2, 2])
    assert _found(pool, "a", [2, 2]) == 0
    assert _found(pool, "a", [9, 9, 2, 2]) == 0
    assert _found(pool, "a", [1, 1, 2, 2, 3]) == 2


def test_a_block_with_tokens_of_the_answer_belongs_to_its_prompt_length():
    def keys(prompt_length: int | None) -> list[bytes]:
        made = BlockKeys("a", SIZE, prompt_length)
        made.follow([1, 2, 3, 4, 5, 6])
        return made.keys

    assert keys(4) == keys(4)
    assert keys(4)[:2] == keys(6)[:2] == keys(None)[:2]
    assert len({keys(4)[2], keys(3)[2], keys(6)[2]}) == 3
    assert keys(6) == keys(None)


def test_keys_that_follow_a_growing_sequence_are_those_of_the_whole():
    growing, whole = BlockKeys("a", SIZE, 3), BlockKeys("a", SIZE, 3)
    ids = list(range(11))
    for end in range(len(ids) + 1):
        growing.follow(ids[:end])
    whole.follow(ids)
    assert growing.keys == whole.keys
    assert len(whole.keys) == 5


def test_what_is_not_held_is_not_released_nor_published():
    pool = BlockPool(2, SIZE)
    (block,) = pool.take(1)
    pool.release([block])
    for misuse in (lambda: pool.release([block]), lambda: pool.publish(block, b"k"), lambda: pool.release([7])):
        with pytest.raises(ValueError, match="block"):
            misuse()
    assert pool.available == 2
