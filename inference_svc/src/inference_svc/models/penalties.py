"""What a sequence has said already, and what that costs a token.

Repetition looks at prompt and answer: a seen token's logit is divided by the penalty when positive, multiplied when
not (CTRL, Keskar et al. 2019). Presence and frequency look at the answer alone: the first is taken off once for a token
that occurred, the second once for each occurrence (as the OpenAI API defines them).
"""

from collections.abc import Sequence

import torch

from inference_svc.engine.runner import Row
from inference_svc.requests import Generation, Sampling


def is_penalised(sampling: Sampling) -> bool:
    return sampling.repetition_penalty != 1.0 or sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0


class Penalties:
    """Token counts by slot, `(slots, vocabulary)`, made when the first request asks for a penalty."""

    def __init__(self, slot_count: int, vocabulary_size: int, device: torch.device) -> None:
        self._shape = (slot_count, vocabulary_size)
        self._device = device
        self._weights = torch.zeros(slot_count, 3, device=device)
        self._in_prompt: torch.Tensor | None = None
        self._in_answer: torch.Tensor | None = None
        self._starts: dict[int, int] = {}  # by slot: the position of the first token not yet counted

    def open(self, slot: int, generation: Generation) -> None:
        if self._in_prompt is None or self._in_answer is None:
            self._in_prompt = torch.zeros(self._shape, dtype=torch.bool, device=self._device)
            self._in_answer = torch.zeros(self._shape, dtype=torch.int32, device=self._device)
        sampling = generation.sampling
        self._weights[slot] = torch.tensor(
            [sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty]
        )
        self._in_prompt[slot] = False
        self._in_answer[slot] = 0
        self._in_prompt[slot, self._tensor(generation.prompt_ids)] = True
        self._count(slot, generation.resumed_ids)
        self._starts[slot] = len(generation.prompt_ids) + len(generation.resumed_ids)

    def close(self, slot: int) -> None:
        self._starts.pop(slot, None)

    def note_fed(self, rows: Sequence[Row]) -> None:
        """Count the answer's tokens that these rows bring; those of a step that comes again are counted once."""
        for row in rows:
            start = self._starts.get(row.slot)
            end = row.start + len(row.token_ids)
            if start is not None and end > start:
                self._count(row.slot, row.token_ids[max(0, start - row.start) :])
                self._starts[row.slot] = end

    def apply(self, logits: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """`logits` `(rows, vocabulary)` of the sequences in `slots`; gives them penalised."""
        assert self._in_prompt is not None
        assert self._in_answer is not None
        counts = self._in_answer[slots]
        said = counts > 0
        repetition, presence, frequency = (weight[:, None] for weight in self._weights[slots].unbind(1))
        seen = said | self._in_prompt[slots]
        logits = torch.where(seen, torch.where(logits > 0, logits / repetition, logits * repetition), logits)
        return logits - frequency * counts - presence * said

    def _count(self, slot: int, token_ids: Sequence[int]) -> None:
        if self._in_answer is not None and token_ids:
            ids = self._tensor(token_ids)
            self._in_answer[slot].index_add_(0, ids, torch.ones_like(ids, dtype=torch.int32))

    def _tensor(self, token_ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor(token_ids, dtype=torch.long, device=self._device)
