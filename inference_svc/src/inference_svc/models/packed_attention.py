"""Attention of a packed step: each token sees its own sequence's cache and nothing else."""

from collections.abc import Hashable, Sequence

import torch

from inference_svc.models.attention_kernel import Scoring, weigh
from inference_svc.models.attention_masks import AttentionMasks
from inference_svc.models.kv_cache import KEY_BLOCK, SlotCache
from inference_svc.models.prompt_attention import PromptAttention
from inference_svc.models.step_plan import QUERY_BLOCK, DecodeGroup, PromptBlock, StepPlan
from inference_svc.models.token_attention import TokenAttention


class NothingAttends(Exception):
    """Keys and values are written, and no token of the plan is to be computed further."""


class PackedAttention:
    """The attention of one model over one cache. `begin` names the plan of the forward that follows."""

    def __init__(self, cache: SlotCache, dtype: torch.dtype, device: torch.device) -> None:
        self._cache = cache
        self.puts_off = True
        """Whether work may wait, where a step allows it."""
        self._device = device
        self._masks = AttentionMasks(cache.capacity, dtype, device)
        self._tokens = TokenAttention.where_possible(dtype, device)
        self._prompts = PromptAttention.where_possible(dtype, device)
        self._takes_prompts = True  # of every layer that was seen
        self._plan, self._in_turn = StepPlan(), False
        self._output = torch.empty(0, dtype=dtype, device=device)
        self._decode_places = torch.empty(0, dtype=torch.long, device=device)
        self._decode_positions = self._decode_places
        self.windows_seen: dict[int, int | None] = {}
        """By layer that has called: the sliding window that it asked for."""

    @property
    def may_wait(self) -> bool:
        if not self.puts_off or self._in_turn or self._tokens is None or not self.windows_seen:
            return False  # until all layers have been seen once, nobody knows what they ask for
        return not self._plan.writes or (self._prompts is not None and self._takes_prompts)

    @property
    def shape(self) -> Hashable | None:
        """Of a step of single tokens: the cache stays where it is, and so does what is told of the tokens."""
        return (self, self._tokens.shape) if self._tokens is not None and not self._plan.writes else None

    @property
    def reads_side_by_side(self) -> bool:
        """Whether a plan must bring those that decode together in groups of equal length."""
        return self._tokens is None

    def begin(self, plan: StepPlan, positions: torch.Tensor, *, in_turn: bool = False) -> None:
        """`positions` are those of the plan's packed tokens, on the device. With `in_turn` nothing may wait."""
        self._plan, self._in_turn = plan, in_turn
        if self._tokens is None:
            self._decode_places = torch.tensor(plan.decode_places, dtype=torch.long, device=self._device)
            self._decode_positions = positions[: len(plan.decode_places)]
        self._masks.begin(positions)
        for compiled in (self._tokens, self._prompts):
            if compiled is not None:
                compiled.begin(plan)

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
        dimension)`. Raises NothingAttends where the plan wants keys and values written only."""
        self.windows_seen[layer] = window
        plan = self._plan
        keys, values = self._cache.layer(layer, key, value)
        prompts = self._prompts
        if prompts is not None and not prompts.takes(keys.shape[3]):
            prompts, self._takes_prompts = None, False
        self._keep(prompts, key[0], value[0], keys, values)
        if not plan.attends:
            raise NothingAttends
        _, heads, token_count, dimension = query.shape
        output = self._room(query, values.shape[-1])
        if self._tokens is not None:
            self._tokens.attend(query[0], key[0], value[0], keys, values, window, scoring, output)
        if prompts is not None:
            prompts.attend(query[0], keys, values, window, scoring, output)
        groups = plan.groups if self._tokens is None else ()
        blocks = plan.blocks if prompts is None else ()
        if groups or blocks:
            # (key heads, queries that share a key head, tokens, dimension)
            grouped = query[0].reshape(keys.shape[1], heads // keys.shape[1], token_count, dimension)
            self._attend_together(groups, blocks, grouped, keys, values, window, scoring, output)
        return output.unsqueeze(0)

    def _room(self, query: torch.Tensor, size: int) -> torch.Tensor:
        """`(tokens, heads, size)`, for what a layer's attention gives. In steps of single tokens it is the same
        for all layers, each of which is done with when the next one attends."""
        _, heads, token_count, _ = query.shape
        wanted, count = token_count * heads * size, len(self._plan.token_ids)
        if self._plan.writes:
            memory = query.new_empty(wanted)
        else:
            if self._output.numel() < wanted or self._output.dtype != query.dtype:
                self._output = query.new_empty(2 * wanted)
            memory = self._output[:wanted]
        room = memory.view(token_count, heads, size)
        if count < token_count:
            room[count:] = 0  # of neighbours that nobody reads
        return room

    def _attend_together(
        self,
        groups: Sequence[DecodeGroup],
        blocks: Sequence[PromptBlock],
        grouped: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        window: int | None,
        scoring: Scoring,
        output: torch.Tensor,
    ) -> None:
        """By torch's operators."""
        for group in groups:
            mask = self._masks.of_group(group, window)
            output[group.first : group.last] = _attend_group(grouped, keys, values, group, mask, scoring)
        for block in blocks:
            first_key = _first_key(block, window)
            mask = self._masks.of_block(block, first_key, window)
            output[block.first : block.last] = _attend_block(grouped, keys, values, block, first_key, mask, scoring)

    def _keep(
        self,
        prompts: PromptAttention | None,
        key: torch.Tensor,
        value: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> None:
        """`key` and `value` `(heads, tokens, dimension)`, `keys` and `values` `(places, heads, capacity, dimension)`.
        Compiled attention of single tokens keeps their own."""
        count = len(self._decode_places) if self._tokens is None else 0
        if count:
            keys[self._decode_places, :, self._decode_positions] = key[:, :count].transpose(0, 1)
            values[self._decode_places, :, self._decode_positions] = value[:, :count].transpose(0, 1)
        if prompts is not None:
            prompts.keep(key, value, keys, values)
            return
        for span in self._plan.writes:
            end = span.start + span.last - span.first
            keys[span.place, :, span.start : end] = key[:, span.first : span.last]
            values[span.place, :, span.start : end] = value[:, span.first : span.last]


def _attend_group(
    grouped: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    group: DecodeGroup,
    mask: torch.Tensor,
    scoring: Scoring,
) -> torch.Tensor:
    """Every token is a row of the batch; the queries that share a key head are its queries."""
    count = group.last - group.first
    query = grouped[:, :, group.first : group.last].permute(2, 0, 1, 3).contiguous()
    last_place = group.place + (1 if group.shared else count)
    key = keys[group.place : last_place, :, : group.key_length].expand(count, -1, -1, -1)
    value = values[group.place : last_place, :, : group.key_length].expand(count, -1, -1, -1)
    scoring = scoring.sinks_as(1, query.shape[1], query.shape[2], 1)
    return weigh(query, key, value, mask, scoring).reshape(count, -1, value.shape[-1])


def _attend_block(
    grouped: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    block: PromptBlock,
    first_key: int,
    mask: torch.Tensor,
    scoring: Scoring,
) -> torch.Tensor:
    """A whole block of queries, those of other steps left empty, so that the shape is the same in any chunking."""
    key_heads, shared_by, _, dimension = grouped.shape
    count = block.last - block.first
    query = grouped.new_zeros(key_heads, shared_by, QUERY_BLOCK, dimension)
    query[:, :, block.offset : block.offset + count] = grouped[:, :, block.first : block.last]
    key = keys[block.place, :, first_key : block.key_length].unsqueeze(1).expand(-1, shared_by, -1, -1)
    value = values[block.place, :, first_key : block.key_length].unsqueeze(1).expand(-1, shared_by, -1, -1)
    scoring = scoring.sinks_as(key_heads, shared_by, 1, 1)
    attended = weigh(query, key, value, mask, scoring)[:, :, block.offset : block.offset + count]
    return attended.permute(2, 0, 1, 3).reshape(count, key_heads * shared_by, -1)


def _first_key(block: PromptBlock, window: int | None) -> int:
    """Keys before this one no query of the block can see."""
    if window is None:
        return 0
    return max(0, block.start - window + 1) // KEY_BLOCK * KEY_BLOCK
