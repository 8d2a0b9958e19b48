"""What is read from a packed row of hidden states: a pooled vector, or the logits of the model's own head."""

import copy

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from inference_svc.errors import ModelLoadError
from inference_svc.models.packed_bidirectional import PackedLayout
from inference_svc.models.pooling import Pooling, Readout, pool
from inference_svc.models.sentence_transformers_files import DenseLayer, SentenceFiles


def is_causal(model: PreTrainedModel) -> bool:
    return any(getattr(module, "is_causal", False) for module in model.modules())


def vector_readout(model: PreTrainedModel, files: SentenceFiles) -> Readout:
    """Pooling as the files say, or else the mean; of a causal model the last token, the only one that saw all."""
    kinds = files.pooling or ((Pooling.LAST,) if is_causal(model) else (Pooling.MEAN,))
    dense = nn.Sequential(*(_dense(layer) for layer in files.dense)).to(model.device).eval()

    def read(hidden: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        pooled: torch.Tensor = dense(pool(hidden, layout, kinds))
        return pooled

    return read


def logits_readout(model: PreTrainedModel) -> Readout:
    """The model's own classification head at the gathered tokens. Heads read one token of a sequence, so each input is
    given to them as a sequence of one: the token, or mean, that they would have found."""
    score = getattr(model, "score", None)
    if isinstance(score, nn.Linear):

        def read_last(hidden: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
            logits: torch.Tensor = score(hidden[layout.lasts])
            return logits

        return read_last

    head = _head_alone(model)
    gather = Pooling.MEAN if getattr(model.config, "classifier_pooling", "") == "mean" else Pooling.FIRST

    def read(hidden: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        rows = pool(hidden, layout, [gather]).to(hidden.dtype)
        logits: torch.Tensor = head(inputs_embeds=rows[:, None]).logits
        return logits

    return read


def _head_alone(model: PreTrainedModel) -> nn.Module:
    """A copy that shares the head's modules; in the base model's place stands one that returns what it is given."""
    prefix = model.base_model_prefix
    if not isinstance(getattr(model, prefix, None), nn.Module):
        raise ModelLoadError(f"{type(model).__name__} has no body apart from its head")
    alone: nn.Module = copy.copy(model)
    alone.__dict__["_modules"] = {**model._modules, prefix: _Given(getattr(model, prefix))}
    return alone


class _Given(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.pooler = getattr(body, "pooler", None)

    def forward(self, *_unused: object, inputs_embeds: torch.Tensor, **_others: object) -> BaseModelOutputWithPooling:
        pooled = None if self.pooler is None else self.pooler(inputs_embeds)
        return BaseModelOutputWithPooling(last_hidden_state=inputs_embeds, pooler_output=pooled)


def _dense(layer: DenseLayer) -> nn.Module:
    linear = nn.Linear(layer.input_count, layer.output_count, bias=layer.has_bias)
    stored = load_file(layer.weights)
    linear.load_state_dict({name.removeprefix("linear."): tensor.float() for name, tensor in stored.items()})
    activation = getattr(nn, layer.activation, None)
    if activation is None:
        raise ModelLoadError(f"its dense layer has the activation {layer.activation}, which is not supported")
    return nn.Sequential(linear, activation())
