"""Linear layers packed once for the CPU's matrix kernels."""

import torch
from torch import nn
from transformers import PreTrainedModel


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


class PrepackedLinear(nn.Module):
    """`nn.Linear` with its weight reordered for oneDNN."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        self._bias = None if bias is None else bias.detach()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(features, self._packed, self._bias, "none", [], "")
        return result


def prepack_linears(model: PreTrainedModel) -> int:
    """Replace the linear layers of a model on the CPU; gives how many. 0 where torch has not what it takes."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return 0
    count = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, PrepackedLinear(child.weight, child.bias))
                count += 1
    return count
