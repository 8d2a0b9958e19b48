"""Laws of the tables of a paged cache, whatever sequences begin, grow, find each other's blocks and end, under a
scheduler's accounting: with it a block can never be missing.

A shadow cache keeps what was last written to every place.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from inference_svc.engine.runner import Row
from inference_svc.models.block_pool import BlockPool, NoFreeBlocks
from inference_svc.models.block_tables import BlockTables
from inference_svc.models.paged_plan import plan_paged
from inference_svc.requests import Context, OutputDetail
from support.driving import generation

SIZE = 2
SLOTS = 4
CONTEXT = 12


@dataclass(eq=False)
class Held:
    tenant: str
    ids: list[int]
    computed: int = 0
    clean: bool = True
    content: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)

    def blocks(self) -> int:
        return -(-len(self.ids) // SIZE)


class BlockTablesLaws(RuleBasedStateMachine):
    @initialize(blocks=st.integers(CONTEXT // SIZE, 14), shares=st.sampled_from([True, True, False]))
    def begin(self, blocks, shares):
        self.pool = BlockPool(blocks, SIZE)
        self.tables = BlockTables(self.pool, SLOTS, CONTEXT, shares=shares)
        self.shares = shares
        self.held: dict[int, Held] = {}
        self.cache: dict[int, tuple[str, tuple[int, ...]]] = {}  # by place: whose, and all tokens up to there

    def room(self) -> int:
        """As the scheduler counts it: whole blocks for all tokens, less what is held twice."""
        wanted = sum(held.blocks() for held in self.held.values()) * SIZE
        return self.tables.token_count - wanted + self.tables.tokens_held_again

    @precondition(lambda self: len(self.held) < SLOTS)
    @rule(tenant=st.sampled_from("ab"), ids=st.lists(st.integers(0, 1), min_size=1, max_size=8), scores=st.booleans())
    def open(self, tenant, ids, scores):
        held = Held(tenant, ids)
        slot = min(set(range(SLOTS)) - set(self.held))
        detail = OutputDetail(logprobs=scores, prompt_logprobs=scores)
        asked = replace(generation(ids, 1, detail=detail), context=Context(tenant=tenant))
        if held.blocks() * SIZE - self.tables.tokens_to_share(asked) > self.room():
            return
        found = self.tables.open(slot, asked)
        assert found % SIZE == 0
        assert found < len(ids)
        assert not found or (self.shares and not scores)
        held.computed = found
        self.held[slot] = held

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def look_again(self, data):
        slot = data.draw(st.sampled_from(sorted(self.held)))
        held = self.held[slot]
        if held.clean and len(held.ids) - held.computed > 1:
            again = self.tables.look_again(slot)
            assert held.computed <= again < len(held.ids)
            held.computed = again

    @precondition(lambda self: self.held)
    @rule(data=st.data(), finite=st.sampled_from([True, True, True, False]))
    def step(self, data, finite):
        """Some of the sequences compute some of what they have, and gain a token when nothing is left."""
        slots = data.draw(st.lists(st.sampled_from(sorted(self.held)), unique=True, min_size=1))
        rows = []
        for slot in slots:
            held = self.held[slot]
            count = data.draw(st.integers(1, max(1, len(held.ids) - held.computed)))
            part = held.ids[held.computed : held.computed + count]
            if part:
                rows.append(Row(slot, held.computed, part, False, 0))
        for row in rows:
            self.tables.reach(row.slot, row.start + len(row.token_ids))
        if not rows:
            return
        plan = plan_paged(rows, self.tables)
        published = self.published()
        for row, end in zip(rows, plan.row_ends, strict=True):
            held = self.held[row.slot]
            packed = range(end - len(row.token_ids), end)
            assert plan.token_ids[packed].tolist() == list(row.token_ids)
            assert plan.positions[packed].tolist() == list(range(row.start, row.start + len(row.token_ids)))
            for at, place in zip(plan.positions[packed], plan.places[packed], strict=True):
                assert place // SIZE not in published, "a block that others may read is written"
                good = (held.tenant, tuple(held.ids[: at + 1]))
                self.cache[int(place)] = good if finite and held.clean else ("spoilt", ())
        for row in rows:
            held = self.held[row.slot]
            held.computed = row.start + len(row.token_ids)
            if finite and held.clean:
                self.tables.keep(row)
            held.clean &= finite

    def published(self) -> set[int]:
        return set(self.pool._key_of)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), token=st.integers(0, 1))
    def grow(self, data, token):
        slot = data.draw(st.sampled_from(sorted(self.held)))
        held = self.held[slot]
        if len(held.ids) < CONTEXT and held.computed == len(held.ids):
            grown = SIZE if len(held.ids) % SIZE == 0 else 0
            if grown <= self.room():
                held.ids.append(token)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def close(self, data):
        slot = data.draw(st.sampled_from(sorted(self.held)))
        held = self.held.pop(slot)
        before = self.room() - held.blocks() * SIZE  # what it was charged is still taken
        sure = held.blocks() * SIZE - self.tables.tokens_held_with_others(slot)
        self.tables.close(slot)
        assert self.room() >= before + sure

    @invariant()
    def no_step_can_want_a_block_that_is_not_there(self):
        if hasattr(self, "pool"):
            assert self.room() >= 0
            missing = sum(held.blocks() - len(self.tables.blocks_of(slot)) for slot, held in self.held.items())
            assert missing <= self.pool.available

    @invariant()
    def every_slot_reads_its_own_tokens(self):
        for slot, held in self.held.items():
            if held.clean:
                for at in range(held.computed):
                    block = int(self.tables.rows[slot, at // SIZE])
                    assert self.cache[block * SIZE + at % SIZE] == (held.tenant, tuple(held.ids[: at + 1]))

    @invariant()
    def holders_are_counted(self):
        if not hasattr(self, "pool"):
            return
        lists = [self.tables.blocks_of(slot) for slot in self.held]
        every = [block for blocks in lists for block in blocks]
        for block in set(every):
            assert self.pool.holders(block) == every.count(block)
        assert self.tables.tokens_held_again == (len(every) - len(set(every))) * SIZE
        assert self.pool.counts().held_blocks == len(set(every))
        for slot, blocks in zip(self.held, lists, strict=True):
            assert self.tables.rows[slot, : len(blocks)].tolist() == blocks
            assert (self.tables.rows[slot, len(blocks) :] == self.tables.scratch).all()

    def teardown(self):
        if hasattr(self, "pool"):
            for slot in self.held:
                self.tables.close(slot)
            assert self.pool.available == self.pool.block_count
            assert (self.tables.rows == self.tables.scratch).all()


TestBlockTablesLaws = BlockTablesLaws.TestCase
TestBlockTablesLaws.settings = settings(max_examples=50, stateful_step_count=30)


def test_a_slot_that_reaches_too_far_takes_nothing():
    tables = BlockTables(BlockPool(2, SIZE), SLOTS, CONTEXT)
    tables.open(0, generation([1, 2, 3, 4, 5], 1))
    with pytest.raises(NoFreeBlocks):
        tables.reach(0, 5)
    assert tables.blocks_of(0) == []
    assert np.all(tables.rows == tables.scratch)
