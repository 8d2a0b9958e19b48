"""The last layer of a model, computed of the tokens alone whose logits are read.

Of the others, most of a prompt, only keys and values are wanted of it: they go as far as its attention and no further.
With eight layers that saves a ninth of a prompt's work, with thirty two a thirtieth.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from inference_svc.models.packed_attention import NothingAttends, PackedAttention
from inference_svc.models.step_plan import StepPlan, part_of_plan


@dataclass(frozen=True, slots=True)
class _Part:
    """Some tokens of a step."""

    plan: StepPlan
    index: torch.Tensor
    """Of each among all tokens; behind them as many as there must be that nobody reads."""
    positions: torch.Tensor


class LastLayer:
    """Takes the place of a model's last layer's forward. A model whose last layer is not found is computed whole."""

    def __init__(self, model: PreTrainedModel, attention: PackedAttention, filler_count: Callable[[int], int]) -> None:
        """`filler_count` says how many rows that nobody reads must be added to so many."""
        self._attention = attention
        self._filler_count = filler_count
        self._unread: _Part | None = None  # nobody reads their hidden states, of none where all are read
        self._read: _Part | None = None
        self._token_count = 0
        layer = _last_layer(model)
        if layer is not None:
            self._own: Callable[..., Any] = layer.forward
            layer.forward = self._forward

    def begin(self, plan: StepPlan, positions: torch.Tensor, wanted: Sequence[int]) -> None:
        """A forward of this plan follows, with tokens `(tokens,)` at these positions; of its hidden states those of
        the wanted packed indices will be read."""
        self._unread = self._read = None
        self._token_count = len(positions)
        kept = _kept(plan, wanted)
        if len(kept) < len(plan.token_ids):
            others = sorted(set(range(len(plan.token_ids))).difference(kept))
            self._unread = self._part(plan, positions, others, attends=False)
            self._read = self._part(plan, positions, kept, attends=True)

    def _part(self, plan: StepPlan, positions: torch.Tensor, indices: list[int], *, attends: bool) -> _Part:
        filled = indices + [indices[0]] * self._filler_count(len(indices))
        index = torch.tensor(filled, device=positions.device)
        return _Part(part_of_plan(plan, _runs(indices), attends=attends), index, positions[index])

    def _forward(self, *arguments: Any, **named: Any) -> Any:
        is_asked = bool(self._attention.windows_seen)  # not so in a model that attends on its own, and is refused
        if self._unread is None or self._read is None or not is_asked:
            return self._own(*arguments, **named)
        with suppress(NothingAttends):
            self._of_part(self._unread, arguments, named)
        return self._among_all(self._of_part(self._read, arguments, named), self._read)

    def _of_part(self, part: _Part, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        self._attention.begin(part.plan, part.positions)
        return self._own(*self._chosen(arguments, part.index), **self._chosen(named, part.index))

    def _chosen(self, given: Any, index: torch.Tensor) -> Any:
        """What a layer is given of some tokens, of what it is given of all: `(1, tokens, ...)` wherever it comes."""
        if isinstance(given, torch.Tensor):
            return given[:, index] if given.shape[:2] == (1, self._token_count) else given
        if isinstance(given, tuple | list):
            return type(given)(self._chosen(each, index) for each in given)
        if isinstance(given, dict):
            return {name: self._chosen(each, index) for name, each in given.items()}
        return given

    def _among_all(self, found: Any, part: _Part) -> Any:
        """What a layer gives, with zeros for the tokens that it was not given: the rest of a model wants all."""
        if isinstance(found, tuple):
            return tuple(self._among_all(each, part) for each in found)
        if isinstance(found, torch.Tensor):
            count = len(part.plan.token_ids)
            filled = found.new_zeros(1, self._token_count, *found.shape[2:])
            filled[:, part.index[:count]] = found[:, :count]
            return filled
        return found


def _last_layer(model: PreTrainedModel) -> nn.Module | None:
    """The last of the only list of as many modules as the model has layers."""
    count = model.config.get_text_config().num_hidden_layers
    found = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    return found[0][-1] if len(found) == 1 else None


def _kept(plan: StepPlan, wanted: Sequence[int]) -> list[int]:
    """The wanted tokens, and those that are one row each, which are laid together: never none."""
    return sorted({*range(len(plan.decode_places)), *wanted}) or [len(plan.token_ids) - 1]


def _runs(indices: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending indices as stretches, each from its first up to behind its last."""
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs
