"""Products with weights in panels: right to float32's precision, and in the same bits in any company."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_svc.models.panel_linear import PanelLinear

_SHAPES = [(1, 4), (7, 64), (31, 128), (32, 132), (33, 256), (100, 36), (512, 512), (64, 3328), (4097, 260)]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _layer(outputs: int, inputs: int, *, bias: bool = True) -> tuple[PanelLinear, torch.Tensor, torch.Tensor]:
    torch.manual_seed(outputs * inputs)
    weight, shift = torch.randn(outputs, inputs), torch.randn(outputs)
    return PanelLinear(weight, shift if bias else None), weight, shift if bias else torch.zeros(outputs)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(("outputs", "inputs"), _SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_is_as_exact_as_torch_makes_it(threads: int, outputs: int, inputs: int, bias: bool) -> None:
    torch.set_num_threads(threads)
    layer, weight, shift = _layer(outputs, inputs, bias=bias)
    for rows in (1, 2, 3, 4, 5, 37, 200):
        features = torch.randn(rows, inputs)
        exact = features.double() @ weight.double().t() + shift
        magnitude = features.double().abs() @ weight.double().abs().t() + shift.abs()
        assert ((layer(features) - exact).abs() <= 1e-6 * magnitude).all()


@pytest.mark.parametrize(("outputs", "inputs"), [(33, 256), (512, 512), (64, 3328)])
def test_a_row_has_the_same_bits_among_any_number_of_others_and_on_any_number_of_threads(
    outputs: int, inputs: int
) -> None:
    layer, _, _ = _layer(outputs, inputs)
    features = torch.randn(400, inputs)
    torch.set_num_threads(1)
    expected = layer(features)
    for threads in (1, 2, 7):
        torch.set_num_threads(threads)
        for rows in (*range(1, 20), 47, 48, 49, 95, 96, 97, 159, 160, 161, 399, 400):
            assert torch.equal(layer(features[:rows]), expected[:rows])
            assert torch.equal(layer(features[-rows:]), expected[-rows:])


@settings(max_examples=60)
@given(
    outputs=st.integers(1, 200), quarter=st.integers(1, 150), rows=st.integers(1, 250), threads=st.sampled_from([1, 2])
)
def test_whole_numbers_come_out_exact_in_any_shape(outputs: int, quarter: int, rows: int, threads: int) -> None:
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randint(-9, 10, (outputs, 4 * quarter), generator=generator).float()
    features = torch.randint(-9, 10, (rows, 4 * quarter), generator=generator).float()
    assert torch.equal(PanelLinear(weight, None)(features), features @ weight.t())


def test_dimensions_before_the_last_stay_and_any_strides_are_read() -> None:
    layer, weight, shift = _layer(33, 64)
    features = torch.randn(64, 5, 3).permute(1, 2, 0)
    result = layer(features)
    assert result.shape == (5, 3, 33)
    assert result.is_contiguous()
    assert torch.allclose(result, features @ weight.t() + shift, atol=1e-4)
    assert layer(features[:0]).shape == (0, 3, 33)


def test_what_is_not_finite_stays_in_its_row() -> None:
    layer, _, _ = _layer(100, 256)
    features = torch.randn(7, 256)
    expected = layer(features)
    features[3, 200] = torch.nan
    found = layer(features)
    assert found[3].isnan().all()
    others = [0, 1, 2, 4, 5, 6]
    assert torch.equal(found[others], expected[others])


@pytest.mark.parametrize("weight", [torch.randn(8, 6), torch.randn(8, 8, dtype=torch.bfloat16)])
def test_weights_that_the_kernel_does_not_take_are_refused(weight: torch.Tensor) -> None:
    with pytest.raises(RuntimeError):
        PanelLinear(weight, None)
