"""Tiny causal models of many architectures, made by seed, whose answers differ between prompts."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

_PLAIN: dict[str, Any] = dict(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=640,
    bos_token_id=1,
    eos_token_id=None,
    pad_token_id=0,
)
_HEADED = {**_PLAIN, "head_dim": 16}
_EXPERTS = dict(
    num_local_experts=4, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64, decoder_sparse_step=1
)
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_SHARED_KEYS = {
    **_HEADED,
    "num_hidden_layers": 4,
    "vocab_size_per_layer_input": 512,
    "hidden_size_per_layer_input": 16,
    "sliding_window": 12,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
}
_GPT2 = dict(
    vocab_size=512, n_embd=64, n_layer=2, n_head=4, n_positions=640, bos_token_id=1, eos_token_id=None, pad_token_id=0
)

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {**_HEADED, "tie_word_embeddings": True}),
    "llama_one_layer": ("llama", {**_HEADED, "num_hidden_layers": 1}),
    "llama_odd_heads": ("llama", {**_PLAIN, "head_dim": 6, "num_attention_heads": 32, "num_key_value_heads": 16}),
    "llama_scaled_rope": ("llama", {**_HEADED, "rope_parameters": _LLAMA3_ROPE}),
    "qwen2": ("qwen2", _PLAIN),
    "qwen3": ("qwen3", _HEADED),
    "mistral_windowed": ("mistral", {**_HEADED, "sliding_window": 12}),
    "gemma2": ("gemma2", {**_HEADED, "sliding_window": 12, "query_pre_attn_scalar": 16}),
    "gemma3": ("gemma3_text", {**_HEADED, "sliding_window": 12, "query_pre_attn_scalar": 16, "num_hidden_layers": 6}),
    "phi3_windowed": ("phi3", {**_PLAIN, "sliding_window": 12}),
    "smollm3": ("smollm3", {**_PLAIN, "num_hidden_layers": 4}),
    "gpt2": ("gpt2", _GPT2),
    "gpt_neox": ("gpt_neox", {**_PLAIN, "num_key_value_heads": 4}),
    "opt": (
        "opt",
        dict(
            vocab_size=512,
            hidden_size=64,
            ffn_dim=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=640,
            word_embed_proj_dim=64,
            bos_token_id=1,
            eos_token_id=None,
            pad_token_id=0,
        ),
    ),
    "qwen3_experts": ("qwen3_moe", {**_HEADED, **_EXPERTS}),
    "mixtral": ("mixtral", {**_HEADED, **_EXPERTS}),
    "gpt_oss_sinks": ("gpt_oss", {**_HEADED, **_EXPERTS, "sliding_window": 12}),
}

BEARS_NO_CUT: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3n": (
        "gemma3n_text",
        {
            **_SHARED_KEYS,
            "laurel_rank": 8,
            "activation_sparsity_pattern": [0.0] * 4,
            "intermediate_size": [96] * 4,
        },
    ),
    "gemma4": (
        "gemma4_text",
        {
            **_SHARED_KEYS,
            "global_head_dim": 16,
            "num_global_key_value_heads": 2,
        },
    ),
}
"""Models whose last layer is given more than can be cut to some tokens."""

KEEPS_NO_BITS: dict[str, tuple[str, dict[str, Any]]] = {
    "modernbert_decoder": ("modernbert-decoder", {**_HEADED, "num_hidden_layers": 4, "sliding_window": 12})
}
"""Models with operators of torch that compute one row otherwise than many."""

REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom": (
        "bloom",
        dict(vocab_size=512, hidden_size=64, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=None, pad_token_id=0),
    ),
    "gptj": ("gptj", {**_GPT2, "rotary_dim": 8}),
    "mamba2": (
        "mamba2",
        dict(
            vocab_size=512,
            hidden_size=64,
            num_hidden_layers=2,
            state_size=16,
            num_heads=4,
            head_dim=32,
            expand=2,
            n_groups=1,
            bos_token_id=1,
            eos_token_id=None,
            pad_token_id=0,
        ),
    ),
    "lfm2": ("lfm2", {**_PLAIN, "layer_types": ["conv", "full_attention"]}),
    "llama4_chunked": (
        "llama4_text",
        {**_HEADED, **_EXPERTS, "intermediate_size_mlp": 128, "attention_chunk_size": 16},
    ),
    "qwen3_next": (
        "qwen3_next",
        {
            **_HEADED,
            **_EXPERTS,
            "num_hidden_layers": 4,
            "shared_expert_intermediate_size": 64,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        },
    ),
}


def build_model(architecture: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The same weights at every call. Wide enough in spread that greedy answers are no runs of one token."""
    kind, settings = {**ARCHITECTURES, **BEARS_NO_CUT, **KEEPS_NO_BITS, **REFUSED}[architecture]
    config = AutoConfig.for_model(kind, **settings)
    config.initializer_range = 0.2
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases, all alike at first
                parameter.data += torch.randn_like(parameter) * 0.05
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=None, pad_token_id=0)
    return model.to(dtype).eval()
