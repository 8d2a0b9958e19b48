"""A draw depends on its own row alone, takes what the settings leave, and follows the distribution."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_svc.models.drawing import DrawSettings, draw, survivors
from inference_svc.models.likeliest import likeliest, top
from inference_svc.models.noise import draw_keys, exponential

torch.set_num_threads(1)

_VOCABULARY = 300
_BIG_VOCABULARY = 64 * 4 * 65 + 64  # large enough for every shortcut
Settings = tuple[float, int, float, float, int, int]  # temperature, top_k, top_p, min_p, seed, position

_some_settings = st.tuples(
    st.floats(0.1, 3.0),
    st.sampled_from([0, 1, 2, 5, 63, 64, 65, 299, 300, 1000]),
    st.one_of(st.just(1.0), st.floats(0.0, 1.0)),
    st.one_of(st.just(0.0), st.floats(0.0, 1.0)),
    st.integers(0, 2**64 - 1),
    st.integers(0, 100_000),
)


def _draw_settings(rows: list[Settings]) -> DrawSettings:
    temperature, top_k, top_p, min_p, seeds, positions = zip(*rows, strict=True)
    keys = draw_keys(np.array(seeds, dtype=np.uint64), np.array(positions, dtype=np.uint64))
    return DrawSettings(
        np.array(temperature, dtype=np.float32),
        np.array(top_k, dtype=np.int64),
        np.array(top_p, dtype=np.float32),
        np.array(min_p, dtype=np.float32),
        keys,
    )


def _logits(seed: int, rows: int, spread: float = 2.0, vocabulary: int = _VOCABULARY) -> torch.Tensor:
    """Rounded to quarters, so that there are ties."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, vocabulary, generator=generator) * spread * 4).round() / 4


@settings(max_examples=60)
@given(
    st.lists(_some_settings, min_size=1, max_size=6),
    st.integers(0, 1000),
    st.sampled_from([_VOCABULARY, _BIG_VOCABULARY]),
)
def test_a_draw_is_the_same_alone_and_in_any_batch(rows: list[Settings], seed: int, vocabulary: int) -> None:
    logits = _logits(seed, len(rows), vocabulary=vocabulary)
    together = draw(logits.clone(), _draw_settings(rows))
    backwards = draw(logits.flip(0), _draw_settings(rows[::-1])).flip(0)
    alone = torch.cat([draw(logits[i : i + 1].clone(), _draw_settings([each])) for i, each in enumerate(rows)])
    assert together.tolist() == backwards.tolist() == alone.tolist()


def _left_by_definition(
    logits: npt.NDArray[np.float64], temperature: float, top_k: int, top_p: float, min_p: float
) -> tuple[set[int], bool]:
    """The survivors by temperature, min-p, top-k, top-p one after another, and whether rounding could decide."""
    scaled = (logits - logits.max()) / temperature
    weights = np.exp(scaled)
    left = weights >= min_p
    close = bool(np.any(np.abs(weights - min_p) < 1e-5 * min_p)) if min_p > 0 else False
    if 0 < top_k < len(logits):
        edge = np.sort(np.where(left, weights, 0.0))[::-1][top_k - 1]
        left &= weights >= edge
    order = np.argsort(-weights, kind="stable")
    order = order[left[order]]
    share = weights[order] / weights[order].sum()
    before = np.cumsum(share) - share
    if top_p < 1:
        close |= bool(np.any(np.abs(before - top_p) < 1e-5))
        kept = before < top_p
        kept[0] = True
        left &= weights >= weights[order][kept].min()
    return set(np.flatnonzero(left).tolist()), close


@settings(max_examples=150)
@given(_some_settings, st.integers(0, 1000), st.floats(0.2, 4.0))
def test_survivors_are_those_of_the_definition(row: Settings, seed: int, spread: float) -> None:
    temperature, top_k, top_p, min_p, _, _ = row
    logits = _logits(seed, 2, spread)
    expected, rounding_decides = _left_by_definition(logits[0].double().numpy(), temperature, top_k, top_p, min_p)
    if rounding_decides:
        return
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperature
    for count in (min(max(64, top_k + 1), _VOCABULARY), _VOCABULARY):
        left = survivors(scaled, _draw_settings([row, row]), count)
        found = set(left.token_ids[0][left.kept[0]].tolist())
        assert not left.settled[0] or found == expected
    assert left.settled[0]


