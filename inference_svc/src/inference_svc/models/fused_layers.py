"""Norms, gated layers and rotations of a decoder on the CPU: one pass over memory each, not an operator a step.

A layer is known by what it has and what it computes, not by its name: one whose replacement gives other numbers stays.
"""

import math
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from inference_svc.models.elementwise import Heads, Scale, gate, normalise, place
from inference_svc.models.orders import address_of, bits_of

Layer = Callable[[torch.Tensor], torch.Tensor]

_TOLERANCE = 2e-6  # of the largest number
_GELU = 2 * math.sqrt(2 / math.pi)
_CURVES = {"silu": (1.0, 0.0), "gelu_tanh": (_GELU, _GELU * 0.044715)}
"""Activations that are x times the logistic function of a x + b x^3: a and b."""


class OnePassNorm:
    """The last dimension divided by its root mean square, times a scale."""

    def __init__(self, scale: torch.Tensor, epsilon: float) -> None:
        self.scale = Scale(scale, epsilon)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        size = self.scale.size
        if features.shape[-1] != size:
            raise RuntimeError(f"a norm of {size} numbers was given {features.shape[-1]}")
        rows = features.reshape(-1, size).contiguous()
        result = torch.empty_like(rows)
        rows_at = address_of(rows, torch.float32, len(rows), size)
        normalise(rows_at, len(rows), self.scale, address_of(result, torch.float32, len(rows), size))
        return result.view(features.shape)


class OnePassGates:
    """down(activation(gates(x)) * values(x))."""

    def __init__(self, gates: Layer, values: Layer, down: Layer, curve: tuple[float, float]) -> None:
        self._gates, self._values, self._down = gates, values, down
        self.curve = (bits_of(curve[0]), bits_of(curve[1]))

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        gates, values = self._gates(features).contiguous(), self._values(features).contiguous()
        size = gates.shape[-1]
        gates_at = address_of(gates, torch.float32, *gates.shape)
        values_at = address_of(values, torch.float32, *gates.shape)
        gated = torch.empty_like(gates)
        gate(gates_at, values_at, size, gates.numel() // size, size, self.curve, gated.data_ptr())
        return self._down(gated)


def fuse_norms_and_gates(model: PreTrainedModel) -> int:
    """Gives how many layers are of one pass now."""
    count = 0
    for module in model.modules():
        one_pass = norm_of(module) or gates_of(module)
        if one_pass is not None:
            _give(module, one_pass)
            count += 1
    return count


def norm_of(layer: nn.Module) -> OnePassNorm | None:
    """A norm that computes what this layer does."""
    return next((found for found in _norms_like(layer) if _agree(layer, found)), None)


def gates_of(layer: nn.Module) -> OnePassGates | None:
    """A gated layer that computes what this one does."""
    return next((found for found in _gates_like(layer) if _agree(layer, found)), None)


def _give(module: nn.Module, one_pass: Layer) -> None:
    own = module.forward

    def forward(features: torch.Tensor, *rest: Any, **named: Any) -> Any:
        return own(features, *rest, **named) if rest or named else one_pass(features)

    module.forward = forward


_ROTATION = "apply_rotary_pos_emb"
Rotation = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def fuse_rotations(model: PreTrainedModel) -> int:
    """The model's own attention layers rotate queries and keys in one pass.

    transformers' rotation is a global of the module that defines a layer, for all models of the process. So the layer
    gets its class's forward with globals of its own, in which that name is another function.
    """
    count = 0
    for module in model.modules():
        forward = type(module).forward
        if not isinstance(forward, FunctionType) or _ROTATION not in forward.__code__.co_names:
            continue
        own = forward.__globals__.get(_ROTATION)
        if own is None or not _rotates_halves(own):
            continue
        names = {**forward.__globals__, _ROTATION: _rotation_in_one_pass(own)}
        twin = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
        twin.__kwdefaults__ = forward.__kwdefaults__
        module.forward = MethodType(twin, module)
        count += 1
    return count


def _rotation_in_one_pass(own: Rotation) -> Rotation:
    def rotate(  # its parameters have transformers' names, by which they may be given
        q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *rest: Any, **named: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        heads_first = named == {"unsqueeze_dim": 1} or not named
        shape = (1, q.shape[-2], q.shape[-1])
        if rest or not heads_first or q.dim() != 4 or len(q) != 1 or cos.shape != shape or sin.shape != shape:
            return own(q, k, cos, sin, *rest, **named)
        cos, sin = cos.contiguous(), sin.contiguous()
        return _rotated(q, cos, sin), _rotated(k, cos, sin)

    return rotate


def _rotated(given: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """`given` `(1, heads, tokens, dimension)`, `cosines` and `sines` `(1, tokens, dimension)`."""
    rows = given.transpose(1, 2).contiguous()
    result = torch.empty_like(rows)
    _, tokens, heads, size = rows.shape
    angles_at = (address_of(cosines, torch.float32, 1, tokens, size), address_of(sines, torch.float32, 1, tokens, size))
    rows_at = address_of(rows, torch.float32, 1, tokens, heads, size)
    placed = Heads(0, heads, address_of(result, torch.float32, 1, tokens, heads, size))
    place(rows_at, heads * size, tokens, size, angles_at, placed)
    return result.transpose(1, 2)


def _rotates_halves(own: Rotation) -> bool:
    """Whether the function is the usual one: the second half of a head is what the first is turned with."""
    generator = torch.Generator().manual_seed(0)
    query, key, angles = (torch.randn(1, heads, 5, 8, generator=generator) for heads in (3, 2, 1))
    cosines, sines = angles[0].cos(), angles[0].sin()
    try:
        expected = own(query, key, cosines, sines)
        found = _rotated(query, cosines, sines), _rotated(key, cosines, sines)
        return all(torch.allclose(one, other, atol=1e-6) for one, other in zip(found, expected, strict=True))
    except Exception:  # of a function that we know nothing of
        return False


def _norms_like(layer: nn.Module) -> Iterator[OnePassNorm]:
    """Norms that this layer might be."""
    epsilon = getattr(layer, "variance_epsilon", getattr(layer, "eps", None))
    weight = getattr(layer, "weight", None)
    if not isinstance(epsilon, float) or not isinstance(weight, nn.Parameter) or weight.dim() != 1:
        return
    if len(list(layer.parameters())) == 1 and not list(layer.children()):
        yield from (OnePassNorm(scale, epsilon) for scale in (weight, 1.0 + weight))


def _gates_like(layer: nn.Module) -> Iterator[OnePassGates]:
    parts = dict(layer.named_children())
    if {"gate_proj", "up_proj", "down_proj"} <= parts.keys() <= {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        gates, values, down = parts["gate_proj"], parts["up_proj"], parts["down_proj"]
        yield from (OnePassGates(gates, values, down, curve) for curve in _CURVES.values())


def _agree(layer: nn.Module, one_pass: Layer) -> bool:
    """Whether both compute the same of small numbers, large ones and zeros."""
    weight = getattr(layer, "weight", None)
    size = len(weight) if isinstance(weight, torch.Tensor) else getattr(layer.gate_proj, "in_features", 0)
    scales = torch.tensor([0.0, 1e-3, 0.1, 1.0, 3.0, 30.0, 1e3, 1e4])
    generator = torch.Generator().manual_seed(size)
    features = torch.randn(1, len(scales), size, generator=generator) * scales[:, None]
    try:
        expected, found = layer(features), one_pass(features)
        largest = expected.abs().amax(-1, keepdim=True)
        return bool(((found - expected).abs() <= _TOLERANCE * largest + 1e-12).all())
    except Exception:  # of a layer that we know nothing of
        return False
