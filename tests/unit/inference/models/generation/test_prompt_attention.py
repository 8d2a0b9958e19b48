"""The compiled attention of prompts says what the plain formula says, whatever a prompt is parted into."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_svc.engine.runner import Row
from inference_svc.models.attention_kernel import Scoring
from inference_svc.models.kv_cache import SlotCache
from inference_svc.models.prompt_attention import PromptAttention
from inference_svc.models.step_plan import StepPlan, plan_step

torch.set_num_threads(1)

_PLACES, _CAPACITY = 4, 512


@dataclass(frozen=True)
class _Shape:
    key_heads: int
    shared_by: int
    key_size: int = 64
    value_size: int = 64

    @property
    def heads(self) -> int:
        return self.key_heads * self.shared_by


_USUAL = _Shape(2, 4)
_SHAPES = [
    _USUAL,
    _Shape(1, 1),
    _Shape(3, 7, 16, 16),
    _Shape(2, 1, 80, 80),
    _Shape(1, 4, 128, 40),
    _Shape(2, 3, 8, 8),
    _Shape(1, 40, 16, 16),  # a token has more than a panel
]

Rows = Sequence[tuple[int, int, int]]
"""Place, first position, behind the last one."""


def _plan(rows: Rows) -> StepPlan:
    cache = SlotCache(_PLACES, _CAPACITY)
    found = [Row(place, start, (1,) * (end - start), False, 0) for place, start, end in rows]
    return plan_step(found, {place: _CAPACITY for place, _, _ in rows}, cache, side_by_side=False)


class _Sequences:
    """Queries, keys and values at every position of every place."""

    def __init__(self, shape: _Shape, seed: int = 1) -> None:
        self.shape = shape
        generator = torch.Generator().manual_seed(seed)
        self.queries = torch.randn(_PLACES, shape.heads, _CAPACITY, shape.key_size, generator=generator)
        self.keys = torch.randn(_PLACES, shape.key_heads, _CAPACITY, shape.key_size, generator=generator)
        self.values = torch.randn(_PLACES, shape.key_heads, _CAPACITY, shape.value_size, generator=generator)

    def attended(
        self,
        rows: Rows,
        *,
        caches: tuple[torch.Tensor, torch.Tensor] | None = None,
        window: int | None = None,
        scoring: Scoring | None = None,
        threads: int = 1,
    ) -> torch.Tensor:
        """`(tokens, heads, size)` of these rows one behind the other. What comes before them is in the caches, by
        default those that hold everything there will be."""
        keys, values = caches or (self.keys.clone(), self.values.clone())
        attention = PromptAttention(lambda: threads)
        attention.begin(_plan(rows))
        query, key, value = (
            torch.cat([part[place, :, start:end] for place, start, end in rows], 1)
            for part in (self.queries, self.keys, self.values)
        )
        attention.keep(key, value, keys, values)
        output = torch.full((query.shape[1], self.shape.heads, self.shape.value_size), math.nan)
        attention.attend(query, keys, values, window, scoring or Scoring(None), output)
        return output

    def expected(self, place: int, position: int, window: int | None, scoring: Scoring) -> torch.Tensor:
        """The formula in float64: `(heads, size)`."""
        first = 0 if window is None else max(0, position + 1 - window)
        seen = slice(first, position + 1)
        key = self.keys[place, :, seen].double().repeat_interleave(self.shape.shared_by, 0)
        value = self.values[place, :, seen].double().repeat_interleave(self.shape.shared_by, 0)
        query = self.queries[place, :, position].double()
        scores = (query[:, None] @ key.transpose(1, 2))[:, 0] * (scoring.scaling or self.shape.key_size**-0.5)
        if scoring.softcap is not None:
            scores = torch.tanh(scores / scoring.softcap) * scoring.softcap
        if scoring.sinks is not None:
            scores = torch.cat([scores, scoring.sinks.double()[:, None]], 1)
        return (torch.softmax(scores, -1)[:, None, : key.shape[1]] @ value)[:, 0]


@pytest.mark.parametrize("shape", _SHAPES, ids=str)
@pytest.mark.parametrize("window", [None, 1, 50, 100])
def test_it_is_the_formula(shape: _Shape, window: int | None) -> None:
    rows = [(3, 0, 70), (0, 200, 330), (1, 0, 1), (2, 511, 512)]
    sequences = _Sequences(shape)
    found = sequences.attended(rows, window=window, threads=3)
    tokens = [(place, position) for place, start, end in rows for position in range(start, end)]
    for row, (place, position) in zip(found, tokens, strict=True):
        expected = sequences.expected(place, position, window, Scoring(None))
        assert torch.allclose(row.double(), expected, atol=3e-6, rtol=3e-5)


_SINKS = torch.linspace(-3.0, 30.0, _USUAL.heads)
_SINKS[1] = -math.inf  # none


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize(
    "scoring",
    [Scoring(0.3), Scoring(1.5, softcap=20.0), Scoring(0.5, softcap=1.0), Scoring(0.2, sinks=_SINKS)],
    ids=["scaled", "softcapped", "softcapped low", "with sinks"],
)
@pytest.mark.parametrize("rows", [[(1, 130, 300)], [(1, 129, 130), (0, 0, 1), (2, 66, 67)]], ids=["many", "single"])
def test_so_it_is_with_other_weights(rows: Rows, window: int | None, scoring: Scoring) -> None:
    sequences = _Sequences(_USUAL)
    found = sequences.attended(rows, window=window, scoring=scoring)
    tokens = [(place, position) for place, start, end in rows for position in range(start, end)]
    for row, (place, position) in zip(found, tokens, strict=True):
        expected = sequences.expected(place, position, window, scoring)
        assert torch.allclose(row.double(), expected, atol=3e-6, rtol=3e-5)


@settings(max_examples=40)
@given(
    edges=st.sets(st.integers(1, 299), max_size=8),
    shape=st.sampled_from(_SHAPES),
    window=st.sampled_from([None, 1, 63, 64, 130]),
    softcap=st.sampled_from([None, 1.0, 5.0]),
    has_sinks=st.booleans(),
    company=st.integers(0, 200),
    threads=st.integers(1, 3),
)
def test_chunks_company_and_threads_change_no_bit(
    edges: set[int],
    shape: _Shape,
    window: int | None,
    softcap: float | None,
    has_sinks: bool,
    company: int,
    threads: int,
) -> None:
    sequences = _Sequences(shape)
    sinks = torch.linspace(-3.0, 3.0, shape.heads) if has_sinks else None
    scoring = Scoring(0.2, softcap, sinks)
    whole = sequences.attended([(1, 0, 300)], caches=_empty(sequences), window=window, scoring=scoring)
    caches, found = _empty(sequences), []
    cuts = [0, *sorted(edges), 300]
    for start, end in pairwise(cuts):
        rows = [(2, 100, 100 + company)] * bool(company) + [(1, start, end)]
        given_back = sequences.attended(rows, caches=caches, window=window, scoring=scoring, threads=threads)
        found.append(given_back[company:])
    assert torch.equal(torch.cat(found), whole)


def _empty(sequences: _Sequences) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros_like(sequences.keys), torch.zeros_like(sequences.values)


def test_new_keys_and_values_are_kept_where_their_sequences_are_and_nowhere_else() -> None:
    sequences = _Sequences(_Shape(2, 2, 16, 24))
    caches = _empty(sequences)
    rows = [(3, 5, 200), (0, 0, 64), (1, 511, 512)]
    sequences.attended(rows, caches=caches, threads=3)
    for cached, new in zip(caches, (sequences.keys, sequences.values), strict=True):
        for place, start, end in rows:
            assert torch.equal(cached[place, :, start:end], new[place, :, start:end])
            cached[place, :, start:end] = 0
        assert not cached.any()


@pytest.mark.parametrize("where", [0, 17, 64, 70])
def test_a_number_that_is_none_is_told_on_to_those_that_see_it(where: int) -> None:
    sequences = _Sequences(_USUAL)
    sequences.keys[1, 0, where, 5] = math.nan
    found = sequences.attended([(2, 0, 71), (1, 0, 71)])
    assert bool(found[:71].isfinite().all())
    assert bool(found[71:, _USUAL.shared_by :].isfinite().all())
    assert bool(found[71 : 71 + where].isfinite().all())
    assert bool(found[71 + where :, : _USUAL.shared_by].isnan().any(-1).all())


def test_what_a_token_does_not_see_adds_nothing_to_it() -> None:
    sequences = _Sequences(_USUAL)
    sequences.values[:, :, :100], sequences.values[:, :, 100:] = 0.0, 1e30
    found = sequences.attended([(0, 70, 110)])
    assert not found[:30].any()
    assert bool(found[30:].all())


@pytest.mark.parametrize("size", [60.0, 1e4, 1e18])
def test_large_products_leave_the_likeliest_key(size: float) -> None:
    sequences = _Sequences(_USUAL)
    sequences.queries.zero_()
    sequences.queries[..., 0] = size
    sequences.keys.zero_()
    sequences.keys[..., 0] = -1.0
    sequences.keys[:, :, 9, 0] = 1.0
    found = sequences.attended([(0, 100, 180)], scoring=Scoring(1.0))
    expected = sequences.values[0, :, 9].repeat_interleave(_USUAL.shared_by, 0)
    assert torch.allclose(found, expected.expand_as(found), atol=1e-6)


def test_heads_that_it_does_not_take_and_other_numbers_keep_torchs_operators() -> None:
    assert not PromptAttention().takes(6)
    assert PromptAttention().takes(80)
    for dtype, device in ((torch.bfloat16, "cpu"), (torch.float32, "meta")):
        assert PromptAttention.where_possible(dtype, torch.device(device)) is None
