"""Where transformers' layers meet our attention.

transformers calls one registered function for every attention layer of every model; the layer itself knows the
attention of the model that it belongs to.
"""

from collections.abc import Hashable
from typing import Any, Protocol

import torch
from transformers import AttentionInterface, PreTrainedModel

from inference_svc.models.attention_kernel import Scoring

IMPLEMENTATION = "seam_packed"
_BINDING = "seam_packed_attention"


class LayerAttention(Protocol):
    """Attention of all layers of one model, in the step that its owner has begun."""

    @property
    def may_wait(self) -> bool:
        """Whether in this step it is work handed to `torch_threads.run` and nothing else, so that all of it may be put
        off until the layers behind it are ready too."""
        ...

    @property
    def shape(self) -> Hashable | None:
        """Equal in steps in which it hands over the same work of the same addresses; None where that is not known."""
        ...

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        window: int | None,
        scoring: Scoring,
    ) -> torch.Tensor:
        """`query` `(1, heads, tokens, dimension)`, `key` and `value` with key heads; gives `(1, tokens, heads,
        dimension)`."""
        ...


def bind(attention: LayerAttention, model: PreTrainedModel) -> None:
    """Make this the attention of all layers of `model`."""
    AttentionInterface.register(IMPLEMENTATION, _attend_packed)
    model.set_attn_implementation(IMPLEMENTATION)
    for module in model.modules():
        setattr(module, _BINDING, attention)


def waiting(module: torch.nn.Module, attend: Any) -> tuple[bool, Hashable | None]:
    """Whether `attend`, as transformers has it, may be put off in this step for an attention layer, and the shape of
    what is put off then."""
    attention: LayerAttention | None = getattr(module, _BINDING, None)
    if attend is not _attend_packed or attention is None or not attention.may_wait:
        return False, None
    return True, attention.shape


def _attend_packed(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls. The mask that it might have made is not ours: it knows nothing of the packing."""
    attention: LayerAttention = getattr(module, _BINDING)
    if scaling is None:
        scaling = getattr(module, "scaling", None)
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    scoring = Scoring(scaling, softcap, s_aux)
    return attention.attend(layer, query, key, value, sliding_window, scoring), None
