"""What of a model on the CPU is computed in few passes over memory, where this machine can."""

from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from inference_svc.models.torch_threads import sharing


class Fused(NamedTuple):
    """How many of a model's parts are computed in few passes."""

    norms_and_gates: int = 0
    rotations: int = 0
    layers: int = 0
    """Whole decoder layers."""


def fuse_layers(model: PreTrainedModel) -> Fused:
    """Have what layers can be of a float32 model on the CPU computed in few passes, after its linear layers are what
    they will be. The layers stay where they are, with all that others may read of them."""
    if model.dtype != torch.float32 or sharing() is None:  # torch's operators are faster than loops on one thread
        return Fused()
    try:
        from inference_svc.models.fused_layers import fuse_norms_and_gates, fuse_rotations
        from inference_svc.models.usual_layers import fuse_decoder_layers
    except ImportError:  # no numba
        return Fused()
    with torch.inference_mode():
        return Fused(fuse_norms_and_gates(model), fuse_rotations(model), fuse_decoder_layers(model))
