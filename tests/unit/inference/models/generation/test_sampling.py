"""A row's token follows from its logits, its request's settings, its seed and its position, and from nothing else."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_svc.engine.runner import Row, SampledToken
from inference_svc.models.penalties import Penalties
from inference_svc.models.sampling import Sampler
from inference_svc.requests import Generation, OutputDetail, Sampling
from support.driving import generation
from transformers import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

torch.set_num_threads(1)

_VOCABULARY = 200
_CPU = torch.device("cpu")


def _logits(seed: int, rows: int = 1) -> torch.Tensor:
    return torch.randn(rows, _VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


def _row(slot: int, output_index: int, asked: Generation) -> Row:
    return Row(slot, len(asked.prompt_ids) + output_index - 1, [7], True, output_index)


def _sample(asked: Generation, logits: torch.Tensor, output_index: int = 0) -> SampledToken:
    sampler = Sampler(1, _CPU)
    sampler.open(0, asked)
    return sampler.sample(logits, [_row(0, output_index, asked)])[0]


_ids = st.integers(0, _VOCABULARY - 1)
_samplings = st.builds(
    Sampling,
    temperature=st.one_of(st.just(0.0), st.floats(0.1, 2.0)),
    top_k=st.sampled_from([0, 1, 5, 70]),
    top_p=st.one_of(st.just(1.0), st.floats(0.1, 1.0)),
    min_p=st.one_of(st.just(0.0), st.floats(0.0, 0.5)),
    repetition_penalty=st.one_of(st.just(1.0), st.floats(0.5, 2.0)),
    presence_penalty=st.one_of(st.just(0.0), st.floats(-2, 2)),
    frequency_penalty=st.one_of(st.just(0.0), st.floats(-2, 2)),
    logit_bias=st.dictionaries(_ids, st.floats(-100, 100), max_size=3),
    seed=st.integers(0, 2**64 - 1),
)
_generations = st.builds(
    generation,
    st.lists(_ids, min_size=1, max_size=10),
    st.just(50),
    sampling=_samplings,
    resumed_ids=st.lists(_ids, max_size=10),
    end_token_ids=st.lists(_ids, max_size=3),
    min_output_tokens=st.integers(0, 20),
    detail=st.builds(OutputDetail, logprobs=st.booleans(), top_logprob_count=st.integers(0, 4)),
)


@settings(max_examples=80)
@given(st.lists(_generations, min_size=2, max_size=6), st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_a_row_is_sampled_alike_alone_and_in_any_batch(
    asked: list[Generation], seed: int, whims: random.Random
) -> None:
    logits = _logits(seed, len(asked))
    alone = []
    for index, each in enumerate(asked):
        sampler = Sampler(8, _CPU)
        sampler.open(3, each)
        alone += sampler.sample(logits[index : index + 1], [_row(3, len(each.resumed_ids), each)])
    together = Sampler(8, _CPU)
    slots = whims.sample(range(8), len(asked))
    for slot, each in zip(slots, asked, strict=True):
        together.open(slot, generation([1], 2, sampling=Sampling(temperature=2, frequency_penalty=1, seed=1)))
        together.close(slot)
        together.open(slot, each)
    rows = [_row(slot, len(each.resumed_ids), each) for slot, each in zip(slots, asked, strict=True)]
    assert together.sample(logits.clone(), rows) == alone


def test_a_draw_changes_with_position_and_with_seed() -> None:
    logits = torch.zeros(1, _VOCABULARY)
    by_position = {
        _sample(generation([1], 9, sampling=Sampling(temperature=1, seed=5)), logits, index).token_id
        for index in range(40)
    }
    by_seed = {
        _sample(generation([1], 9, sampling=Sampling(temperature=1, seed=seed)), logits).token_id for seed in range(40)
    }
    assert len(by_position) > 20
    assert len(by_seed) > 20


def test_repetition_penalty_is_that_of_transformers() -> None:
    prompt, answer = [3, 5, 3, 9], [11, 5, 12]
    asked = generation(prompt, 9, sampling=Sampling(repetition_penalty=1.7), resumed_ids=answer)
    penalties = Penalties(_CPU)
    penalties.open(1, asked)
    logits = _logits(4)
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([prompt + answer]), logits.clone())
    penalties.apply(logits, [0], [1])
    torch.testing.assert_close(logits, expected)


def test_presence_and_frequency_count_the_answer_alone() -> None:
    asked = generation([3, 5], 9, sampling=Sampling(presence_penalty=0.5, frequency_penalty=0.25), resumed_ids=[5, 8])
    penalties = Penalties(_CPU)
    penalties.open(0, asked)
    again = [Row(0, 2, [5, 8, 8], True, 3), Row(0, 4, [8], True, 3), Row(0, 5, [8], True, 4)]
    for row in again:  # what is resumed, then a token, then a step that comes again, then one more token
        penalties.note_fed([row])
    logits = torch.zeros(3, _VOCABULARY)
    penalties.apply(logits, [1], [0])
    changed = logits[1]
    assert (logits[[0, 2]] == 0).all()
    assert changed[3] == 0
    assert changed[5] == -0.75
    assert changed[8] == -0.5 - 3 * 0.25


def test_penalties_of_fed_tokens_are_those_of_resumed_tokens() -> None:
    sampling = Sampling(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.25)
    fed, known = Penalties(_CPU), Penalties(_CPU)
    fed.open(0, generation([3, 5], 9, sampling=sampling))
    for row in (Row(0, 0, [3, 5], True, 0), Row(0, 2, [40], True, 1), Row(0, 3, [41], True, 2)):
        fed.note_fed([row])
    known.open(0, generation([3, 5], 9, sampling=sampling, resumed_ids=[40, 41]))
    logits, same = _logits(3), _logits(3)
    fed.apply(logits, [0], [0])
    known.apply(same, [0], [0])
    assert torch.equal(logits, same)
    assert not torch.equal(logits, _logits(3))


@pytest.mark.parametrize(
    ("sampling", "warper"),
    [
        (Sampling(temperature=1, top_k=6), TopKLogitsWarper(6)),
        (Sampling(temperature=1, top_p=0.7), TopPLogitsWarper(0.7)),
        (Sampling(temperature=1, min_p=0.1), MinPLogitsWarper(0.1)),
    ],
)
def test_what_is_drawn_is_what_transformers_leaves(sampling: Sampling, warper: object) -> None:
    logits = _logits(6)
    left = set(warper(None, logits.clone()).isfinite()[0].nonzero()[:, 0].tolist())  # type: ignore[operator]
    asked = generation([1], 3000, sampling=sampling)
    sampler = Sampler(1, _CPU)
    sampler.open(0, asked)
    rows = [_row(0, index, asked) for index in range(1500)]
    drawn = {each.token_id for each in sampler.sample(logits.expand(1500, -1), rows)}
    assert drawn <= left
    likely = {token for token in left if torch.softmax(logits[0], -1)[token] > 0.02}
    assert likely <= drawn


def test_bias_decides_and_leaves_logprobs_alone() -> None:
    logits = _logits(2)
    detail = OutputDetail(logprobs=True, top_logprob_count=2)
    told = _sample(generation([1], 9, sampling=Sampling(logit_bias={150: 100.0}), detail=detail), logits)
    logprobs = torch.log_softmax(logits[0], -1)
    assert told.token_id == 150
    assert told.logprob == pytest.approx(float(logprobs[150]))
    best = logprobs.topk(2)
    assert [token for token, _ in told.top] == best.indices.tolist()
    assert [value for _, value in told.top] == pytest.approx(best.values.tolist())


def test_end_tokens_are_held_back_until_the_smallest_length() -> None:
    logits = _logits(2)
    best, second = logits[0].topk(2).indices.tolist()
    asked = generation([1], 9, end_token_ids=[best], min_output_tokens=3)
    assert [_sample(asked, logits, index).token_id for index in range(5)] == [second] * 3 + [best] * 2


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_is_not_finite_fails_alone(temperature: float, bad: float) -> None:
    logits = _logits(1, 3)
    clean = logits.clone()
    logits[1, 40] = bad
    sampler = Sampler(3, _CPU)
    asked = [generation([1], 9, sampling=Sampling(temperature=temperature, top_p=0.9, seed=slot)) for slot in range(3)]
    for slot, each in enumerate(asked):
        sampler.open(slot, each)
    rows = [_row(slot, 0, each) for slot, each in enumerate(asked)]
    told = sampler.sample(logits, rows)
    assert [each.finite for each in told] == [True, False, True]
    expected = sampler.sample(clean, rows)
    assert (told[0], told[2]) == (expected[0], expected[2])


def test_top_logprobs_are_cut_to_what_each_row_asked() -> None:
    logits = _logits(9, 3)
    sampler = Sampler(3, _CPU)
    details = [OutputDetail(), OutputDetail(logprobs=True), OutputDetail(logprobs=True, top_logprob_count=5)]
    asked = [generation([1], 9, detail=detail) for detail in details]
    for slot, each in enumerate(asked):
        sampler.open(slot, each)
    told = sampler.sample(logits, [_row(slot, 0, each) for slot, each in enumerate(asked)])
    assert [len(each.top) for each in told] == [0, 0, 5]
    assert told[0].logprob == 0.0
    assert np.isclose(told[1].logprob, float(torch.log_softmax(logits[1], -1).max()))
