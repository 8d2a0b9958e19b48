"""Who finds what another sequence has computed, and what becomes of it: a small model behind the running engine."""

import random
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_svc.engine.runner import Row
from inference_svc.models.generation_runner import PackedGenerationRunner
from inference_svc.models.paged_steps import PagedSettings
from inference_svc.models.prefix_store import BLOCK_TOKENS, PrefixSettings
from inference_svc.requests import Context, Generation, OutputDetail, Sampling
from support.driving import Driver, generation, told_in
from support.engine_ways import SmallCache, all_at_once, one_by_one
from support.generation_models import build_model
from transformers import PreTrainedModel

_CONTEXT = 320
_DETAIL = OutputDetail(logprobs=True, top_logprob_count=2)


_of_both = pytest.mark.parametrize("kind", ["slots", "paged"])
"""Copied between slots, or held by several."""


def _runner(
    blocks: int = 64,
    slots: int = 8,
    *,
    kind: str = "slots",
    shares_answers: bool = True,
    model: PreTrainedModel | None = None,
) -> PackedGenerationRunner:
    """A paged cache has as many tokens more as all slots hold."""
    torch.set_num_threads(1)
    prefix = PrefixSettings(blocks * BLOCK_TOKENS, shares_answers)
    tokens = blocks * BLOCK_TOKENS + slots * _CONTEXT
    paged = PagedSettings(tokens, shares=blocks > 0, shares_answers=shares_answers) if kind == "paged" else None
    model = model or build_model("llama")
    return PackedGenerationRunner(model, slot_count=slots, max_context_tokens=_CONTEXT, prefix=prefix, paged=paged)


@pytest.fixture(scope="module")
def small() -> PackedGenerationRunner:
    """Six blocks."""
    return _runner(6, slots=4)


def _ids(count: int, seed: int = 0) -> list[int]:
    whims = random.Random(seed)
    return [whims.randrange(4, 500) for _ in range(count)]


def _of(tenant: str, asked: Generation) -> Generation:
    return replace(asked, context=Context(tenant=tenant))


def _found(runner: PackedGenerationRunner, asked: Generation) -> int:
    found = runner.open(0, asked)
    runner.close(0)
    return found


@_of_both
def test_a_tenant_never_finds_what_another_computed(kind: str) -> None:
    runner, asked = _runner(kind=kind), generation(_ids(100), 20)
    one_by_one(runner, {"first": _of("a", asked)})
    assert _found(runner, _of("a", asked)) == 96
    assert _found(runner, _of("b", asked)) == 0
    assert _found(runner, asked) == 0


@_of_both
@pytest.mark.parametrize(("shares_answers", "found"), [(True, 112), (False, 96)])
def test_the_next_turn_finds_the_turn_before_and_its_answer_where_answers_are_shared(
    shares_answers: bool, found: int, kind: str
) -> None:
    runner, prompt = _runner(kind=kind, shares_answers=shares_answers), _ids(100)
    answer = one_by_one(runner, {"turn 1": generation(prompt, 20)})["turn 1"]
    second = generation([*prompt, *answer, *_ids(10, seed=1)], 5)
    assert _found(runner, second) == found


@_of_both
@pytest.mark.parametrize("shares_answers", [True, False])
def test_a_resumed_answer_finds_its_own_tokens(shares_answers: bool, kind: str) -> None:
    runner, prompt = _runner(kind=kind, shares_answers=shares_answers), _ids(40)
    answer = one_by_one(runner, {"first": generation(prompt, 40)})["first"]
    assert _found(runner, generation(prompt, 60, resumed_ids=answer[:30])) == 64


@_of_both
def test_at_least_one_token_is_computed(kind: str) -> None:
    runner, asked = _runner(kind=kind), generation(_ids(64), 2)
    one_by_one(runner, {"first": asked})
    assert _found(runner, asked) == 48


@_of_both
def test_a_prompt_whose_logprobs_are_asked_for_is_computed_whole_and_others_find_it(kind: str) -> None:
    runner = _runner(kind=kind)
    asked = generation(_ids(64), 2, detail=OutputDetail(logprobs=True, prompt_logprobs=True))
    for _ in range(2):
        assert runner.open(0, asked) == 0
        runner.step([Row(0, 0, asked.prompt_ids, True, 0)])
        assert runner.look_again(0) == 64
        runner.close(0)
    assert _found(runner, generation(_ids(64), 2)) == 48


