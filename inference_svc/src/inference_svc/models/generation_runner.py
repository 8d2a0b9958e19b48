"""A causal language model of transformers behind the engine's GenerationRunner."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from inference_svc.engine.runner import Row, SampledToken
from inference_svc.errors import ModelLoadError
from inference_svc.models.block_pool import PrefixCounts
from inference_svc.models.device_faults import device_faults_named
from inference_svc.models.fusing import Fused, fuse_layers
from inference_svc.models.packed_steps import PackedSteps
from inference_svc.models.paged_steps import PagedSettings, PagedSteps
from inference_svc.models.prefix_store import PrefixSettings
from inference_svc.models.prepacked import every_product_is_prepacked, own_weights, prepack_linears
from inference_svc.models.prompt_scoring import PromptScorer
from inference_svc.models.rehearsal import rehearsed
from inference_svc.models.sampling import Sampler
from inference_svc.models.self_check import (
    PlainLogits,
    bits_are_kept,
    check_differences,
    check_layers,
    packed_differences,
    plain_logits,
    refuse_what_cannot_be_packed,
)
from inference_svc.models.slot_steps import SlotSteps
from inference_svc.requests import Generation, Sampling


class PackedGenerationRunner:
    """Owns `model` from here on: its weights are moved and packed, its attention is replaced.

    Raises ModelLoadError for a model whose packed answers would not be its own.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        slot_count: int,
        max_context_tokens: int,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        prepack: bool = True,
        prefix: PrefixSettings = PrefixSettings(),  # noqa: B008 (frozen)
        paged: PagedSettings | None = None,
    ) -> None:
        """With `paged`, the slots share a cache of blocks, and `prefix` says nothing; without, each has a stretch of
        cache to itself."""
        refuse_what_cannot_be_packed(model, max_context_tokens)
        self._slot_count = slot_count
        self._max_context_tokens = max_context_tokens
        self._device = torch.device(device)
        self._model = model.to(device=self._device, dtype=dtype).eval()
        self._sampler = Sampler(slot_count, self._device)
        self._steps: PackedSteps = (
            SlotSteps(self._model, slot_count, max_context_tokens, prefix)
            if paged is None
            else PagedSteps(self._model, slot_count, max_context_tokens, paged)
        )
        self._prompt_lengths: dict[int, int] = {}
        self._prompt_scorer = PromptScorer()
        with torch.inference_mode():
            own_weights(model)
            model.set_attn_implementation("eager")  # the definition: others may leave out a softcap
            expected = plain_logits(model, max_context_tokens)
            self._packed_count, self._fused = 0, Fused()
            if prepack and self._device.type == "cpu":
                self._packed_count, self._fused = prepack_linears(model), fuse_layers(model)
            self._steps.bind()
            try:
                self._check(expected)
            except ModelLoadError:
                if not self._steps.be_plain():
                    raise
                self._check(expected)
            self._batch_invariant = (
                self._device.type == "cpu"
                and every_product_is_prepacked(model)
                and self._steps.is_batch_invariant
                and bits_are_kept(expected, self._last_logits)
            )
            self._close_all(expected)
            self._steps.settle(self._sample_all)

    def warm_up(self) -> Iterator[None]:
        """On the engine's model thread, before any request; others may step between two parts."""
        parts = self._steps.warm_up()
        while True:
            with torch.inference_mode():
                try:
                    next(parts)
                except StopIteration:
                    return
            yield

    def _check(self, expected: PlainLogits) -> None:
        dtype, name = self._model.dtype, type(self._model).__name__
        self._close_all(expected)
        try:
            differences = packed_differences(expected, self._last_logits)
        except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
            raise ModelLoadError(f"{name} cannot compute a packed step: {error}") from error
        check_layers(self._steps.windows_seen, self._model, self._max_context_tokens)
        check_differences(differences, dtype, name)

    def _close_all(self, expected: PlainLogits) -> None:
        for slot in range(len(expected.token_ids)):
            self._steps.close(slot)

    def _sample_all(self, logits: torch.Tensor) -> None:
        """Of every slot, drawn from a part of the vocabulary: what sampling takes at most."""
        sampling = Sampling(temperature=1.0, top_p=0.9, repetition_penalty=1.1, seed=0)
        rows = [Row(slot, 0, (0,), True, 0) for slot in range(self._slot_count)]
        for row in rows:
            self._sampler.open(row.slot, rehearsed(row.token_ids, sampling=sampling))
        self._sampler.sample(logits, rows)
        for row in rows:
            self._sampler.close(row.slot)

    def _last_logits(self, rows: Sequence[Row], prompt_lengths: Mapping[int, int]) -> torch.Tensor:
        return self._steps.forward([end - 1 for end in self._steps.lay(rows, prompt_lengths)])

    @property
    def way(self) -> str:
        """How answers are computed here, for people: what a slow model lacks is seen at its start."""
        parts = []
        if self._packed_count:
            layers = self._model.config.get_text_config().num_hidden_layers
            parts = [
                f"{self._packed_count} linear layers packed",
                f"{self._fused.norms_and_gates} norms and gates in one pass",
                f"{self._fused.layers} of {layers} decoder layers in few",
            ]
        if self._steps.way:
            parts.append(self._steps.way)
        parts.append("the same bits in any batch" if self._batch_invariant else "last bits depend on the batch")
        return ", ".join(parts)

    @property
    def slot_count(self) -> int:
        return self._slot_count

    @property
    def max_context_tokens(self) -> int:
        return min(self._max_context_tokens, self._steps.cache_token_count)

    @property
    def batch_invariant(self) -> bool:
        """Whether a sequence's logits have the same bits in any batch, chunking, and after resume. So it is on the CPU
        where every matrix product is prepacked."""
        return self._batch_invariant

    @property
    def cache_byte_count(self) -> int:
        return self._steps.cache_byte_count

    @property
    def cache_token_count(self) -> int:
        return self._steps.cache_token_count

    @property
    def cache_block_tokens(self) -> int:
        return self._steps.cache_block_tokens

    @property
    def tokens_held_again(self) -> int:
        return self._steps.tokens_held_again

    def tokens_held_with_others(self, slot: int) -> int:
        return self._steps.tokens_held_with_others(slot)

    def tokens_to_share(self, generation: Generation) -> int:
        return self._steps.tokens_to_share(generation)

    @property
    def prefix_counts(self) -> PrefixCounts:
        return self._steps.prefix_counts

    @property
    def open_slots(self) -> frozenset[int]:
        """Slots that hold a sequence now."""
        return frozenset(self._prompt_lengths)

    def open(self, slot: int, generation: Generation) -> int:
        with device_faults_named(self._device):
            self._sampler.open(slot, generation)
            self._prompt_scorer.open(slot, generation)
            self._prompt_lengths[slot] = len(generation.prompt_ids)
            return self._steps.open(slot, generation)

    def look_again(self, slot: int) -> int:
        with device_faults_named(self._device):
            return self._steps.look_again(slot)

    def close(self, slot: int) -> None:
        self._steps.close(slot)
        self._sampler.close(slot)
        self._prompt_scorer.close(slot)
        self._prompt_lengths.pop(slot, None)

    def step(self, rows: Sequence[Row]) -> list[SampledToken | None]:
        with device_faults_named(self._device), torch.inference_mode():
            return self._step(rows)

    def _step(self, rows: Sequence[Row]) -> list[SampledToken | None]:
        row_ends = self._steps.lay(rows, self._prompt_lengths)
        sampling = [index for index, row in enumerate(rows) if row.samples]
        scored = self._prompt_scorer.wanted(rows, row_ends)
        logits = self._steps.forward([row_ends[index] - 1 for index in sampling] + scored.packed)
        self._sampler.note_fed(rows)
        self._prompt_scorer.note(scored, logits[len(sampling) :])
        answers: list[SampledToken | None] = [None] * len(rows)
        if sampling:
            tokens = self._sampler.sample(logits[: len(sampling)], [rows[index] for index in sampling])
            for index, token in zip(sampling, tokens, strict=True):
                answers[index] = self._with_prompt(rows[index], token)
        for row, answer in zip(rows, answers, strict=True):
            if answer is None or answer.finite:
                self._steps.keep(row, is_good=answer is not None)
        return answers

    def _with_prompt(self, row: Row, token: SampledToken) -> SampledToken:
        told = self._prompt_scorer.result(row.slot) if row.output_index == 0 else ()
        return replace(token, prompt_logprobs=told) if told else token
