"""The next token of each row."""

from collections.abc import Sequence

import torch

from inference_svc.engine.runner import Row, SampledToken
from inference_svc.requests import Generation


class Sampler:
    def __init__(self, slot_count: int, vocabulary_size: int, device: torch.device) -> None:
        pass

    def open(self, slot: int, generation: Generation) -> None:
        pass

    def close(self, slot: int) -> None:
        pass

    def sample(self, logits: torch.Tensor, rows: Sequence[Row]) -> list[SampledToken]:
        best, tokens = logits.max(-1)
        finite = (~best.isnan()).tolist()
        return [SampledToken(token, ok) for token, ok in zip(tokens.tolist(), finite, strict=True)]
