"""A model whose packed answers would not be its own is refused, and why is said."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from inference_svc.engine.runner import Row
from inference_svc.errors import ModelLoadError
from inference_svc.models.generation_runner import PackedGenerationRunner
from inference_svc.models.onednn_linear import OneDnnLinear
from inference_svc.models.self_check import check_differences, check_layers, packed_differences, plain_logits
from support.generation_models import REFUSED, build_model

torch.set_num_threads(1)

_REASONS = {
    "bloom": "attention interface",
    "gptj": "attention interface",
    "mamba2": "linear_attention",
    "lfm2": "conv",
    "llama4_chunked": "chunked_attention",
    "qwen3_next": "linear_attention",
}


@pytest.mark.parametrize("architecture", REFUSED)
def test_an_architecture_that_cannot_be_packed_is_refused_with_its_reason(architecture: str) -> None:
    with pytest.raises(ModelLoadError, match=_REASONS[architecture]):
        PackedGenerationRunner(build_model(architecture), slot_count=2, max_context_tokens=64)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "qwen3_experts"])
def test_attention_that_sees_one_token_only_fails_the_check(architecture: str) -> None:
    """The control: what the check must never let through."""
    model = build_model(architecture)

    def blinded(rows: Sequence[Row], prompt_lengths: Mapping[int, int]) -> torch.Tensor:
        found = []
        for row in rows:
            position = row.start + len(row.token_ids) - 1
            ids, positions = torch.tensor([[row.token_ids[-1]]]), torch.tensor([[position]])
            found.append(model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, -1])
        return torch.stack(found)

    with torch.inference_mode():
        differences = packed_differences(plain_logits(model, 64), blinded)
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(ModelLoadError, match="answers otherwise"):
            check_differences(differences, dtype, architecture)


def test_an_answer_that_is_not_a_number_fails_the_check() -> None:
    with pytest.raises(ModelLoadError):
        check_differences([0.0, float("nan"), 0.0], torch.float32, "broken")


def test_a_window_that_is_not_passed_on_is_refused() -> None:
    model = build_model("gemma2")
    check_layers({0: 12, 1: None}, model, 64)
    with pytest.raises(ModelLoadError, match="window"):
        check_layers({0: None, 1: None}, model, 64)


def test_a_context_beyond_the_models_positions_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="641"):
        PackedGenerationRunner(build_model("gpt2"), slot_count=2, max_context_tokens=641)


def test_positions_that_depend_on_the_longest_neighbour_are_refused_with_a_way_out() -> None:
    model = build_model("llama")
    model.config.rope_parameters = {"rope_type": "dynamic", "original_max_position_embeddings": 100}
    with pytest.raises(ModelLoadError, match="set max_context_tokens to 100"):
        PackedGenerationRunner(model, slot_count=2, max_context_tokens=101)


def test_a_packed_layer_knows_when_it_is_not_the_layer_it_replaces() -> None:
    weight, bias = torch.randn(30, 40), torch.randn(30)
    packed = OneDnnLinear(weight, bias)
    assert packed.agrees_with(weight, bias)
    assert not packed.agrees_with(weight + 0.01, bias)
    assert not packed.agrees_with(weight, None)
