"""What the generation runner asks of whatever keeps the keys and values and computes a packed forward over them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import signature
from typing import Protocol

import torch
from transformers import PreTrainedModel

from inference_svc.engine.runner import Row, Sharing
from inference_svc.models.block_pool import PrefixCounts
from inference_svc.requests import Generation


class PackedSteps(Sharing, Protocol):
    """Packed forwards of one model over caches of its own. One implementation a kind of device."""

    @property
    def windows_seen(self) -> Mapping[int, int | None]:
        """By layer that has attended: the sliding window that it asked for."""
        ...

    @property
    def cache_token_count(self) -> int:
        """Tokens that all slots together can hold."""
        ...

    @property
    def cache_block_tokens(self) -> int:
        """What a slot takes of them is rounded up to this."""
        ...

    @property
    def cache_byte_count(self) -> int: ...

    @property
    def prefix_counts(self) -> PrefixCounts:
        """Of what sequences share."""
        ...

    @property
    def way(self) -> str:
        """How attention reads its cache, for people; empty where there is nothing to choose."""
        ...

    @property
    def is_batch_invariant(self) -> bool:
        """Whether attention gives a sequence the same bits in any company."""
        ...

    def bind(self) -> None:
        """From here on the model attends as this says."""
        ...

    def be_plain(self) -> bool:
        """Do without what spares work and a model's own code may not bear; gives whether there was any such thing."""
        ...

    def settle(self, sample: Callable[[torch.Tensor], object]) -> None:
        """The model has computed something, and is right: have the cache that it will be served with. `sample` does
        with logits `(slots, vocabulary)` what is done with them at most: where memory is measured, it counts."""
        ...

    def warm_up(self) -> Iterator[None]:
        """On the thread that will step, before any request: make what is made once, part by part."""
        ...

    def lay(self, rows: Sequence[Row], prompt_lengths: Mapping[int, int]) -> list[int]:
        """Lay the rows of the next forward end to end; gives the packed index behind each row's last token.
        `prompt_lengths` is by slot."""
        ...

    def forward(self, wanted: Sequence[int]) -> torch.Tensor:
        """Compute what was laid; gives float32 logits `(wanted, vocabulary)` at those packed indices, which may lie in
        memory that the next forward writes."""
        ...

    def open(self, slot: int, generation: Generation) -> int:
        """Take a free slot; gives how many leading tokens it holds already, copied there or shared in place."""
        ...

    def look_again(self, slot: int) -> int:
        """How many leading tokens the slot holds by now, of a sequence whose prompt is not computed yet: more than it
        computed itself where another one has computed the same since."""
        ...

    def keep(self, row: Row, *, is_good: bool) -> None:
        """A row is computed and others may use what it left; with `is_good` its logits are known to be finite."""
        ...

    def close(self, slot: int) -> None:
        """Its keys and values are wanted no more."""
        ...


class LogitsAt:
    """Calls a model for the logits of some tokens only, where it can be asked so."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._keeps_logits = "logits_to_keep" in signature(model.forward).parameters

    def __call__(self, token_ids: torch.Tensor, positions: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """`token_ids` and `positions` `(tokens,)`, `wanted` packed indices; gives `(wanted, vocabulary)`."""
        arguments = {"logits_to_keep": wanted} if self._keeps_logits else {}
        answer = self._model(input_ids=token_ids[None], position_ids=positions[None], use_cache=False, **arguments)
        logits: torch.Tensor = answer.logits[0]
        return logits if self._keeps_logits else logits[wanted]