@_of_both
def test_requests_that_come_together_compute_their_common_beginning_once(kind: str) -> None:
    runner, beginning = _runner(kind=kind), _ids(256)
    asked = {f"r{number}": generation([*beginning, *_ids(8, seed=number + 1)], 2) for number in range(8)}
    counted = SmallCache(runner)
    all_at_once(counted, asked, step_token_budget=128)
    computed = sum(sum(rows) for rows in counted.steps)
    assert computed < 2 * 256 + 8 * (8 + 2), f"{computed} tokens were computed, of {8 * 264} in prompts"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_prompts_alone_a_request_has_the_same_bits_whether_its_beginning_was_found_or_not(
    dtype: torch.dtype,
) -> None:
    torch.set_num_threads(1)
    model, prefix = build_model("gemma2", dtype), PrefixSettings(64 * BLOCK_TOKENS, shares_answers=False)
    kept = PackedGenerationRunner(model, slot_count=4, max_context_tokens=_CONTEXT, dtype=dtype, prefix=prefix)
    plain = PackedGenerationRunner(build_model("gemma2", dtype), slot_count=4, max_context_tokens=_CONTEXT, dtype=dtype)
    prompt = _ids(150)
    first = {"turn 1": generation(prompt, 30, detail=_DETAIL)}
    answer = one_by_one(kept, first)["turn 1"]
    second = {
        "again": generation(prompt, 30, detail=_DETAIL, sampling=Sampling(temperature=1.0, seed=4)),
        "turn 2": generation([*prompt, *answer, 7, 8, 9], 12, detail=_DETAIL),
        "resumed": generation(prompt, 40, resumed_ids=answer[:27], detail=_DETAIL),
    }
    before = kept.prefix_counts.hit_tokens
    assert _numbers(kept, second) == _numbers(plain, second)
    assert kept.prefix_counts.hit_tokens - before >= 3 * 144


def _numbers(runner: PackedGenerationRunner, asked: Mapping[str, Generation]) -> object:
    return told_in(Driver(runner, at_once=1).run(asked))


@_of_both
def test_what_was_computed_from_a_number_that_is_none_is_not_kept(kind: str) -> None:
    model = build_model("llama")
    runner = _runner(slots=2, kind=kind, model=model)
    with torch.inference_mode():
        model.get_input_embeddings().weight[77] = float("nan")
    prompt, fine = [*_ids(20), 77, *_ids(43)], _ids(64, seed=2)
    runner.open(0, generation(prompt, 2))
    runner.open(1, generation(fine, 2))
    runner.step([Row(0, 0, prompt[:48], False, 0), Row(1, 0, fine[:48], False, 0)])
    told = runner.step([Row(0, 48, prompt[48:], True, 0)])[0]
    assert told is not None
    assert not told.finite
    runner.close(0)
    runner.close(1)
    assert _found(runner, generation(prompt, 2)) == 0
    assert _found(runner, generation(fine, 2)) == 48


@settings(max_examples=25)
@given(
    asked=st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.integers(1, 90), st.integers(1, 20)),
        min_size=1,
        max_size=8,
    ),
    budget=st.integers(20, 200),
    cache=st.sampled_from([128, 500]),
)
def test_whoever_comes_the_store_keeps_to_its_size_and_holds_nothing_when_idle(
    small: PackedGenerationRunner, asked: list[tuple[str, int, int, int]], budget: int, cache: int
) -> None:
    requests = {
        f"r{number}": _of(tenant, generation(_ids(length, seed=beginning), count))
        for number, (tenant, beginning, length, count) in enumerate(asked)
    }
    answers = all_at_once(SmallCache(small, cache_token_count=cache), requests, budget)
    for (tenant, beginning, length, count), (name, ids) in zip(asked, answers.items(), strict=True):
        assert len(ids) == count, (tenant, beginning, length, name)
    counts = small.prefix_counts
    assert counts.held_blocks == 0
    assert counts.free_blocks + counts.cached_blocks == 6


def test_only_what_need_not_be_computed_is_counted_as_found(small: PackedGenerationRunner) -> None:
    before, asked = small.prefix_counts, generation(_ids(50, seed=21), 3)
    one_by_one(small, {"first": asked})
    first = small.prefix_counts
    one_by_one(small, {"again": asked})
    again = small.prefix_counts
    assert first.hit_tokens == before.hit_tokens
    assert again.hit_tokens - first.hit_tokens == 48
    assert again.asked_tokens - before.asked_tokens == 100


def test_what_was_used_longest_ago_goes_first(small: PackedGenerationRunner) -> None:
    first, second, third = (generation(_ids(49, seed=number), 1) for number in (10, 11, 12))
    for name, each in {"1": first, "2": second, "1 again": first, "3": third}.items():
        one_by_one(small, {name: each})
    assert [_found(small, each) for each in (first, second, third)] == [48, 0, 48]


@_of_both
def test_nothing_is_kept_where_it_is_turned_off(kind: str) -> None:
    runner, asked = _runner(0, kind=kind), generation(_ids(64), 2)
    one_by_one(runner, {"first": asked})
    assert _found(runner, asked) == 0
    assert runner.prefix_counts.cached_blocks == 0
