"""Tokens whose logits nobody reads leave keys and values in the last layer, and are computed there no further."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inference_svc.engine.runner import Row
from inference_svc.models.generation_runner import PackedGenerationRunner
from inference_svc.models.kv_cache import SlotCache
from inference_svc.models.step_plan import QUERY_BLOCK, StepPlan, part_of_plan, plan_step
from inference_svc.requests import OutputDetail
from support.driving import Driver, generation
from support.generation_models import BEARS_NO_CUT, build_model

torch.set_num_threads(1)

_PROMPT = tuple(range(5, 75))


def _rows_of_last_layer(model: torch.nn.Module) -> list[int]:
    """Grows by a number a forward: rows that the last layer's second half computes."""
    seen: list[int] = []
    model.transformer.h[-1].mlp.c_fc.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[-2]))
    return seen


def test_of_a_prompt_only_the_token_that_is_read_is_computed() -> None:
    model = build_model("gpt2")
    runner = PackedGenerationRunner(model, slot_count=3, max_context_tokens=128)
    counts = _rows_of_last_layer(model)
    for slot in (0, 1):
        runner.open(slot, generation(_PROMPT, 4))
    runner.step([Row(0, 0, _PROMPT, True, 0)])
    runner.step([Row(0, len(_PROMPT), (7,), True, 1), Row(1, 0, _PROMPT[:40], False, 0)])
    runner.step([Row(1, 40, _PROMPT[40:], False, 0)])
    runner.step([Row(0, len(_PROMPT) + 1, (7,), True, 2)])
    assert counts == [1, 1, 1, 1]


def test_a_prompt_that_is_scored_is_computed_whole() -> None:
    model = build_model("gpt2")
    runner = PackedGenerationRunner(model, slot_count=2, max_context_tokens=128)
    counts = _rows_of_last_layer(model)
    runner.open(0, generation(_PROMPT, 4, detail=OutputDetail(prompt_logprobs=True)))
    runner.step([Row(0, 0, _PROMPT, True, 0)])
    assert counts == [len(_PROMPT)]


@pytest.mark.parametrize("architecture", BEARS_NO_CUT)
def test_a_model_that_does_not_bear_it_is_computed_whole(architecture: str) -> None:
    runner = PackedGenerationRunner(build_model(architecture), slot_count=3, max_context_tokens=128)
    plain = build_model(architecture, torch.float64)
    with torch.inference_mode():
        expected = plain.generate(torch.tensor([_PROMPT]), max_new_tokens=8)[0, len(_PROMPT) :].tolist()
    asked = {"r": generation(_PROMPT, 8), "s": generation(_PROMPT[:9], 8)}
    assert Driver(runner, chunk=30).run(asked)["r"].output_ids == expected


def test_a_step_in_which_it_is_not_plain_what_to_cut_is_computed_whole() -> None:
    """Something of another kind that happens to have as many rows as the step has tokens."""
    model = build_model("gpt2")
    last = model.transformer.h[-1]
    own, other = last.forward, torch.ones(1, 23)

    def forward(hidden: torch.Tensor, *rest: object, other: torch.Tensor | None = None, **named: object) -> object:
        assert other is None or other.shape == (1, 23)
        return own(hidden, *rest, **named)

    last.forward = forward
    last.register_forward_pre_hook(lambda _, rest, named: (rest, {**named, "other": other}), with_kwargs=True)
    runner = PackedGenerationRunner(model, slot_count=3, max_context_tokens=128)
    counts = _rows_of_last_layer(model)
    for slot, length in enumerate((40, 23)):
        runner.open(slot, generation(_PROMPT[:length], 4))
        runner.step([Row(slot, 0, _PROMPT[:length], True, 0)])
    assert counts == [1, 23]


_A_ROW = st.tuples(st.integers(0, 150), st.integers(1, 150), st.integers(1, 200))


@given(rows=st.lists(_A_ROW, min_size=1, max_size=5), data=st.data(), side_by_side=st.booleans())
def test_a_part_of_a_plan_says_the_same_of_its_tokens(
    rows: list[tuple[int, int, int]], data: st.DataObject, side_by_side: bool
) -> None:
    cache = SlotCache(5, 400)
    asked = [Row(slot, start, (0,) * count, True, 0) for slot, (start, count, _) in enumerate(rows)]
    lengths = {slot: length for slot, (_, _, length) in enumerate(rows)}
    plan = plan_step(asked, lengths, cache, side_by_side=side_by_side)
    alone, count = len(plan.decode_places), len(plan.token_ids)
    others = data.draw(st.sets(st.integers(alone, count - 1)) if alone < count else st.just(set()))
    kept = sorted({*range(alone), *others})
    part = part_of_plan(plan, [(index, index + 1) for index in kept], attends=True)
    assert _told(part) == [_told(plan)[index] for index in kept]
    unread = sorted(set(range(count)).difference(kept))
    written = part_of_plan(plan, [(index, index + 1) for index in unread], attends=False)
    assert not written.attends
    assert _written(written) | _written(part) == _written(plan)


def _told(plan: StepPlan) -> list[tuple[object, ...]]:
    """Of each token: its position, and the queries and keys among which it attends."""
    told: dict[int, tuple[object, ...]] = {}
    for group in plan.groups:
        for index in range(group.first, group.last):
            place = group.place if group.shared else plan.decode_places[index]
            told[index] = (plan.positions[index], place, group.key_length)
    for block in plan.blocks:
        for index in range(block.first, block.last):
            told[index] = (block.start + block.offset + index - block.first, block.place, block.key_length, QUERY_BLOCK)
            assert told[index][0] == plan.positions[index]
    return [told[index] for index in range(len(plan.token_ids))]


def _written(plan: StepPlan) -> set[tuple[int, int]]:
    """Place and position of each token that a span writes."""
    return {(s.place, s.start + i) for s in plan.writes for i in range(s.last - s.first)}
