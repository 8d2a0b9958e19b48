"""The compiled attention of single tokens says what the plain formula says."""

import math

import pytest
import torch
from inference_svc.models.attention_kernel import Scoring
from inference_svc.models.step_plan import DecodeGroup, StepPlan
from inference_svc.models.token_attention import TokenAttention

_PLACES, _KEY_HEADS, _CAPACITY, _DIMENSION = 24, 2, 512, 64
_SHARED_BY = 7  # queries of a key: four at a time, and three that are left
_HEADS = _SHARED_BY * _KEY_HEADS


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def _plan(positions: list[int], resumed: int = 0) -> StepPlan:
    """Tokens at these positions, one a sequence, in places from the last down; the last `resumed` of them in one more
    sequence at place 0."""
    alone = len(positions) - resumed
    plan = StepPlan(token_ids=[0] * len(positions), positions=positions)
    plan.decode_places = [_PLACES - 1 - index for index in range(alone)]
    plan.groups.append(DecodeGroup(0, alone, plan.decode_places[0], False, _CAPACITY))
    if resumed:
        plan.groups.append(DecodeGroup(alone, len(positions), 0, True, _CAPACITY))
    return plan


def _expected(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    place: int,
    position: int,
    window: int | None,
    scoring: Scoring,
) -> torch.Tensor:
    """The formula in float64, one token: `query` `(heads, dimension)`."""
    first = 0 if window is None else max(0, position + 1 - window)
    shared_by = len(query) // keys.shape[1]
    key = keys[place, :, first : position + 1].double().repeat_interleave(shared_by, 0)
    value = values[place, :, first : position + 1].double().repeat_interleave(shared_by, 0)
    scores = (query.double()[:, None] @ key.transpose(1, 2))[:, 0] * (scoring.scaling or query.shape[1] ** -0.5)
    if scoring.softcap is not None:
        scores = torch.tanh(scores / scoring.softcap) * scoring.softcap
    if scoring.sinks is not None:
        scores = torch.cat([scores, scoring.sinks.double()[:, None]], 1)
    weights = torch.softmax(scores, -1)[:, : key.shape[1]]
    return (weights[:, None] @ value)[:, 0]


def _attend(
    attention: TokenAttention,
    plan: StepPlan,
    caches: tuple[torch.Tensor, torch.Tensor],
    query: torch.Tensor,
    window: int | None = None,
    scoring: Scoring | None = None,
) -> torch.Tensor:
    """What is new is in the caches already."""
    output = torch.zeros(query.shape[1], _HEADS, _DIMENSION)
    attention.begin(plan)
    new = [_kept(part, plan, query.shape[1]) for part in caches]
    attention.attend(query, *new, *caches, window, scoring or Scoring(None), output)
    return output


def _kept(cached: torch.Tensor, plan: StepPlan, token_count: int) -> torch.Tensor:
    new = torch.zeros(_KEY_HEADS, token_count, _DIMENSION, dtype=cached.dtype)
    for index, place in enumerate(plan.decode_places):
        new[:, index] = cached[place, :, plan.positions[index]]
    return new


@pytest.mark.parametrize("thread_count", [1, 3])
@pytest.mark.parametrize("window", [None, 1, 100])
@pytest.mark.parametrize(
    "scoring",
    [Scoring(None), Scoring(0.3), Scoring(1.5, softcap=20.0), Scoring(0.2, sinks=torch.linspace(-3.0, 30.0, _HEADS))],
    ids=["plain", "scaled", "softcapped", "with sinks"],
)
def test_it_is_the_formula(thread_count: int, window: int | None, scoring: Scoring) -> None:
    positions = [0, 1, 2, 15, 16, 63, 100, 511, 400, 300, 7, 8, 510, 509, 200, 201, 202, 203]
    plan = _plan(positions, resumed=4)
    query = _random(_HEADS, len(positions), _DIMENSION)
    keys, values = _random(_PLACES, _KEY_HEADS, _CAPACITY, _DIMENSION).chunk(2, 2)
    keys, values = (torch.cat([part, part + 0.1], 2).contiguous() for part in (keys, values))
    found = _attend(TokenAttention(torch.float32, lambda: thread_count), plan, (keys, values), query, window, scoring)
    places = [*plan.decode_places, 0, 0, 0, 0]
    for index, (place, position) in enumerate(zip(places, positions, strict=True)):
        expected = _expected(query[:, index], keys, values, place, position, window, scoring)
        assert torch.allclose(found[index].double(), expected, atol=3e-6, rtol=3e-5)


