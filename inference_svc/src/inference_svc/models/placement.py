"""Where a model lives and how much it may hold: device, number type, cache, step."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from inference_svc.errors import ModelLoadError
from inference_svc.model import ModelSpec, PrefixSharing
from inference_svc.models.kv_cache import padded_length

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CPU_MEMORY_SHARE = 0.25
_PREFIX_SHARE = 0.25  # of the cache, never more than what the slots hold
_MOST_SLOTS = {"cpu": 64, "cuda": 256}
_FEWEST_SLOTS_WANTED = 8
_LEAST_CONTEXT = 2048
_GENERATION_STEP_TOKENS = {"cpu": 512, "cuda": 4096}
_ENCODER_STEP_TOKENS = {"cpu": 512, "cuda": 16384}  # on a CPU larger ones gain under 5 % and hold others up


@dataclass(frozen=True, slots=True)
class Placement:
    device: torch.device
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


def placement_of(spec: ModelSpec, config: PreTrainedConfig) -> Placement:
    """ "auto" is float32 on a CPU, where it is exact, and the checkpoint's own type on a GPU."""
    device = _device(spec.device)
    if spec.dtype in _DTYPES:
        return Placement(device, _DTYPES[spec.dtype])
    if spec.dtype != "auto":
        raise ModelLoadError(f"there is no dtype {spec.dtype!r}; there are auto, {', '.join(_DTYPES)}")
    own = getattr(config, "dtype", None)
    if device.type == "cuda" and isinstance(own, torch.dtype) and own in _DTYPES.values():
        return Placement(device, own)
    return Placement(device, torch.float32)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as unknown:
        raise ModelLoadError(f"there is no device {name!r}; name cpu, cuda or cuda:1") from unknown
    if device.type not in _MOST_SLOTS:
        raise ModelLoadError(f"device {name!r} is not supported; name cpu, cuda or cuda:1")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelLoadError(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} GPUs")
    return device


def prepare(device: torch.device) -> None:
    """On newer GPUs (Hopper and later) torch would give attention to cuDNN first, which plans anew for every shape, for
    tens of milliseconds each; here nearly every step has shapes of its own."""
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def encoder_step_tokens(spec: ModelSpec, placement: Placement, max_input_tokens: int) -> int:
    """A step takes at least the longest input."""
    return max(spec.step_token_budget or _ENCODER_STEP_TOKENS[placement.device.type], max_input_tokens)


def generation_step_tokens(spec: ModelSpec, placement: Placement) -> int:
    return spec.step_token_budget or _GENERATION_STEP_TOKENS[placement.device.type]


@dataclass(frozen=True, slots=True)
class CacheShape:
    """`prefix_tokens` are kept for sequences to come, beside the slots."""

    slot_count: int
    max_context_tokens: int
    prefix_tokens: int = 0


def cache_shape(spec: ModelSpec, config: PreTrainedConfig, placement: Placement, model_limit: int) -> CacheShape:
    """As the spec says. What it leaves open: the model's own context, cut where fewer than 8 such sequences would fit
    the memory (never below 2048), and as many slots as fit beside what is kept of beginnings."""
    tokens = spec.cache_token_count or _cpu_memory() // max(_bytes_per_token(config, placement), 1)
    shared = 0 if spec.prefix_cache is PrefixSharing.OFF else int(tokens * _PREFIX_SHARE)
    context = min(
        spec.max_context_tokens or max(_LEAST_CONTEXT, (tokens - shared) // _FEWEST_SLOTS_WANTED), model_limit
    )
    shared = min(shared, max(0, tokens - padded_length(context)))  # one context goes before
    fitting = min((tokens - shared) // padded_length(context), _MOST_SLOTS[placement.device.type])
    if spec.cache_token_count is not None and fitting < 1:
        raise ModelLoadError(
            f"a cache of {spec.cache_token_count} tokens does not hold one context of {context}; raise it to "
            f"{padded_length(context)} or lower the context"
        )
    slots = spec.slot_count or max(fitting, 1)
    room = max(0, tokens - slots * padded_length(context))  # an operator's own slots may leave none
    return CacheShape(slots, context, min(shared, room, slots * context))


@dataclass(frozen=True, slots=True)
class PagedShape:
    """`cache_tokens` are for all slots together, None where they are to be measured; at least `least_tokens`."""

    slot_count: int
    max_context_tokens: int
    cache_tokens: int | None
    least_tokens: int


def paged_shape(spec: ModelSpec, placement: Placement, model_limit: int) -> PagedShape:
    """As the spec says. Slots take nothing where a cache is shared in blocks, so there are as many as serve the device
    well; what context the cache must hold is what was asked for, or else 2048."""
    context = min(spec.max_context_tokens or model_limit, model_limit)
    least = context if spec.max_context_tokens is not None else min(context, _LEAST_CONTEXT)
    slots = spec.slot_count or _MOST_SLOTS[placement.device.type]
    return PagedShape(slots, context, spec.cache_token_count, least)


def _bytes_per_token(config: PreTrainedConfig, placement: Placement) -> int:
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * size * placement.dtype.itemsize)


def _cpu_memory() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")  # a container's own, cgroup v2
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    return int(total * _CPU_MEMORY_SHARE)
