"""Norms, gated layers and rotations of a decoder on the CPU: one pass over memory each, not an operator a step.

A layer is known by what it has and what it computes, not by its name: one whose replacement gives other numbers stays.
"""

import ctypes
import math
from collections.abc import Callable
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from inference_svc.models.torch_threads import run

_WORTH_SHARING = 50_000
"""Numbers below which another thread is not worth asking."""

_ROWS_AT_ONCE = 4
_TOLERANCE = 2e-6  # of the largest number
_GELU = 2 * math.sqrt(2 / math.pi)
_CURVES = {"silu": (1.0, 0.0), "gelu_tanh": (_GELU, _GELU * 0.044715)}
"""Activations that are x times the logistic function of a x + b x^3: a and b."""


class FusedRmsNorm(nn.Module):
    """The last dimension divided by its root mean square, times a scale."""

    def __init__(self, scale: torch.Tensor, epsilon: float) -> None:
        super().__init__()
        self._scale = scale.detach().clone()
        self._epsilon = epsilon

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        rows = features.contiguous()
        size = rows.shape[-1]
        row_count = rows.numel() // size
        result = torch.empty_like(rows)
        order = (ctypes.c_int64 * 8)(
            0,
            rows.data_ptr(),
            self._scale.data_ptr(),
            result.data_ptr(),
            row_count,
            size,
            _ROWS_AT_ONCE,
            _bits(self._epsilon),
        )
        run(_kernels().compile_norm(), order, _thread_count(rows.numel()))
        return result


class FusedGatedLayer(nn.Module):
    """down(activation(gate(x)) * up(x))."""

    def __init__(self, gate: nn.Module, up: nn.Module, down: nn.Module, curve: tuple[float, float]) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = gate, up, down
        self._curve = (_bits(curve[0]), _bits(curve[1]))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        gates, values = self.gate_proj(features).contiguous(), self.up_proj(features).contiguous()
        size = gates.shape[-1]
        order = (ctypes.c_int64 * 8)(
            0, gates.data_ptr(), values.data_ptr(), gates.numel() // size, size, _ROWS_AT_ONCE, *self._curve
        )
        run(_kernels().compile_gate(), order, _thread_count(gates.numel()))
        result: torch.Tensor = self.down_proj(gates)
        return result


def fuse_layers(model: PreTrainedModel) -> int:
    """Replace what can be of a float32 model on the CPU, after its linear layers; gives how many layers were."""
    if model.dtype != torch.float32 or not _can_compile():
        return 0
    count = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            fused = _norm_like(child) or _gated_like(child)
            if fused is not None:
                setattr(parent, name, fused)
                count += 1
    return count


_ROTATION = "apply_rotary_pos_emb"
Rotation = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def fuse_rotations(model: PreTrainedModel) -> int:
    """Have the model's own attention layers rotate queries and keys in one pass; gives how many do.

    transformers' rotation is a global of the module that defines a layer, for all models of the process. So the layer
    gets its class's forward with globals of its own, in which that name is another function.
    """
    if model.dtype != torch.float32 or not _can_compile():
        return 0
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
    def rotate(
        query: torch.Tensor, key: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, *rest: Any, **named: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (1, query.shape[2], query.shape[3])
        if rest or named or len(query) != 1 or cosines.shape != shape or sines.shape != shape:
            return own(query, key, cosines, sines, *rest, **named)
        cosines, sines = cosines.contiguous(), sines.contiguous()
        return _rotated(query, cosines, sines), _rotated(key, cosines, sines)

    return rotate


def _rotated(given: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """`given` `(1, heads, tokens, dimension)`, `cosines` and `sines` `(1, tokens, dimension)`."""
    rows = given.transpose(1, 2).contiguous()
    result = torch.empty_like(rows)
    order = (ctypes.c_int64 * 9)(
        0,
        rows.data_ptr(),
        result.data_ptr(),
        cosines.data_ptr(),
        sines.data_ptr(),
        *rows.shape[1:],
        _ROWS_AT_ONCE,
    )
    run(_kernels().compile_rotation(), order, _thread_count(rows.numel()))
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
    except (RuntimeError, TypeError, ValueError):
        return False


def _norm_like(layer: nn.Module) -> FusedRmsNorm | None:
    epsilon = getattr(layer, "variance_epsilon", getattr(layer, "eps", None))
    weight = getattr(layer, "weight", None)
    if not isinstance(epsilon, float) or not isinstance(weight, nn.Parameter) or weight.dim() != 1:
        return None
    if len(list(layer.parameters())) != 1 or len(list(layer.children())):
        return None
    candidates = (FusedRmsNorm(scale, epsilon) for scale in (weight, 1.0 + weight))
    return next((fused for fused in candidates if _agree(layer, fused, len(weight))), None)


def _gated_like(layer: nn.Module) -> FusedGatedLayer | None:
    parts = dict(layer.named_children())
    if not {"gate_proj", "up_proj", "down_proj"} <= parts.keys() <= {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        return None
    size = getattr(parts["gate_proj"], "in_features", None)
    if size is None:
        return None
    candidates = (
        FusedGatedLayer(parts["gate_proj"], parts["up_proj"], parts["down_proj"], curve) for curve in _CURVES.values()
    )
    return next((fused for fused in candidates if _agree(layer, fused, size)), None)


def _agree(layer: nn.Module, fused: nn.Module, size: int) -> bool:
    """Whether both compute the same of small numbers, large ones and zeros."""
    generator = torch.Generator().manual_seed(size)
    features = torch.randn(1, 6, size, generator=generator) * torch.tensor([0.0, 1e-3, 0.1, 1.0, 3.0, 30.0])[:, None]
    try:
        expected, found = layer(features), fused(features)
    except (RuntimeError, TypeError, ValueError):
        return False
    if not isinstance(expected, torch.Tensor) or expected.shape != found.shape:
        return False
    largest = expected.abs().amax(-1, keepdim=True)
    return bool(((found - expected).abs() <= _TOLERANCE * largest + 1e-12).all())


def _can_compile() -> bool:
    try:
        _kernels()
    except ImportError:  # no numba
        return False
    return True


def _kernels() -> ModuleType:
    from inference_svc.models import elementwise_kernel

    return elementwise_kernel


def _thread_count(numbers: int) -> int:
    return torch.get_num_threads() if numbers >= _WORTH_SHARING else 1


def _bits(number: float) -> int:
    """Of a float32."""
    return int(np.float32(number).view(np.int32))
