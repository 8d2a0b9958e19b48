"""A causal language model of transformers behind the engine's GenerationRunner."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature

import torch
from transformers import PreTrainedModel

from inference_svc.engine.runner import OutOfDeviceMemory, Row, SampledToken
from inference_svc.errors import ModelLoadError
from inference_svc.models.kv_cache import SlotCache
from inference_svc.models.packed_attention import PackedAttention
from inference_svc.models.prepacked import every_product_is_prepacked, own_weights, prepack_linears
from inference_svc.models.prompt_scoring import PromptScorer
from inference_svc.models.sampling import Sampler
from inference_svc.models.self_check import (
    PlainLogits,
    check_differences,
    check_layers,
    packed_differences,
    plain_logits,
    refuse_what_cannot_be_packed,
)
from inference_svc.models.step_plan import StepPlan, plan_step
from inference_svc.requests import Generation

_ALLOCATION_FAILED = "can't allocate memory"


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
    ) -> None:
        refuse_what_cannot_be_packed(model, max_context_tokens)
        self._slot_count = slot_count
        self._max_context_tokens = max_context_tokens
        self._device = torch.device(device)
        self._model = model.to(device=self._device, dtype=dtype).eval()
        self._keeps_logits = "logits_to_keep" in signature(model.forward).parameters
        self._cache = SlotCache(max(slot_count, 2), max_context_tokens)
        self._attention = PackedAttention(self._cache, dtype, self._device)
        self._prompt_lengths: dict[int, int] = {}
        self._prompt_scorer = PromptScorer()
        with torch.inference_mode():
            own_weights(model)
            model.set_attn_implementation("eager")  # the definition: others may leave out a softcap
            expected = plain_logits(model, max_context_tokens)
            if prepack and self._device.type == "cpu":
                prepack_linears(model)
            self._batch_invariant = self._device.type == "cpu" and every_product_is_prepacked(model)
            self._attention.bind(model)
            self._check(expected)
        self._sampler = Sampler(slot_count, self._device)

    def _check(self, expected: PlainLogits) -> None:
        dtype, name = self._model.dtype, type(self._model).__name__
        try:
            differences = packed_differences(expected, self._last_logits)
        except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
            raise ModelLoadError(f"{name} cannot compute a packed step: {error}") from error
        check_layers(self._attention.windows_seen, self._model, self._max_context_tokens)
        check_differences(differences, dtype, name)
        for slot in range(len(expected.token_ids)):
            self._cache.clear(slot)

    def _last_logits(self, rows: Sequence[Row], prompt_lengths: Mapping[int, int]) -> torch.Tensor:
        plan = plan_step(rows, prompt_lengths, self._cache)
        return self._forward(plan, [end - 1 for end in plan.row_ends])

    @property
    def slot_count(self) -> int:
        return self._slot_count

    @property
    def max_context_tokens(self) -> int:
        return self._max_context_tokens

    @property
    def batch_invariant(self) -> bool:
        """Whether a sequence's logits have the same bits in any batch, chunking, and after resume. So it is on the CPU
        where every matrix product is prepacked."""
        return self._batch_invariant

    @property
    def cache_byte_count(self) -> int:
        return self._cache.byte_count

    def open(self, slot: int, generation: Generation) -> None:
        self._sampler.open(slot, generation)
        self._prompt_scorer.open(slot, generation)
        self._prompt_lengths[slot] = len(generation.prompt_ids)

    def close(self, slot: int) -> None:
        with torch.inference_mode():  # as its tensors were made
            self._cache.clear(slot)
        self._sampler.close(slot)
        self._prompt_scorer.close(slot)
        self._prompt_lengths.pop(slot, None)

    def step(self, rows: Sequence[Row]) -> list[SampledToken | None]:
        try:
            with torch.inference_mode():
                return self._step(rows)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise OutOfDeviceMemory(str(error)) from error
        except RuntimeError as error:
            if _ALLOCATION_FAILED in str(error):
                raise OutOfDeviceMemory(str(error)) from error
            raise

    def _step(self, rows: Sequence[Row]) -> list[SampledToken | None]:
        plan = plan_step(rows, self._prompt_lengths, self._cache)
        sampling = [index for index, row in enumerate(rows) if row.samples]
        scored = self._prompt_scorer.wanted(rows, plan.row_ends)
        logits = self._forward(plan, [plan.row_ends[index] - 1 for index in sampling] + scored.packed)
        self._sampler.note_fed(rows)
        self._prompt_scorer.note(scored, logits[len(sampling) :])
        answers: list[SampledToken | None] = [None] * len(rows)
        if sampling:
            tokens = self._sampler.sample(logits[: len(sampling)], [rows[index] for index in sampling])
            for index, token in zip(sampling, tokens, strict=True):
                answers[index] = self._with_prompt(rows[index], token)
        return answers

    def _with_prompt(self, row: Row, token: SampledToken) -> SampledToken:
        told = self._prompt_scorer.result(row.slot) if row.output_index == 0 else ()
        return replace(token, prompt_logprobs=told) if told else token

    def _forward(self, plan: StepPlan, wanted: Sequence[int]) -> torch.Tensor:
        """Compute a plan; gives float32 logits `(wanted, vocabulary)` at those packed indices.

        Never a product of one row: its kernel sums in another order than that of many. So a lone token gets a
        neighbour that nobody reads, and so does a lone row of logits.
        """
        filler = 1 if len(plan.token_ids) == 1 else 0
        token_ids = torch.tensor([plan.token_ids + [0] * filler], device=self._device)
        positions = torch.tensor([plan.positions + [0] * filler], device=self._device)
        self._attention.begin(plan, positions[0])
        keep = torch.tensor([*wanted, *wanted, 0, 0][: max(2, len(wanted))], dtype=torch.long, device=self._device)
        arguments = {"logits_to_keep": keep} if self._keeps_logits else {}
        logits = self._model(input_ids=token_ids, position_ids=positions, use_cache=False, **arguments).logits[0]
        if not self._keeps_logits:
            logits = logits[keep]
        found: torch.Tensor = logits[: len(wanted)].float()
        return found
