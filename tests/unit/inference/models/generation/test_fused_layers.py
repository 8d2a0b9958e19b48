"""Layers computed in one pass give what they gave before, and those that compute something else stay."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from inference_svc.models import elementwise
from inference_svc.models.elementwise_kernel import compile_gate, compile_norm, compile_placing
from inference_svc.models.fused_layers import OnePassGates, OnePassNorm, fuse_norms_and_gates, fuse_rotations
from inference_svc.models.fusing import Fused, fuse_layers
from inference_svc.models.torch_threads import Work, run
from support.generation_models import build_model
from torch import nn
from torch.nn.functional import rms_norm, silu
from transformers.models.llama import modeling_llama


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("shape", [(1, 1, 8), (1, 7, 64), (1, 300, 512), (1, 5, 3, 64), (1, 0, 32)])
def test_a_norm_is_the_formula(threads: int, shape: tuple[int, ...]) -> None:
    torch.set_num_threads(threads)
    features, scale = torch.randn(shape) * 5, torch.randn(shape[-1])
    found = OnePassNorm(scale, 1e-6)(features)
    expected = rms_norm(features.double(), (shape[-1],), scale.double(), 1e-6)
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_norm_of_other_numbers_is_refused() -> None:
    with pytest.raises(RuntimeError, match="32 numbers was given 64"):
        OnePassNorm(torch.ones(32), 1e-6)(torch.zeros(1, 2, 64))
    with pytest.raises(RuntimeError, match="float64"):
        OnePassNorm(torch.ones(32), 1e-6)(torch.zeros(1, 2, 32, dtype=torch.float64))


def test_a_norm_reads_any_strides() -> None:
    features = torch.randn(1, 3, 5, 64).transpose(1, 2)
    found = OnePassNorm(torch.ones(64), 1e-6)(features)
    assert torch.allclose(found, rms_norm(features, (64,), None, 1e-6), atol=1e-5)


@pytest.mark.parametrize("threads", [1, 3])
def test_rows_have_the_same_bits_in_any_company(threads: int) -> None:
    torch.set_num_threads(threads)
    norm = OnePassNorm(torch.randn(512), 1e-5)
    gated = OnePassGates(nn.Identity(), nn.Identity(), nn.Identity(), (1.0, 0.0))
    features = torch.randn(1, 333, 512)
    for layer in (norm, gated):
        whole = layer(features.clone())
        for count in (1, 2, 5, 100, 332):
            assert torch.equal(layer(features[:, :count].clone()), whole[:, :count])


def test_gates_at_the_ends_of_their_range_and_none_stay_right() -> None:
    gates = torch.tensor([[-1e30, -1e4, -90.0, -20.0, -0.0, 0.0, 20.0, 90.0, 1e4, 1e30, torch.nan, 3.0]])
    values = torch.full_like(gates, 2.0)
    layer = OnePassGates(nn.Identity(), _Fixed(values), nn.Identity(), (1.0, 0.0))
    found, expected = layer(gates.clone()), silu(gates) * values
    assert found[0, 10].isnan()
    known = torch.arange(12) != 10
    assert torch.allclose(found[0, known], expected[0, known], rtol=1e-5, atol=1e-6)


class _Fixed(nn.Module):
    def __init__(self, given: torch.Tensor) -> None:
        super().__init__()
        self.given = given

    def forward(self, _features: torch.Tensor) -> torch.Tensor:
        return self.given


@pytest.mark.parametrize(
    ("architecture", "norms", "gated"),
    [("llama", 5, 2), ("qwen3", 9, 2), ("gemma2", 9, 2), ("mixtral", 5, 0), ("gpt2", 0, 0)],
)
def test_layers_are_known_by_what_they_compute(
    architecture: str, norms: int, gated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(architecture)
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        expected = model(ids).logits
        assert fuse_norms_and_gates(model) == norms + gated
        done = _orders_run(monkeypatch)
        assert torch.allclose(model(ids).logits, expected, atol=5e-5)
    assert done == {kind: count for kind, count in (("_normalise", norms), ("_gate", gated)) if count}


def _orders_run(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts, from here on, the passes made of each kind."""
    done: Counter[str] = Counter()
    kinds = [(compile_norm(), "_normalise"), (compile_gate(), "_gate"), (compile_placing(), "_place")]

    def noted(work: Work, order: Any, thread_count: int) -> None:
        done[next(name for kind, name in kinds if kind is work)] += 1
        run(work, order, thread_count)

    monkeypatch.setattr(elementwise, "run", noted)
    return done


