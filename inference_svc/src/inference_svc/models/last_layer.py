"""The last layer of a model, computed of the tokens alone whose logits are read.

Of the others, most of a prompt, only keys and values are wanted of it: they go as far as its attention and no further.
That saves nearly a layer's share of a prompt's work.
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

CATCH_UP = "seam_catch_up"
"""Attribute of a layer's forward that may be given what is not computed yet: a function that has it computed."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Some tokens of a step."""

    plan: StepPlan
    index: torch.Tensor
    """Of each among all tokens; behind them as many as there must be that nobody reads."""
    positions: torch.Tensor


class LastLayer:
    """Takes the place of a model's last layer's forward. A model whose last layer is not found is computed whole. So is
    a step in which it is not plain what of the layer's arguments is of single tokens."""

    def __init__(self, model: PreTrainedModel, attention: PackedAttention, filler_count: Callable[[int], int]) -> None:
        """`filler_count` says how many rows that nobody reads must be added to so many."""
        self._attention = attention
        self._filler_count = filler_count
        self._unread: _Part | None = None  # nobody reads their hidden states, of none where all are read
        self._read: _Part | None = None
        self._token_count = 0
        self._usual_cuts: list[bool] | None = None
        self._layer = _last_layer(model)
        if self._layer is not None:
            self._own: Callable[..., Any] = self._layer.forward
            self._catch_up: Callable[[], None] = getattr(self._own, CATCH_UP, lambda: None)
            self._layer.forward = self._forward

    def give_back(self) -> bool:
        """Have the layer computed whole from now on; gives whether it was not."""
        if self._layer is None:
            return False
        self._layer.forward, self._layer = self._own, None
        return True

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
        self._catch_up()
        given = [_cut((arguments, named), self._token_count, part.index) for part in (self._unread, self._read)]
        (others, cuts), (wanted, _) = given
        self._usual_cuts = self._usual_cuts or cuts
        if cuts != self._usual_cuts:  # a size that is the number of tokens by chance
            return self._own(*arguments, **named)
        with suppress(NothingAttends):
            self._of_part(self._unread, *others)
        return self._among_all(self._of_part(self._read, *wanted), self._read)

    def _of_part(self, part: _Part, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        self._attention.begin(part.plan, part.positions, in_turn=True)
        return self._own(*arguments, **named)

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


def _cut(given: Any, token_count: int, index: torch.Tensor) -> tuple[Any, list[bool]]:
    """What a layer is given of some tokens, of what it is given of all: `(1, tokens, ...)` wherever it comes. And of
    each tensor, whether it was cut."""
    cuts: list[bool] = []

    def cut(each: Any) -> Any:
        if isinstance(each, torch.Tensor):
            cuts.append(each.shape[:2] == (1, token_count))
            return each[:, index] if cuts[-1] else each
        if isinstance(each, tuple | list):
            return type(each)(cut(part) for part in each)
        if isinstance(each, dict):
            return {name: cut(part) for name, part in each.items()}
        return each

    return cut(given), cuts


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
