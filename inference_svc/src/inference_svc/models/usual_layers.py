"""Which layers of a model are of the usual form, and the passes of `decoder_layer` in their place.

A layer is taken for one when it has the parts of one and nothing else, and when the passes give what it gives itself,
to attention and in the end.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from inference_svc.models.attention_interface import waiting
from inference_svc.models.decoder_layer import DecoderPasses, LayerParts
from inference_svc.models.fused_layers import gates_of, norm_of
from inference_svc.models.last_layer import CATCH_UP
from inference_svc.models.layer_stack import Given, LayerStack
from inference_svc.models.panel_linear import PanelLinear

_log = logging.getLogger(__name__)

_TOLERANCE = 2e-5  # of a row's largest number


@dataclass(frozen=True, slots=True)
class Asked:
    """What a layer asks its attention for."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    named: dict[str, Any]
    """How to attend: a layer's own part of it."""


def fuse_decoder_layers(model: PreTrainedModel) -> int:
    """Give the layers that are of the usual form a forward of few passes; gives how many they are. Attention stays
    what transformers' interface has for the model, whenever it is asked."""
    found = [(layer, parts) for layer in model.modules() if (parts := _parts_of(layer)) is not None]
    if not found:
        return 0
    stack = LayerStack()
    own_attention = model.config._attn_implementation
    AttentionInterface.register(_WATCHED, _attend_watched)
    model.set_attn_implementation(_WATCHED)
    try:
        for layer, parts in found:
            stack.count += _fuse(layer, parts, stack)
    finally:
        model.set_attn_implementation(own_attention)
    stack.is_whole = stack.count == model.config.get_text_config().num_hidden_layers
    return stack.count


_PARTS = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj")
_GATED_LINEARS = ("gate_proj", "up_proj", "down_proj")


def _parts_of(layer: nn.Module) -> LayerParts | None:
    parts = dict(layer.named_children())
    if parts.keys() != _PARTS:
        return None
    attention = dict(parts["self_attn"].named_children())
    head_norms = attention.keys() & _HEAD_NORMS
    if attention.keys() - head_norms != set(_LINEARS) or head_norms not in (set(), _HEAD_NORMS):
        return None
    gated = gates_of(parts["mlp"])
    norms = [parts["input_layernorm"], parts["post_attention_layernorm"], *(attention[n] for n in sorted(head_norms))]
    scales = [found.scale for norm in norms if (found := norm_of(norm)) is not None]
    if gated is None or len(scales) < len(norms):
        return None
    linears = [attention[name] for name in _LINEARS] + [getattr(parts["mlp"], name) for name in _GATED_LINEARS]
    if not all(isinstance(linear, PanelLinear) and linear.is_whole for linear in linears):
        return None
    key_norm, query_norm = scales[2:] or (None, None)
    queries, keys, values, output, gates, gate_values, down = linears
    return LayerParts(
        first_norm=scales[0],
        query_norm=query_norm,
        key_norm=key_norm,
        second_norm=scales[1],
        queries=queries,
        keys=keys,
        values=values,
        output=output,
        gates=gates,
        gate_values=gate_values,
        down=down,
        curve=gated.curve,
    )


def _fuse(layer: nn.Module, parts: LayerParts, stack: LayerStack) -> bool:
    """Whether the passes do what the layer does, and stand in its place now."""
    own = layer.forward
    try:
        expected, asked = _watched(layer)
        head_counts, head_size = (asked.query.shape[1], asked.key.shape[1]), asked.query.shape[-1]
        for is_rotated in (True, False):
            passes = DecoderPasses(parts, stack, head_counts, head_size, is_rotated=is_rotated)
            layer.forward = _forward(layer, own, stack, passes, asked.named)
            found, own_asked = _watched(layer)
            if _is_close(found, expected) and _asks_alike(own_asked, asked):
                return True
    except Exception:  # of a layer that we know nothing of
        _log.info("a layer that looks like a usual one stays as it is", exc_info=True)
    layer.forward = own
    return False


def _forward(
    layer: nn.Module, own: Callable[..., Any], stack: LayerStack, passes: DecoderPasses, how: dict[str, Any]
) -> Any:
    """The layer's forward, by the passes where they are made for what is asked, else its own."""
    module: Any = layer.self_attn
    index = stack.count
    unusual = _parameters_of(own) - _USUAL

    def forward(hidden_states: torch.Tensor, *rest: Any, **named: Any) -> Any:
        if stack.has_given(index, hidden_states):
            return hidden_states
        angles, mask = named.get("position_embeddings"), named.get("attention_mask")
        attend = ALL_ATTENTION_FUNCTIONS.get(module.config._attn_implementation)
        is_plain = not rest and named.get("past_key_values") is None and unusual.isdisjoint(named)
        if attend is None or angles is None or not is_plain or not passes.take(hidden_states, angles):
            stack.catch_up()
            return own(hidden_states, *rest, **named)
        asked = {**how, **{name: each for name, each in named.items() if name not in _NOT_PASSED_ON}}

        def attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = attend(module, query, key, value, mask, **asked)[0]
            return found

        def compute(given: Given, found: torch.Tensor) -> None:
            passes(given, attended, found)

        given = Given(hidden_states.contiguous(), angles[0].contiguous(), angles[1].contiguous())
        may_wait, shape = waiting(module, attend)
        return stack.layer(index, given, compute, may_wait=may_wait, shape=shape)

    setattr(forward, CATCH_UP, stack.catch_up)
    return forward


_USUAL = {
    "hidden_states",
    "attention_mask",
    "position_ids",
    "past_key_values",
    "use_cache",
    "cache_position",
    "position_embeddings",
}


def _parameters_of(own: Callable[..., Any]) -> set[str]:
    """Names of those that a layer takes for itself."""
    kinds = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return {name for name, each in signature(own).parameters.items() if each.kind in kinds}


_WATCHED, _WATCH = "seam_watched", "seam_watch"
_NOT_PASSED_ON = frozenset({"position_embeddings", "attention_mask", "past_key_values"})
_ROW_SCALES = (0.0, 1e-3, 0.1, 1.0, 3.0, 30.0, 1e3)  # small numbers, large ones and zeros


def _watched(layer: Any) -> tuple[torch.Tensor, Asked]:
    """What a layer gives of certain rows, and what it asked attention for, which gave it noise."""
    module = layer.self_attn
    generator = torch.Generator().manual_seed(1)
    scales = torch.tensor(_ROW_SCALES)[:, None]
    hidden = torch.randn(1, len(scales), module.q_proj.in_features, generator=generator) * scales
    angles = torch.randn(1, len(scales), module.head_dim, generator=generator)
    asked: list[Asked] = []

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, named: dict[str, Any]) -> torch.Tensor:
        asked.append(Asked(query.clone(), key.clone(), value.clone(), named))
        return torch.randn(query.transpose(1, 2).shape, generator=generator)

    setattr(module, _WATCH, attend)
    try:
        found = layer(hidden, position_embeddings=(angles.cos(), angles.sin()), attention_mask=None)
    finally:
        delattr(module, _WATCH)
    (only,) = asked
    return found, only


def _attend_watched(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **named: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls."""
    return getattr(module, _WATCH)(query, key, value, named), None


def _asks_alike(found: Asked, expected: Asked) -> bool:
    pairs = ((found.query, expected.query), (found.key, expected.key), (found.value, expected.value))
    return found.named == expected.named and all(_is_close(*pair) for pair in pairs)


def _is_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    largest = expected.abs().amax(-1, keepdim=True)
    return bool(((found - expected).abs() <= _TOLERANCE * largest + 1e-9).all())
