"""Decoder layers of the usual form are few passes, which give what the layers gave; others stay."""

from typing import Any

import pytest
import torch
from inference_svc.engine.runner import Row
from inference_svc.models import programs
from inference_svc.models.generation_runner import PackedGenerationRunner
from inference_svc.models.packed_attention import PackedAttention
from inference_svc.models.panel_linear import PanelLinear
from inference_svc.models.prepacked import prepack_linears
from inference_svc.models.processor import has_narrow_vectors
from inference_svc.models.slot_steps import SlotSteps
from inference_svc.models.torch_threads import run
from inference_svc.models.usual_layers import fuse_decoder_layers
from inference_svc.requests import OutputDetail
from support.driving import Driver, generation, told_in
from support.generation_models import build_model
from torch import nn
from transformers import PreTrainedModel

pytestmark = pytest.mark.usefixtures("panels")


def _packed(architecture: str) -> PreTrainedModel:
    model = build_model(architecture)
    with torch.inference_mode():
        prepack_linears(model)
    return model


@pytest.mark.parametrize(
    ("architecture", "layers"),
    [
        ("llama", 2),
        ("llama_scaled_rope", 2),
        ("qwen2", 2),
        ("qwen3", 2),
        ("mistral_windowed", 2),
        ("smollm3", 4),  # of which one rotates nothing
        ("gemma2", 0),
        ("phi3_windowed", 0),
        ("mixtral", 0),
        ("gpt2", 0),
    ],
)
def test_layers_of_the_usual_form_are_known(architecture: str, layers: int) -> None:
    model = _packed(architecture)
    before = model.config._attn_implementation
    with torch.inference_mode():
        assert fuse_decoder_layers(model) == layers
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "smollm3"])
def test_a_model_gives_what_it_gave(architecture: str) -> None:
    """By transformers' own attention, which the passes ask as the layers did."""
    model, ids = _packed(architecture), torch.arange(5, 45)[None]
    model.set_attn_implementation("sdpa")
    with torch.inference_mode():
        expected = model(ids, use_cache=False).logits
        fuse_decoder_layers(model)
        found = model(ids, use_cache=False).logits
    assert torch.allclose(found, expected, atol=5e-5)
    assert not torch.equal(found, expected)  # or the passes were not asked


def test_what_the_passes_are_not_made_for_goes_the_layers_own_way() -> None:
    model, ids = _packed("llama"), torch.arange(5, 45).view(2, 20)  # two sequences side by side, and a cache
    model.set_attn_implementation("sdpa")
    with torch.inference_mode():
        expected = model(ids).logits
        fuse_decoder_layers(model)
        assert torch.equal(model(ids).logits, expected)


def _scaled_residuals(layer: Any) -> None:
    own = layer.self_attn.forward

    def forward(*given: Any, **named: Any) -> Any:
        attended, weights = own(*given, **named)
        return attended * 0.5, weights

    layer.self_attn.forward = forward


def _other_gates(layer: Any) -> None:
    layer.mlp.act_fn = nn.ReLU()


def _one_part_more(layer: Any) -> None:
    layer.extra = nn.LayerNorm(64)


def _heads_half_as_loud(layer: Any) -> None:
    layer.self_attn.q_proj.forward = lambda features: PanelLinear.forward(layer.self_attn.q_proj, features) * 0.5


@pytest.mark.parametrize("change", [_scaled_residuals, _other_gates, _one_part_more, _heads_half_as_loud])
def test_a_layer_that_only_looks_alike_stays(change: Any) -> None:
    model, ids = _packed("llama"), torch.arange(5, 45)[None]
    change(model.model.layers[1])
    model.set_attn_implementation("sdpa")
    with torch.inference_mode():
        expected = model(ids, use_cache=False).logits
        assert fuse_decoder_layers(model) == 1
        assert torch.allclose(model(ids, use_cache=False).logits, expected, atol=5e-5)


_ASKED = {
    f"r{length}": generation(range(4, 4 + length), 12, detail=OutputDetail(logprobs=True))
    for length in (1, 20, 65, 130)
}


def _runner(architecture: str = "llama") -> PackedGenerationRunner:
    return PackedGenerationRunner(build_model(architecture), slot_count=4, max_context_tokens=200)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "smollm3", "mistral_windowed"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_step_in_one_program_is_that_of_layers_in_turn_to_the_bit(
    architecture: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(threads)
    together = Driver(_runner(architecture)).run(_ASKED)
    monkeypatch.setattr(PackedAttention, "shape", None)
    noted_anew = Driver(_runner(architecture)).run(_ASKED)
    monkeypatch.setattr(PackedAttention, "may_wait", False)
    in_turn = Driver(_runner(architecture)).run(_ASKED)
    assert told_in(together) == told_in(noted_anew) == told_in(in_turn)


@pytest.mark.skipif(not has_narrow_vectors(), reason="prompts attend by torch's operators")
def test_a_step_is_one_program_but_for_a_last_layer_that_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, prompt = _runner(), tuple(range(5, 30))
    runner.open(0, generation(prompt, 9))
    sizes: list[int] = []
    monkeypatch.setattr(
        programs, "run", lambda work, order, threads: (sizes.append(order[0]), run(work, order, threads))
    )
    runner.step([Row(0, 0, prompt, True, 0)])
    assert sizes == [9 + 2]  # of the first of two layers, the passes, keys and values kept, and attention
    runner.step([Row(0, len(prompt), (7,), True, 1)])
    assert sizes[1:] == [2 * (9 + 1)]  # of both, the passes and attention, which keeps a single token's own


def test_a_step_that_fails_on_its_way_leaves_nothing_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = _runner()
    prompt = tuple(range(5, 30))
    runner.open(0, generation(prompt, 9))
    runner.step([Row(0, 0, prompt, True, 0)])
    expected = runner.step([Row(0, len(prompt), (7,), True, 1)])
    own, calls = PackedAttention.attend, []

    def failing(*given: Any) -> torch.Tensor:
        calls.append(given)
        if len(calls) == 2:
            raise RuntimeError("in the second layer")
        return own(*given)

    runner.open(1, generation((3,), 9))
    monkeypatch.setattr(PackedAttention, "attend", failing)
    with pytest.raises(RuntimeError, match="second layer"):  # of a step of a new shape
        runner.step([Row(0, len(prompt), (7,), True, 1), Row(1, 0, (3,), True, 0)])
    assert runner.step([Row(0, len(prompt), (7,), True, 1)]) == expected


@pytest.mark.parametrize("architecture", ["llama", "llama_odd_heads", "llama_one_layer"])
def test_a_model_that_bears_all_that_spares_work_is_given_it(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SlotSteps, "be_plain", lambda self: pytest.fail("its first steps were wrong"))
    _runner(architecture)


def test_what_a_layer_takes_for_itself_reaches_it() -> None:
    model = _packed("llama")
    layer = model.model.layers[0]
    own = layer.forward

    def forward(hidden_states: torch.Tensor, residual_scale: float = 1.0, **named: Any) -> Any:
        return own(hidden_states, **named) * residual_scale

    layer.forward = forward
    model.set_attn_implementation("sdpa")
    features, angles = torch.randn(1, 5, 64), torch.randn(1, 5, 16)
    named = {"position_embeddings": (angles.cos(), angles.sin()), "attention_mask": None}
    with torch.inference_mode():
        assert fuse_decoder_layers(model) == 2
        expected = forward(features, 0.5, **named)
        assert torch.equal(layer(features, residual_scale=0.5, **named), expected)
        assert torch.allclose(layer(features, **named), 2 * expected, atol=1e-5)
