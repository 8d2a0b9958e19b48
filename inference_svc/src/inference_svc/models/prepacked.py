"""Linear layers packed once for the CPU's matrix kernels. A layer that cannot be packed, or whose packed result is not
its own, stays as it is."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from inference_svc.models.onednn_linear import OneDnnLinear
from inference_svc.models.packed_linear import PackedLinear
from inference_svc.models.panel_linear import PanelLinear
from inference_svc.models.processor import has_narrow_vectors


def kinds_here() -> tuple[type[PackedLinear], ...]:
    """What a layer may become on this processor, the best first.

    With AVX2 oneDNN reads weights and computes one after the other, so that steps of 2 to 64 rows take a third longer
    to twice as long as with the panels' kernel (`python -m load.products`). With AVX-512 it was measured at what memory
    and processor allow, and stays alone.
    """
    return (PanelLinear, OneDnnLinear) if has_narrow_vectors() else (OneDnnLinear,)


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
    """Replace the linear layers of a model on the CPU, each by the first kind that can and is right; gives how many
    were."""
    kinds = kinds_here()
    count = 0
    for parent, name, child in list(_linears(model)):
        # GPT-2's layer is the same with its weight the other way round.
        weight = child.weight.t().contiguous() if isinstance(child, Conv1D) else child.weight
        packed = _pack(weight, child.bias, kinds)
        if packed is not None:
            setattr(parent, name, packed)
            count += 1
    return count


def every_product_is_prepacked(model: PreTrainedModel) -> bool:
    """Whether no layer is left that multiplies by a matrix of its own, and the packed ones keep rows independent."""
    packed = _packed(model)
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    left = [weight for weight in model.parameters() if weight.dim() >= 2 and id(weight) not in tables]
    shapes = {(type(module), module.in_features, module.out_features): module for module in packed}
    return bool(packed) and not left and all(module.rows_are_independent() for module in shapes.values())


def takes_any_row_count(model: PreTrainedModel) -> bool:
    """Whether products are as good with any number of rows, one too: nothing is compiled or kept for each number."""
    packed = _packed(model)
    return bool(packed) and all(isinstance(module, PanelLinear) for module in packed) and not list(_linears(model))


def _packed(model: PreTrainedModel) -> list[PackedLinear]:
    return [module for module in model.modules() if isinstance(module, PackedLinear)]


def _pack(weight: torch.Tensor, bias: torch.Tensor | None, kinds: Sequence[type[PackedLinear]]) -> PackedLinear | None:
    for kind in kinds:
        try:
            packed = kind(weight, bias)
            if packed.agrees_with(weight, bias):
                return packed
        except (AttributeError, RuntimeError):
            pass
    return None


def _linears(model: PreTrainedModel) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Linear or type(child) is Conv1D:
                yield parent, name, child
