"""Sequences keep their keys wherever they are moved, and what a step reads together lies together."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_svc.engine.runner import Row
from inference_svc.models.kv_cache import SlotCache
from inference_svc.models.step_plan import plan_step

torch.set_num_threads(1)

_SLOTS = 7


def _cache(filled: list[int]) -> tuple[SlotCache, torch.Tensor]:
    """A cache of one layer in which slot s holds the number s + 1 at each of its first filled[s] positions."""
    cache = SlotCache(_SLOTS, 20)
    one = torch.zeros(1, 1, 1, 1)
    keys, values = cache.layer(0, one, one)
    for slot, count in enumerate(filled):
        keys[slot, :, :count] = slot + 1
        values[slot, :, :count] = -slot - 1
        cache.note_written(slot, count)
    return cache, keys


_filled = st.lists(st.integers(0, 20), min_size=_SLOTS, max_size=_SLOTS)


@settings(max_examples=100)
@given(_filled, st.data())
def test_arranged_groups_lie_side_by_side_with_their_own_content(filled: list[int], chosen: st.DataObject) -> None:
    cache, keys = _cache(filled)
    for _ in range(4):
        order = chosen.draw(st.permutations(range(_SLOTS)))
        first, second = sorted(chosen.draw(st.tuples(st.integers(0, _SLOTS), st.integers(0, _SLOTS))))
        groups = [order[:first], order[first:second]]
        cache.arrange(groups)
        assert {cache.place_of(slot) for slot in groups[0]} == set(range(first))
        assert {cache.place_of(slot) for slot in groups[1]} == set(range(first, second))
        for slot, count in enumerate(filled):
            place = cache.place_of(slot)
            assert (keys[place, 0, :count, 0] == slot + 1).all()
            assert (keys[place, 0, count:, 0] == 0).all()


@given(_filled)
def test_who_lies_in_place_is_not_moved(filled: list[int]) -> None:
    cache, _ = _cache(filled)
    cache.arrange([[2, 0, 1], [4, 3]])
    assert cache.move_count == 0


def test_a_cleared_slot_is_zero() -> None:
    cache, keys = _cache([5] * _SLOTS)
    cache.arrange([[6]])
    cache.clear(6)
    assert (keys[cache.place_of(6)] == 0).all()
    assert (keys[cache.place_of(0)][:, :5] == 1).all()


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 300), st.integers(1, 600)), min_size=1, max_size=_SLOTS))
def test_every_token_of_a_step_attends_once_with_all_it_may_see(rows: list[tuple[int, int, int]]) -> None:
    """`rows` are (start, tokens, prompt length)."""
    cache = SlotCache(_SLOTS, 1000)
    asked = [Row(slot, start, [slot] * count, True, 0) for slot, (start, count, _) in enumerate(rows)]
    plan = plan_step(asked, {slot: length for slot, (_, _, length) in enumerate(rows)}, cache)
    attended = [0] * len(plan.token_ids)
    for group in plan.groups:
        for index in range(group.first, group.last):
            place = group.place if group.shared else group.place + index - group.first
            attended[index] += 1
            assert place == cache.place_of(plan.token_ids[index])
            assert plan.positions[index] < group.key_length <= cache.capacity
            assert plan.positions[index] >= rows[plan.token_ids[index]][2]
    for block in plan.blocks:
        for index in range(block.first, block.last):
            attended[index] += 1
            assert block.place == cache.place_of(plan.token_ids[index])
            assert plan.positions[index] == block.start + block.offset + index - block.first
            assert plan.positions[index] < block.key_length <= cache.capacity
    assert set(attended) == {1}
    assert sum(len(row.token_ids) for row in asked) == len(plan.token_ids)
    for row, end in zip(asked, plan.row_ends, strict=True):
        assert plan.token_ids[end - 1] == row.slot
        assert plan.positions[end - 1] == row.start + len(row.token_ids) - 1
