"""Linear layers packed once for the CPU's matrix kernels.

The operators are what torch's own compiler emits, but private: a layer whose packed result is not its own, or that
cannot be packed, stays as it is.
"""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.functional import linear
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

_CHECKED_ROWS = (2, 3, 5, 16, 31, 64, 200)


class PrepackedLinear(nn.Module):
    """`nn.Linear` with its weight reordered for oneDNN. Its rows have the same bits in any number from two up: see
    `rows_are_independent`."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """`weight` `(outputs, inputs)`."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        self._bias = None if bias is None else bias.detach()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(features, self._packed, self._bias, "none", [], "")
        return result

    def agrees_with(self, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
        features = _noise(3, self.in_features, weight.dtype)
        expected = linear(features, weight, bias).float()
        difference = (self(features).float() - expected).abs().max()
        tolerance = 1e-4 if weight.dtype == torch.float32 else 2e-2
        return bool(difference <= tolerance * expected.abs().max().clamp(min=1e-6))

    def rows_are_independent(self) -> bool:
        """Whether a row comes out in the same bits whatever the number of its neighbours."""
        features = _noise(max(_CHECKED_ROWS), self.in_features, self.dtype)
        expected = self(features)
        return all(torch.equal(self(features[:count]), expected[:count]) for count in _CHECKED_ROWS)


def own_weights(model: PreTrainedModel) -> None:
    """Copy weights on the CPU out of the file they are mapped from: the first steps would page them in one by one.
    Tied weights stay tied."""
    copies: dict[int, torch.Tensor] = {}
    for parameter in model.parameters():
        if parameter.device.type == "cpu":
            address = parameter.data_ptr()
            if address not in copies:
                copies[address] = parameter.data.clone()
            parameter.data = copies[address]


def prepack_linears(model: PreTrainedModel) -> int:
    """Replace the linear layers of a model on the CPU; gives how many were."""
    count = 0
    for parent, name, child in list(_linears(model)):
        # GPT-2's layer is the same with its weight the other way round.
        weight = child.weight.t().contiguous() if isinstance(child, Conv1D) else child.weight
        packed = _pack(weight, child.bias)
        if packed is not None:
            setattr(parent, name, packed)
            count += 1
    return count


def every_product_is_prepacked(model: PreTrainedModel) -> bool:
    """Whether no layer is left that multiplies by a matrix of its own, and the packed ones keep rows independent."""
    packed = [module for module in model.modules() if isinstance(module, PrepackedLinear)]
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    left = [weight for weight in model.parameters() if weight.dim() >= 2 and id(weight) not in tables]
    shapes = {(module.in_features, module.out_features): module for module in packed}
    return bool(packed) and not left and all(module.rows_are_independent() for module in shapes.values())


def _pack(weight: torch.Tensor, bias: torch.Tensor | None) -> PrepackedLinear | None:
    try:
        packed = PrepackedLinear(weight, bias)
        return packed if packed.agrees_with(weight, bias) else None
    except (AttributeError, RuntimeError):
        return None


def _linears(model: PreTrainedModel) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Linear or type(child) is Conv1D:
                yield parent, name, child


def _noise(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows * columns)
    return torch.randn(rows, columns, generator=generator).to(dtype)