@pytest.mark.parametrize(("architecture", "layers"), [("llama", 2), ("qwen3", 2), ("gemma3", 6), ("gpt2", 0)])
def test_rotations_of_this_model_alone_are_one_pass(
    architecture: str, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, other = build_model(architecture), build_model(architecture)
    ids = torch.arange(5, 45)[None]
    with torch.inference_mode():
        expected = model(ids).logits
        assert fuse_rotations(model) == layers
        done = _orders_run(monkeypatch)
        assert torch.allclose(model(ids).logits, expected, atol=5e-5)
        assert done["_place"] == 2 * layers
        assert torch.equal(other(ids).logits, expected)


def test_a_rotation_by_another_rule_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def pairs(
        query: torch.Tensor, key: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        turned = [torch.stack((-one[..., 1::2], one[..., ::2]), -1).flatten(-2) for one in (query, key)]
        return query * cosines + turned[0] * sines, key * cosines + turned[1] * sines

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", pairs)
    assert fuse_rotations(build_model("llama")) == 0


def test_what_the_pass_is_not_made_for_goes_the_models_own_way() -> None:
    model = build_model("llama")
    ids = torch.arange(5, 45).view(2, 20)  # two sequences side by side
    with torch.inference_mode():
        expected = model(ids).logits
        fuse_rotations(model)
        assert torch.allclose(model(ids).logits, expected, atol=5e-5)


def test_layers_that_only_look_alike_stay() -> None:
    model = build_model("llama")
    for layer in model.model.layers:
        layer.mlp.act_fn = nn.ReLU()
        layer.input_layernorm = _MeanLess(layer.input_layernorm.weight)
    assert fuse_norms_and_gates(model) == 3  # the norms behind attention, and the last
    assert not any("forward" in vars(layer.input_layernorm) for layer in model.model.layers)


def test_a_clamp_that_ordinary_numbers_never_reach_is_noticed() -> None:
    model = build_model("llama")
    for layer in model.model.layers:
        own = layer.mlp.act_fn
        layer.mlp.act_fn = _Clamped(own)
    assert fuse_norms_and_gates(model) == 5  # the norms


class _Clamped(nn.Module):
    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own = own

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.own(features).clamp(max=500.0)


def test_a_layer_asked_for_more_answers_in_its_own_way() -> None:
    model = build_model("llama")
    norm = model.model.norm
    asked = []
    monkey = type(norm).forward

    def own(features: torch.Tensor, more: float = 1.0) -> torch.Tensor:
        asked.append(more)
        return monkey(norm, features) * more

    norm.forward = own
    assert fuse_norms_and_gates(model) == 7
    features = torch.randn(1, 3, len(norm.weight))
    asked.clear()
    assert torch.allclose(norm(features, 2.0), 2 * norm(features), atol=1e-5)
    assert asked == [2.0]


class _MeanLess(nn.Module):
    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight, self.eps = weight, 1e-6

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return rms_norm(features - features.mean(-1, keepdim=True), (len(self.weight),), self.weight, self.eps)


def test_other_number_types_stay() -> None:
    model = build_model("llama", torch.bfloat16)
    assert fuse_layers(model) == Fused()


def test_a_model_is_fused_as_a_whole() -> None:
    assert fuse_layers(build_model("llama")) == Fused(norms_and_gates=5 + 2, rotations=2)