def test_neither_company_nor_threads_change_a_bit() -> None:
    positions = [500, 3, 77, 410, 255, 256, 490, 499, 12, 350]
    query = _random(_HEADS, len(positions), _DIMENSION)
    caches = (_random(_PLACES, _KEY_HEADS, _CAPACITY, _DIMENSION), _random(_PLACES, _KEY_HEADS, _CAPACITY, _DIMENSION))
    together = _attend(TokenAttention(torch.float32, lambda: 4), _plan(positions), caches, query)
    for index, position in enumerate(positions):
        plan = _plan([position])
        plan.decode_places = [_PLACES - 1 - index]
        alone = _attend(TokenAttention(torch.float32, lambda: 1), plan, caches, query[:, index : index + 1])
        assert torch.equal(alone[0], together[index])


def test_what_lies_behind_a_token_is_not_read() -> None:
    query = _random(_HEADS, 1, _DIMENSION)
    keys = _random(_PLACES, _KEY_HEADS, _CAPACITY, _DIMENSION)
    keys[:, :, 41:] = math.nan
    found = _attend(TokenAttention(torch.float32, lambda: 1), _plan([40]), (keys, keys.clone()), query)
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("where", [0, 17, 40])
def test_a_number_that_is_none_is_told_on(where: int) -> None:
    query = _random(_HEADS, 1, _DIMENSION)
    keys = _random(_PLACES, _KEY_HEADS, _CAPACITY, _DIMENSION)
    values = keys.clone()
    keys[_PLACES - 1, 0, where, 5] = math.nan
    found = _attend(TokenAttention(torch.float32, lambda: 1), _plan([40]), (keys, values), query)
    assert bool(found[0, :_SHARED_BY].isnan().any())
    assert bool(found[0, _SHARED_BY:].isfinite().all())


@pytest.mark.parametrize("size", [60.0, 1e4, 1e18])
def test_large_products_leave_the_likeliest_key(size: float) -> None:
    query = torch.zeros(_HEADS, 1, _DIMENSION)
    query[:, :, 0] = size
    keys = torch.zeros(_PLACES, _KEY_HEADS, _CAPACITY, _DIMENSION)
    keys[:, :, :, 0] = -1.0
    keys[:, :, 9, 0] = 1.0
    values = _random(_PLACES, _KEY_HEADS, _CAPACITY, _DIMENSION)
    found = _attend(TokenAttention(torch.float32, lambda: 1), _plan([40]), (keys, values), query, None, Scoring(1.0))
    expected = values[_PLACES - 1, :, 9].repeat_interleave(_SHARED_BY, 0)
    assert torch.allclose(found[0], expected, atol=1e-6)


def test_a_cache_of_bfloat16_is_read_as_it_is() -> None:
    positions = [0, 5, 130, 511]
    query = _random(_HEADS, len(positions), _DIMENSION).bfloat16()
    keys, values = _random(2, _PLACES, _KEY_HEADS, _CAPACITY, _DIMENSION).bfloat16()
    plan, output = _plan(positions), torch.zeros(len(positions), _HEADS, _DIMENSION, dtype=torch.bfloat16)
    attention = TokenAttention(torch.bfloat16)
    attention.begin(plan)
    new = [_kept(part, plan, len(positions)) for part in (keys, values)]
    attention.attend(query, *new, keys, values, None, Scoring(None), output)
    for index, (place, position) in enumerate(zip(plan.decode_places, positions, strict=True)):
        expected = _expected(query[:, index], keys, values, place, position, None, Scoring(None))
        assert torch.allclose(output[index].double(), expected, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("thread_count", [1, 3])
def test_new_keys_are_written_where_their_sequences_are_and_read(dtype: torch.dtype, thread_count: int) -> None:
    plan = _plan([3, 0, 511, 8, 9], resumed=2)
    keys, values = torch.zeros(2, _PLACES, _KEY_HEADS, _CAPACITY, _DIMENSION, dtype=dtype)
    key, value = _random(2, _KEY_HEADS, 5, _DIMENSION).to(dtype)
    query, output = _random(_HEADS, 5, _DIMENSION).to(dtype), torch.zeros(5, _HEADS, _DIMENSION, dtype=dtype)
    attention = TokenAttention(dtype, lambda: thread_count)
    attention.begin(plan)
    attention.attend(query, key, value, keys, values, None, Scoring(None), output)
    assert torch.equal(output[1], value[:, 1].repeat_interleave(_SHARED_BY, 0))  # the only one of its sequence
    for cached, new in ((keys, key), (values, value)):
        for index, place in enumerate(plan.decode_places):
            assert torch.equal(cached[place, :, plan.positions[index]], new[:, index])
            cached[place, :, plan.positions[index]] = 0
        assert not cached.any()


def test_other_number_types_keep_torchs_own_kernel() -> None:
    assert TokenAttention.where_possible(torch.float16, torch.device("cpu")) is None
    assert TokenAttention.where_possible(torch.float32, torch.device("meta")) is None
