"""Linear layers for oneDNN's matrix kernels, by the operators that torch's own compiler emits. They are private."""

import torch

from inference_svc.models.packed_linear import PackedLinear


class OneDnnLinear(PackedLinear):
    """`nn.Linear` with its weight reordered for oneDNN. Its rows may have other bits alone than among others, and
    kernels are made for every number of rows: see `row_counts`."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        self._bias = None if bias is None else bias.detach()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(features, self._packed, self._bias, "none", [], "")
        return result
