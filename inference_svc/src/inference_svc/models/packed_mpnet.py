"""MPNet's layers over a packed row.

transformers' MPNet computes its attention itself, with a bias by distance shared by all layers, so no attention
function can be registered for it. This runs the same modules in the same order with packed attention between them.
"""

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from inference_svc.models.packed_bidirectional import PackedLayout, attend


class PackedMPNet(nn.Module):
    """Stands in for an MPNetModel; shares its modules."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.embeddings: Any = model.embeddings
        self.encoder: Any = model.encoder

    def forward(self, *, input_ids: torch.Tensor, position_ids: torch.Tensor, packing: PackedLayout) -> BaseModelOutput:
        hidden = self.embeddings(input_ids=input_ids, position_ids=position_ids)
        bias = self.encoder.compute_position_bias(hidden[:, : max(packing.lengths)])
        for layer in self.encoder.layer:
            attention = layer.attention
            mixed = self._attend(attention.attn, hidden, bias, packing)
            hidden = attention.LayerNorm(mixed + hidden)
            hidden = layer.output(layer.intermediate(hidden), hidden)
        return BaseModelOutput(last_hidden_state=hidden)

    @staticmethod
    def _attend(part: Any, hidden: torch.Tensor, bias: torch.Tensor, packing: PackedLayout) -> torch.Tensor:
        head_size = part.attention_head_size
        query, key, value = (
            project(hidden).unflatten(-1, (-1, head_size)).transpose(1, 2) for project in (part.q, part.k, part.v)
        )
        mixed = attend(query, key, value, packing, scaling=head_size**-0.5, bias=bias)
        projected: torch.Tensor = part.o(mixed.flatten(2))
        return projected
