"""Logprobs of the prompt's own tokens, gathered while its chunks are computed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from inference_svc.engine.runner import Row
from inference_svc.models.logprobs import Told, logprobs_of
from inference_svc.models.transfer import sent
from inference_svc.requests import Generation


@dataclass(slots=True, eq=False)
class PromptScore:
    """`told[i]` is of prompt token i + 1: a chunk that comes again overwrites its own."""

    prompt_ids: tuple[int, ...]
    top_count: int
    told: dict[int, Told]


@dataclass(frozen=True, slots=True)
class WantedPositions:
    """Packed indices whose logits tell of the prompt's next token, with whose they are."""

    packed: list[int]
    slots: list[int]
    positions: list[int]


class PromptScorer:
    def __init__(self) -> None:
        self._scores: dict[int, PromptScore] = {}

    def open(self, slot: int, generation: Generation) -> None:
        """Nothing is scored for a resumed answer: its reader has the prompt's logprobs already."""
        detail = generation.detail
        if detail.prompt_logprobs and not generation.resumed_ids:
            self._scores[slot] = PromptScore(generation.prompt_ids, detail.top_logprob_count, {})

    def close(self, slot: int) -> None:
        self._scores.pop(slot, None)

    def wanted(self, rows: Sequence[Row], row_ends: Sequence[int]) -> WantedPositions:
        found = WantedPositions([], [], [])
        if self._scores:
            for row, end in zip(rows, row_ends, strict=True):
                score = self._scores.get(row.slot)
                if score is not None:
                    last = min(row.start + len(row.token_ids), len(score.prompt_ids) - 1)
                    positions = range(row.start, last)
                    first = end - len(row.token_ids)
                    found.packed.extend(range(first, first + len(positions)))
                    found.slots.extend([row.slot] * len(positions))
                    found.positions.extend(positions)
        return found

    def note(self, wanted: WantedPositions, logits: torch.Tensor) -> None:
        """`logits` `(wanted, vocabulary)`."""
        if not wanted.packed:
            return
        where = list(zip(wanted.slots, wanted.positions, strict=True))
        targets = [self._scores[slot].prompt_ids[position + 1] for slot, position in where]
        counts = [self._scores[slot].top_count for slot in wanted.slots]
        told = logprobs_of(logits, sent(np.array(targets, dtype=np.int64), logits.device), counts)
        for (slot, position), each in zip(where, told, strict=True):
            self._scores[slot].told[position] = each

    def result(self, slot: int) -> tuple[Told, ...]:
        """What is known of the whole prompt, in order; empty where nobody asked."""
        score = self._scores.get(slot)
        return () if score is None else tuple(score.told[position] for position in sorted(score.told))
