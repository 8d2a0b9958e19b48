"""Packed forwards over one stretch of cache a slot: what is fastest on a CPU, where attention reads views."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from transformers import PreTrainedModel

from inference_svc.engine.runner import Row
from inference_svc.models.attention_interface import bind
from inference_svc.models.block_pool import PrefixCounts
from inference_svc.models.kv_cache import SlotCache
from inference_svc.models.last_layer import LastLayer
from inference_svc.models.packed_attention import PackedAttention
from inference_svc.models.packed_steps import LogitsAt
from inference_svc.models.prefix_store import PrefixSettings, PrefixStore
from inference_svc.models.prepacked import takes_any_row_count
from inference_svc.models.row_counts import decode_filler_count
from inference_svc.models.step_plan import StepPlan, plan_step
from inference_svc.requests import Generation


class SlotSteps:
    """A PackedSteps."""

    def __init__(
        self, model: PreTrainedModel, slot_count: int, max_context_tokens: int, prefix: PrefixSettings
    ) -> None:
        self._model = model
        self._device = model.device
        self._logits_at = LogitsAt(model)
        self._cache = SlotCache(max(slot_count, 2), max_context_tokens)
        self._prefixes = PrefixStore(self._cache, prefix)
        self._attention = PackedAttention(self._cache, model.dtype, model.device)
        self._plan = StepPlan()
        self._filler_count: Callable[[int], int] = lambda token_count: 0
        self._token_count = slot_count * max_context_tokens

    @property
    def windows_seen(self) -> Mapping[int, int | None]:
        return self._attention.windows_seen

    @property
    def cache_token_count(self) -> int:
        return self._token_count

    @property
    def cache_block_tokens(self) -> int:
        return 1

    @property
    def tokens_held_again(self) -> int:
        return 0

    def tokens_held_with_others(self, slot: int) -> int:
        return 0

    def tokens_to_share(self, generation: Generation) -> int:
        return 0

    @property
    def cache_byte_count(self) -> int:
        return self._cache.byte_count + self._prefixes.byte_count

    @property
    def prefix_counts(self) -> PrefixCounts:
        return self._prefixes.counts()

    @property
    def way(self) -> str:
        return ""

    @property
    def is_batch_invariant(self) -> bool:
        return True

    def bind(self) -> None:
        bind(self._attention, self._model)
        if self._device.type == "cpu" and not takes_any_row_count(self._model):
            self._filler_count = decode_filler_count
        self._last_layer = LastLayer(self._model, self._attention, self._filler_count)

    def be_plain(self) -> bool:
        was_plain = not self._attention.puts_off
        self._attention.puts_off = False
        return self._last_layer.give_back() or not was_plain

    def settle(self, sample: Callable[[torch.Tensor], object]) -> None:
        """It has its cache."""

    def warm_up(self) -> Iterator[None]:
        """There is nothing to make."""
        return iter(())

    def lay(self, rows: Sequence[Row], prompt_lengths: Mapping[int, int]) -> list[int]:
        self._plan = plan_step(rows, prompt_lengths, self._cache, side_by_side=self._attention.reads_side_by_side)
        return self._plan.row_ends

    def forward(self, wanted: Sequence[int]) -> torch.Tensor:
        """Tokens and rows of logits get neighbours that nobody reads, where the rule of row_counts holds."""
        plan = self._plan
        filler = [0] * self._filler_count(len(plan.token_ids))
        token_ids = torch.tensor(plan.token_ids + filler, device=self._device)
        positions = torch.tensor(plan.positions + filler, device=self._device)
        self._attention.begin(plan, positions)
        self._last_layer.begin(plan, positions, wanted)
        unread = [0] * self._filler_count(len(wanted))
        keep = torch.tensor([*wanted, *unread], dtype=torch.long, device=self._device)
        return self._logits_at(token_ids, positions, keep)[: len(wanted)].float()

    def open(self, slot: int, generation: Generation) -> int:
        with torch.inference_mode():  # as its tensors were made
            return self._prefixes.open(slot, generation)

    def look_again(self, slot: int) -> int:
        with torch.inference_mode():
            return self._prefixes.look_again(slot)

    def keep(self, row: Row, *, is_good: bool) -> None:
        self._prefixes.keep(row, is_good=is_good)

    def close(self, slot: int) -> None:
        with torch.inference_mode():
            self._prefixes.close(slot)
            self._cache.clear(slot)
