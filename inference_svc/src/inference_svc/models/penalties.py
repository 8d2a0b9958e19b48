"""What a sequence has said already, and what that costs a token.

Repetition looks at prompt and answer: a seen token's logit is divided by the penalty when positive, multiplied when
not (CTRL, Keskar et al. 2019). Presence and frequency look at the answer alone: the first is taken off once for a token
that occurred, the second once for each occurrence (as the OpenAI API defines them).
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from inference_svc.engine.runner import Row
from inference_svc.models.transfer import sent
from inference_svc.requests import Generation, Sampling


def is_penalised(sampling: Sampling) -> bool:
    return sampling.repetition_penalty != 1.0 or sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0


class SeenTokens:
    """The different tokens of one sequence, and how often each occurred in its answer."""

    def __init__(self, generation: Generation) -> None:
        sampling = generation.sampling
        self.weights = (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty)
        self.uncounted_from = len(generation.prompt_ids) + len(generation.resumed_ids)  # position in the sequence
        self._index: dict[int, int] = {}
        self._token_ids = np.zeros(64, dtype=np.int64)
        self._counts = np.zeros(64, dtype=np.float32)
        self._note(generation.prompt_ids, 0)
        self._note(generation.resumed_ids, 1)

    @property
    def token_ids(self) -> np.ndarray:
        return self._token_ids[: len(self._index)]

    @property
    def counts(self) -> np.ndarray:
        return self._counts[: len(self._index)]

    def note_fed(self, row: Row) -> None:
        end = row.start + len(row.token_ids)
        if end > self.uncounted_from:
            self._note(row.token_ids[max(0, self.uncounted_from - row.start) :], 1)
            self.uncounted_from = end

    def _note(self, token_ids: Iterable[int], count: int) -> None:
        for token_id in token_ids:
            index = self._index.setdefault(token_id, len(self._index))
            if index == len(self._token_ids):
                self._token_ids = np.concatenate([self._token_ids, np.zeros_like(self._token_ids)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._token_ids[index] = token_id
            self._counts[index] += count


class Penalties:
    """The sequences that asked for a penalty, by slot. What a step costs grows with their different tokens, not with
    the vocabulary."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seen: dict[int, SeenTokens] = {}

    def open(self, slot: int, generation: Generation) -> None:
        self._seen[slot] = SeenTokens(generation)

    def close(self, slot: int) -> None:
        self._seen.pop(slot, None)

    def note_fed(self, rows: Sequence[Row]) -> None:
        """Count the answer's tokens that these rows bring; those of a step that comes again are counted once."""
        if self._seen:
            for row in rows:
                seen = self._seen.get(row.slot)
                if seen is not None:
                    seen.note_fed(row)

    def apply(self, logits: torch.Tensor, rows: Sequence[int], slots: Sequence[int]) -> None:
        """Penalise these rows of `logits` `(rows, vocabulary)`, of the sequences in `slots`, in place."""
        seen = [self._seen[slot] for slot in slots]
        sizes = [len(each.token_ids) for each in seen]
        where = (self._tensor(np.repeat(rows, sizes)), self._tensor(np.concatenate([each.token_ids for each in seen])))
        counts = self._tensor(np.concatenate([each.counts for each in seen]))
        weights = np.repeat(np.array([each.weights for each in seen], dtype=np.float32), sizes, axis=0)
        repetition, presence, frequency = self._tensor(weights).unbind(1)
        values = logits[where]
        values = torch.where(values > 0, values / repetition, values * repetition)
        logits[where] = values - frequency * counts - presence * (counts > 0)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return sent(array, self._device)
