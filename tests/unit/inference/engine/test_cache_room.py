"""What is left of a cache of blocks, as the scheduler counts it against what the blocks' tables say, step by step."""

import random

import pytest
from inference_svc.engine.cache_room import CacheRoom
from inference_svc.engine.costs import StepCosts
from inference_svc.engine.plans import GenerationLimits
from inference_svc.engine.runner import SampledToken
from inference_svc.engine.scheduler import GenerationScheduler
from inference_svc.models.block_pool import BlockPool
from inference_svc.models.block_tables import BlockTables
from inference_svc.requests import Context, Finished, Generation, Priority
from support.echo import EchoTokenizer
from support.outlets import generation

SIZE, BLOCKS, SLOTS, CONTEXT = 4, 14, 6, 48


def test_a_cache_is_whole_blocks() -> None:
    with pytest.raises(ValueError, match="no whole blocks"):
        CacheRoom(10, 4)


class Turns:
    """Turns of a scheduler over tables without a model: a step takes its blocks, or fails the test."""

    def __init__(self, budget: int) -> None:
        self.tables = BlockTables(BlockPool(BLOCKS, SIZE), SLOTS, CONTEXT)
        limits = GenerationLimits(SLOTS, BLOCKS * SIZE, budget, aging_steps=20, cache_block_tokens=SIZE)
        self.scheduler = GenerationScheduler(limits, EchoTokenizer(), StepCosts(16), self.tables)
        self.most_rows = self.put_off = 0
        self.ended: set[int] = set()
        self._opened: dict[int, int] = {}

    def close(self) -> None:
        for slot in self.scheduler.take_closed():
            self.tables.close(slot)

    def turn(self) -> None:
        self.close()
        placements, _ = self.scheduler.place(0.0)
        self.close()
        for placed in placements:
            self._opened[placed.key] = self._opened.get(placed.key, 0) + 1
            self.put_off += self._opened[placed.key] > 1
            self.scheduler.opened(placed.key, self.tables.open(placed.slot, placed.generation))
        for key, slot in self.scheduler.prompting():
            self.scheduler.found(key, self.tables.look_again(slot))
        step = self.scheduler.next_step(0.0)
        if step is None:
            return
        self.most_rows = max(self.most_rows, len(step.rows))
        for row in step.rows:
            self.tables.reach(row.slot, row.start + len(row.token_ids))  # raises NoFreeBlocks
        for row in step.rows:
            self.tables.keep(row)
        sampled = [SampledToken(97 + row.output_index % 2) if row.samples else None for row in step.rows]
        events = self.scheduler.commit(step, sampled, 0.0)
        self.ended |= {key for key, event in events if isinstance(event, Finished)}


def _asked(whims: random.Random, key: int) -> Generation:
    beginning = [98 + whims.randrange(2)] * whims.choice([0, 12, 24])
    own = [whims.randrange(97, 120) for _ in range(whims.randint(1, 12))]
    context = Context(priority=whims.choice(list(Priority)), tenant=whims.choice("aab"))
    limit = whims.choice([None, None, 2])
    return generation([*beginning, *own], count=whims.randint(1, 12), seed=key, context=context, credits=limit)


@pytest.mark.parametrize("seed", range(40))
def test_no_step_wants_a_block_that_is_not_there_whoever_shares_is_put_off_or_leaves(seed: int) -> None:
    whims = random.Random(seed)
    turns = Turns(budget=whims.choice([5, 16, 64]))
    keys = range(1, 25)
    left = [(key, _asked(whims, key)) for key in keys]
    gone: set[int] = set()
    for _ in range(3000):
        for _ in range(whims.randint(0, 2)):
            if left:
                turns.scheduler.submit(*left.pop(), 0.0)
        if whims.random() < 0.05:
            key = whims.choice(keys)
            if turns.scheduler.remove(key):
                gone.add(key)
        if whims.random() < 0.3:
            turns.scheduler.grant(whims.choice(keys), 3)
        turns.turn()
        if turns.scheduler.is_idle and not left:
            break
    turns.close()
    assert turns.ended | gone == set(keys)
    assert turns.tables.counts().held_blocks == 0
    assert turns.tables.tokens_held_again == 0


def test_sharers_run_together_where_the_cache_would_not_hold_their_beginnings_twice() -> None:
    turns = Turns(budget=64)
    for key in range(1, 5):
        turns.scheduler.submit(key, generation([98] * 32 + [100 + key], count=9, seed=key), 0.0)
    while not turns.scheduler.is_idle:
        turns.turn()
    assert turns.ended == {1, 2, 3, 4}
    assert turns.most_rows >= 2, "alone each takes 9 to 11 of the 14 blocks"