@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"), [(0, 1.0, 0.0), (40, 1.0, 0.0), (0, 0.8, 0.0), (0, 1.0, 0.1), (30, 0.9, 0.02)]
)
@pytest.mark.parametrize("by_position", [True, False])
def test_draws_follow_the_distribution(top_k: int, top_p: float, min_p: float, by_position: bool) -> None:
    """Chi-square over 20,000 draws with fixed seeds, once along positions of one seed, once along seeds."""
    count, temperature = 20_000, 1.3
    logits = _logits(8, 1)
    left, _ = _left_by_definition(logits[0].double().numpy(), temperature, top_k, top_p, min_p)
    ids = np.array(sorted(left))
    weights = torch.softmax(logits[0].double() / temperature, -1).numpy()[ids]
    expected = weights / weights.sum() * count
    rows = [(temperature, top_k, top_p, min_p, 42 if by_position else i, i if by_position else 7) for i in range(count)]
    drawn = draw(logits.expand(count, -1).clone(), _draw_settings(rows)).numpy()
    observed = np.bincount(drawn, minlength=_VOCABULARY)
    assert observed.sum() == observed[ids].sum(), "nothing outside the survivors is drawn"
    common = expected >= 5
    bins_expected = np.append(expected[common], max(expected[~common].sum(), 1e-9))
    bins_observed = np.append(observed[ids][common], observed[ids][~common].sum())
    statistic = ((bins_observed - bins_expected) ** 2 / bins_expected)[bins_expected >= 5].sum()
    freedom = int((bins_expected >= 5).sum()) - 1
    assert statistic < freedom + 4 * np.sqrt(2 * freedom)


def test_noise_is_exponential_and_its_neighbours_are_independent() -> None:
    keys = torch.from_numpy(draw_keys(np.full(400, 9, np.uint64), np.arange(400, dtype=np.uint64)))
    noise = exponential(keys, torch.arange(500, dtype=torch.int32)[None])
    assert noise.min() > 0
    assert noise.isfinite().all()
    uniform = torch.exp(-noise.double())
    assert abs(float(uniform.mean()) - 0.5) < 4 / np.sqrt(12 * uniform.numel())
    histogram = torch.histc(uniform.float(), 50, 0, 1).double()
    mean = uniform.numel() / 50
    assert float(((histogram - mean) ** 2 / mean).sum()) < 49 + 4 * np.sqrt(98)
    centred = uniform - 0.5
    for one, other in (
        (centred[:, 1:], centred[:, :-1]),
        (centred[1:], centred[:-1]),
        (centred[1:, 1:], centred[:-1, :-1]),
    ):
        correlation = float((one * other).mean() * 12)
        assert abs(correlation) < 4 / np.sqrt(one.numel())


def test_a_tiny_temperature_takes_the_likeliest() -> None:
    logits = torch.randn(3, _VOCABULARY, generator=torch.Generator().manual_seed(1)) * 50
    rows = [(1e-30, 0, 1.0, 0.0, seed, 0) for seed in range(3)]
    assert draw(logits.clone(), _draw_settings(rows)).tolist() == logits.argmax(-1).tolist()


def test_a_token_ruled_out_is_never_drawn() -> None:
    logits = torch.full((500, _VOCABULARY), -torch.inf)
    logits[:, 17] = 0.0
    logits[:, 18] = -1.0
    for top_p in (1.0, 0.999):
        rows = [(1.0, 0, top_p, 0.0, seed, 0) for seed in range(500)]
        assert set(draw(logits.clone(), _draw_settings(rows)).tolist()) == {17, 18}


@settings(max_examples=60)
@given(st.lists(st.integers(-3, 3).map(float) | st.just(math.nan) | st.floats(-5, 5), min_size=1, max_size=200))
def test_the_likeliest_is_the_first_of_the_largest(row: list[float]) -> None:
    scores = torch.tensor([row, row[::-1]])
    best, index = likeliest(scores)
    expected = scores.max(-1)
    assert torch.equal(best.nan_to_num(99), expected.values.nan_to_num(99))
    assert index.tolist() == scores.argmax(-1).tolist()


@settings(max_examples=60)
@given(st.integers(1, 5), st.sampled_from([640, 64 * 50, 64 * 50 + 7]), st.integers(0, 10_000))
def test_the_top_is_that_of_a_sort(count: int, columns: int, seed: int) -> None:
    scores = torch.randn(3, columns, generator=torch.Generator().manual_seed(seed))
    scores = (scores * 8).round() / 8  # ties
    values, index = top(scores, count)
    assert torch.equal(values, scores.sort(-1, descending=True).values[:, :count])
    assert torch.equal(scores.gather(1, index), values)
    assert all(len(set(row)) == count for row in index.tolist())
