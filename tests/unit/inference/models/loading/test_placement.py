"""How much a model may hold follows from its spec, its size and the memory there is."""

import pytest
import torch
from inference_svc.errors import ModelLoadError
from inference_svc.model import ModelSpec, PrefixSharing
from inference_svc.models.placement import (
    CacheShape,
    PagedShape,
    Placement,
    cache_shape,
    encoder_step_tokens,
    paged_shape,
    placement_of,
    prepare,
)
from inference_svc.requests import Task
from transformers import LlamaConfig

torch.set_num_threads(1)

CPU = Placement(torch.device("cpu"), torch.float32)
SMALL = LlamaConfig(hidden_size=64, num_attention_heads=4, num_hidden_layers=2, num_key_value_heads=2, dtype="bfloat16")
HUGE = LlamaConfig(hidden_size=1 << 20, num_attention_heads=64, num_hidden_layers=200)


def spec(**changes: int | str | None) -> ModelSpec:
    return ModelSpec("chat", Task.GENERATE, "somewhere", **changes)  # type: ignore[arg-type]


def test_a_stated_cache_is_filled_with_whole_contexts() -> None:
    stated = spec(cache_token_count=10_000, max_context_tokens=2000, prefix_cache=PrefixSharing.OFF)
    shape = cache_shape(stated, SMALL, CPU, model_limit=4096)
    assert shape == CacheShape(4, 2000, 0), "2000 takes 2048 places"


def test_a_quarter_of_the_cache_is_for_shared_beginnings_beside_at_least_one_context() -> None:
    def shape(tokens: int) -> CacheShape:
        return cache_shape(spec(cache_token_count=tokens, max_context_tokens=2000), SMALL, CPU, model_limit=4096)

    assert shape(10_000) == CacheShape(3, 2000, 2500)
    assert shape(2500) == CacheShape(1, 2000, 452)
    assert shape(1_000_000).prefix_tokens == 64 * 2000, "no more than what the slots hold"


def test_a_context_is_never_longer_than_the_model_knows() -> None:
    assert cache_shape(spec(max_context_tokens=9000), SMALL, CPU, model_limit=4096).max_context_tokens == 4096


def test_slots_are_those_asked_for() -> None:
    assert cache_shape(spec(slot_count=3), SMALL, CPU, model_limit=4096).slot_count == 3


def test_a_long_context_is_cut_where_memory_holds_few_of_it_and_one_slot_is_always_there() -> None:
    shape = cache_shape(spec(), HUGE, CPU, model_limit=1_000_000)
    assert (shape.slot_count, shape.max_context_tokens) == (1, 2048)


def test_a_cache_that_holds_no_context_is_refused_with_what_it_would_take() -> None:
    with pytest.raises(ModelLoadError, match="raise it to 1024"):
        cache_shape(spec(cache_token_count=1000, max_context_tokens=1000), SMALL, CPU, model_limit=4096)


def test_slots_of_a_shared_cache_cost_nothing_and_its_context_is_the_models_own_where_none_is_asked_for() -> None:
    gpu = Placement(torch.device("cuda"), torch.bfloat16)
    assert paged_shape(spec(), gpu, model_limit=131_072) == PagedShape(256, 131_072, None, 2048)
    asked = spec(max_context_tokens=9000, slot_count=3, cache_token_count=20_000)
    assert paged_shape(asked, gpu, model_limit=131_072) == PagedShape(3, 9000, 20_000, 9000)
    assert paged_shape(asked, gpu, model_limit=512) == PagedShape(3, 512, 20_000, 512)


def test_a_step_of_an_encoder_takes_its_longest_input() -> None:
    assert encoder_step_tokens(spec(), CPU, max_input_tokens=8192) == 8192
    assert encoder_step_tokens(spec(step_token_budget=700), CPU, max_input_tokens=256) == 700


def test_a_processor_computes_in_float32_unless_told_otherwise() -> None:
    assert placement_of(spec(), SMALL).dtype_name == "float32"
    assert placement_of(spec(dtype="bfloat16"), SMALL).dtype_name == "bfloat16"


def test_on_a_gpu_attention_is_not_left_to_cudnn_and_a_processor_changes_nothing() -> None:
    assert torch.backends.cuda.cudnn_sdp_enabled()
    try:
        prepare(torch.device("cpu"))
        assert torch.backends.cuda.cudnn_sdp_enabled()
        prepare(torch.device("cuda"))
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)
