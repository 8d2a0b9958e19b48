"""A small model over a paged cache behind the running engine: what is shared, what fits, what is left when idle."""

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_svc.engine.runner import Row
from inference_svc.errors import ModelLoadError
from inference_svc.models.generation_runner import PackedGenerationRunner
from inference_svc.models.paged_sizing import MeasuredMemory, tokens_that_fit
from inference_svc.models.paged_steps import PagedSettings
from inference_svc.requests import Context, Generation
from support.driving import Driver, generation
from support.engine_ways import SmallCache, all_at_once
from support.generation_models import build_model

_CONTEXT = 320
_SIZE = 16


def _runner(blocks: int, slots: int) -> PackedGenerationRunner:
    torch.set_num_threads(1)
    paged = PagedSettings(blocks * _SIZE)
    return PackedGenerationRunner(build_model("llama"), slot_count=slots, max_context_tokens=_CONTEXT, paged=paged)


def _whole(runner: PackedGenerationRunner) -> SmallCache:
    return SmallCache(runner, cache_token_count=runner.cache_token_count)


def _ids(count: int, seed: int = 0) -> list[int]:
    whims = random.Random(seed)
    return [whims.randrange(4, 500) for _ in range(count)]


def _of(tenant: str, asked: Generation) -> Generation:
    return replace(asked, context=Context(tenant=tenant))


@pytest.fixture(scope="module")
def small() -> PackedGenerationRunner:
    """Twelve blocks."""
    return _runner(12, slots=4)


def test_sequences_that_share_a_beginning_run_together_where_it_is_there_but_once() -> None:
    runner, beginning = _runner(16 + 8 * 3, slots=8), _ids(256)
    asked = {f"r{number}": generation([*beginning, *_ids(8, seed=number + 1)], 20) for number in range(8)}
    counted = _whole(runner)
    all_at_once(counted, asked, step_token_budget=128)
    assert max(map(len, counted.steps)) == 8, "eight times the beginning would be 128 blocks of the 40"
    assert counted.opened == 8, "nobody was put off"
    computed = sum(sum(rows) for rows in counted.steps)
    assert computed <= 2 * 256 + 8 * (8 + 20), f"{computed} tokens were computed, of {8 * 264} in prompts"


@settings(max_examples=12)
@given(
    asked=st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.integers(1, 90), st.integers(1, 20)),
        min_size=1,
        max_size=8,
    ),
    budget=st.integers(20, 200),
)
def test_whoever_comes_no_step_runs_out_of_blocks_and_none_is_held_when_idle(
    small: PackedGenerationRunner, asked: list[tuple[str, int, int, int]], budget: int
) -> None:
    requests = {
        f"r{number}": _of(tenant, generation(_ids(length, seed=beginning), count))
        for number, (tenant, beginning, length, count) in enumerate(asked)
    }
    answers = all_at_once(_whole(small), requests, budget)
    for (tenant, beginning, length, count), (name, ids) in zip(asked, answers.items(), strict=True):
        assert len(ids) == count, (tenant, beginning, length, name)
    counts = small.prefix_counts
    assert counts.held_blocks == small.tokens_held_again == 0
    assert counts.free_blocks + counts.cached_blocks == 12


@pytest.mark.parametrize("architecture", ["llama_scaled_rope", "mistral_windowed"])
def test_a_numerical_fault_stays_with_its_sequence_and_its_blocks_serve_again(architecture: str) -> None:
    poisonous = build_model(architecture)
    with torch.no_grad():
        poisonous.get_input_embeddings().weight[3] = torch.nan  # no other prompt has token 3
    paged = PagedSettings(4 * _SIZE)
    runner = PackedGenerationRunner(poisonous, slot_count=2, max_context_tokens=48, paged=paged)
    good = {"good": generation(_ids(20), 8)}
    expected = Driver(runner).run(good)["good"].output_ids
    for _ in range(3):  # sooner or later over blocks that were poisoned
        runner.open(0, generation([3] * 20, 4))
        runner.open(1, generation(_ids(20, seed=9), 4))
        told = runner.step([Row(0, 0, [3] * 20, True, 0), Row(1, 0, _ids(20, seed=9), True, 0)])
        assert [each is not None and each.finite for each in told] == [False, True]
        runner.close(0)
        runner.close(1)
        assert Driver(runner).run(good)["good"].output_ids == expected


def test_a_context_is_no_longer_than_the_cache_and_one_that_must_fit_is_refused() -> None:
    assert _runner(5, 2).max_context_tokens == 80
    with pytest.raises(ModelLoadError, match="raise it to 96"):
        PackedGenerationRunner(
            build_model("llama"), slot_count=2, max_context_tokens=90, paged=PagedSettings(80, least_tokens=90)
        )


def test_where_memory_is_not_measured_the_cache_holds_all_slots_full() -> None:
    runner = PackedGenerationRunner(build_model("gemma2"), slot_count=3, max_context_tokens=50, paged=PagedSettings())
    assert runner.cache_token_count == 3 * 64


@given(st.integers(1, 10**12), st.floats(0, 1), st.integers(0, 10**11), st.floats(0.01, 1), st.integers(1, 10**6))
def test_cache_and_step_stay_within_the_share_of_memory(
    total: int, free_share: float, peak: int, share: float, per_token: int
) -> None:
    free = int(total * free_share)
    tokens = tokens_that_fit(MeasuredMemory(total, free, peak), share, per_token)
    if tokens > 0:
        assert total - free + peak + tokens * per_token <= total * share + 1
        assert total - free + peak + (tokens + 1) * per_token >= total * share - 1
