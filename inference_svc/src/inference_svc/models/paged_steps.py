"""Packed forwards over a cache of blocks, which sequences share and attention reads in place: what a GPU wants."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from inference_svc.engine.runner import Row
from inference_svc.errors import ModelLoadError
from inference_svc.models.attention_interface import bind
from inference_svc.models.block_pool import BlockPool, PrefixCounts
from inference_svc.models.block_tables import BlockTables
from inference_svc.models.cuda_graphs import CudaRecorder
from inference_svc.models.decode_graphs import CannotRecord, DecodeGraphs, Recorder
from inference_svc.models.gathered_attention import GatheredAttention
from inference_svc.models.packed_steps import LogitsAt
from inference_svc.models.paged_attention import PagedAttention, PagedKernel, PagedLayout
from inference_svc.models.paged_cache import PagedCache
from inference_svc.models.paged_plan import Chunk, PagedPlan, plan_paged
from inference_svc.models.paged_sizing import measured_tokens
from inference_svc.models.step_buffers import StepBuffers
from inference_svc.models.transfer import sent
from inference_svc.models.varlen_attention import VarlenAttention
from inference_svc.requests import Generation

_log = logging.getLogger(__name__)

_BLOCKS_FOR_CHECK = 8  # before the cache has its size: two short sequences


@dataclass(frozen=True, slots=True)
class PagedSettings:
    """`cache_tokens` are for all sequences together, cut to whole blocks. Where it is None the device's memory is
    measured: `memory_share` of it is taken, the cache has what the weights and a step of `step_tokens` leave, and fewer
    than `least_tokens` are refused. `kernel` and `recorder` are chosen by the device where they are None."""

    cache_tokens: int | None = None
    memory_share: float = 0.9
    step_tokens: int = 512
    least_tokens: int = 1
    shares: bool = True
    shares_answers: bool = True
    kernel: PagedKernel | None = None
    recorder: Recorder | None = None


class PagedSteps:
    """A PackedSteps."""

    def __init__(
        self, model: PreTrainedModel, slot_count: int, max_context_tokens: int, settings: PagedSettings
    ) -> None:
        self._model = model
        self._device = model.device
        self._slot_count = slot_count
        self._max_context_tokens = max_context_tokens
        self._settings = settings
        self._vocabulary_size = int(model.config.get_text_config().vocab_size)
        self._logits_at = LogitsAt(model)
        kernel = settings.kernel or VarlenAttention.where_right(model.dtype, model.device) or GatheredAttention()
        self._cache = PagedCache(_BLOCKS_FOR_CHECK, kernel.block_tokens)
        self._tables = self._tables_of(_BLOCKS_FOR_CHECK)
        self._attention = PagedAttention(self._cache, kernel, GatheredAttention(kernel.block_tokens))
        self._plan = PagedPlan()
        self._finite: list[bool] | None = None  # by packed token of the plan, as far as asked
        self._graphs: DecodeGraphs | None = None

    @property
    def windows_seen(self) -> Mapping[int, int | None]:
        return self._attention.windows_seen

    @property
    def cache_token_count(self) -> int:
        return self._tables.token_count

    @property
    def cache_block_tokens(self) -> int:
        return self._tables.block_tokens

    @property
    def tokens_held_again(self) -> int:
        return self._tables.tokens_held_again

    def tokens_held_with_others(self, slot: int) -> int:
        return self._tables.tokens_held_with_others(slot)

    def tokens_to_share(self, generation: Generation) -> int:
        return self._tables.tokens_to_share(generation)

    @property
    def cache_byte_count(self) -> int:
        return self._cache.byte_count

    @property
    def cache_bytes_per_token(self) -> int:
        return self._cache.bytes_per_token

    @property
    def prefix_counts(self) -> PrefixCounts:
        return self._tables.counts()

    @property
    def way(self) -> str:
        if self._attention.reads_in_place:
            return "attention reads its blocks in place"
        return "attention reads copies of its blocks"

    @property
    def is_batch_invariant(self) -> bool:
        return False

    def bind(self) -> None:
        bind(self._attention, self._model)

    def be_plain(self) -> bool:
        return False

    def settle(self, sample: Callable[[torch.Tensor], object]) -> None:
        """Raises ModelLoadError where the device has no room for a cache."""
        size, least = self._cache.block_tokens, self._settings.least_tokens
        tokens = self._settings.cache_tokens
        if tokens is None:
            tokens = measured_tokens(
                self._device,
                lambda: sample(self._largest_step()),
                share=self._settings.memory_share,
                bytes_per_token=self._cache.bytes_per_token,
                most=self._slot_count * self._tables.rows.shape[1] * size,
                least=max(least, size),
            )
        block_count = tokens // size
        if block_count * size < least:
            raise ModelLoadError(
                f"a cache of {tokens} tokens, in blocks of {size}, does not hold one context of {least}; raise it to "
                f"{-(-least // size) * size} or lower the context"
            )
        self._cache.resize(block_count)
        self._tables = self._tables_of(block_count)

    def _largest_step(self) -> torch.Tensor:
        """As many tokens as a step takes, in sequences as long as may be, and logits for every slot. All of them write
        to the block that nobody reads."""
        most, size = self._settings.step_tokens, self._cache.block_tokens
        starts = range(0, most, self._max_context_tokens)
        lengths = [min(self._max_context_tokens, most - start) for start in starts]
        positions = np.concatenate([np.arange(length) for length in lengths])
        self._plan = PagedPlan(
            token_ids=np.zeros(most, dtype=np.int64),
            positions=positions,
            places=self._cache.block_count * size + positions % size,
            table=np.full((len(lengths), -(-max(lengths) // size)), self._cache.block_count, dtype=np.int32),
            key_counts=np.array(lengths, dtype=np.int64),
            chunks=[
                Chunk(start, start + length, row, 0)
                for row, (start, length) in enumerate(zip(starts, lengths, strict=True))
            ],
        )
        return self.forward([index % most for index in range(self._slot_count)])

    def warm_up(self) -> Iterator[None]:
        """Record what decode steps do, where this device can repeat it."""
        recorder = self._settings.recorder
        if recorder is None and self._device.type == "cuda":
            if not self._attention.reads_in_place:
                _log.info("decode steps are not recorded: this model's attention gathers its keys")
                return
            recorder = CudaRecorder(self._device)
        if recorder is None:
            return
        graphs = DecodeGraphs(
            recorder,
            self._compute_singles,
            slot_count=self._slot_count,
            table_width=self._tables.rows.shape[1],
            scratch=self._tables.scratch,
            block_tokens=self._cache.block_tokens,
            device=self._device,
        )
        try:
            yield from graphs.record(self._vocabulary_size)
            self._graphs = graphs
        except CannotRecord as why:
            _log.warning("decode steps are not recorded, the host will lead each of them: %s", why)

    def lay(self, rows: Sequence[Row], prompt_lengths: Mapping[int, int]) -> list[int]:
        for row in rows:
            self._tables.reach(row.slot, row.start + len(row.token_ids))
        self._plan = plan_paged(rows, self._tables)
        self._finite = None
        return self._plan.row_ends

    def forward(self, wanted: Sequence[int]) -> torch.Tensor:
        if self._graphs is not None:
            logits = self._graphs.logits_of(self._plan, wanted)
            if logits is not None:
                return logits
        plan = self._plan
        buffers = StepBuffers(plan.shape(len(wanted)), self._device)
        plan.fill(buffers.host, wanted)
        buffers.send()
        return self._logits(buffers, plan)[: len(wanted)].float()

    def _compute_singles(self, buffers: StepBuffers, logits: torch.Tensor) -> None:
        """Everything that depends on the step comes from the buffers' tensors."""
        logits.copy_(self._logits(buffers, PagedPlan(singles=buffers.shape.rows)))

    def _logits(self, buffers: StepBuffers, plan: PagedPlan) -> torch.Tensor:
        step, width = buffers.device, buffers.shape.blocks * self._cache.block_tokens
        self._attention.begin(PagedLayout(step, plan.singles, tuple(plan.chunks), plan.longest_chunk, width))
        return self._logits_at(step.token_ids, step.positions, step.wanted)

    def open(self, slot: int, generation: Generation) -> int:
        return self._tables.open(slot, generation)

    def look_again(self, slot: int) -> int:
        return self._tables.look_again(slot)

    def keep(self, row: Row, *, is_good: bool) -> None:
        if is_good or not self._settings.shares or self._is_finite(row):  # alone, it spoils nobody but itself
            self._tables.keep(row)

    def close(self, slot: int) -> None:
        self._tables.close(slot)

    def _tables_of(self, block_count: int) -> BlockTables:
        return BlockTables(
            BlockPool(block_count, self._cache.block_tokens),
            max(self._slot_count, 2),  # as many as the check at load takes
            self._max_context_tokens,
            shares=self._settings.shares,
            shares_answers=self._settings.shares_answers,
        )

    def _is_finite(self, row: Row) -> bool:
        """What is not finite stays so through every later layer: the last one tells of all. Those of the plan's
        chunks are read together."""
        if self._finite is None:
            places = sent(self._plan.places, self._device)
            self._finite = self._cache.last_values(places).isfinite().all(-1).all(-1).tolist()
        at = int((self._plan.places == self._place_of(row)).argmax())
        return all(self._finite[at : at + len(row.token_ids)])

    def _place_of(self, row: Row) -> int:
        """Of its first token."""
        size = self._cache.block_tokens
        return int(self._tables.rows[row.slot, row.start // size]) * size + row.start % size
