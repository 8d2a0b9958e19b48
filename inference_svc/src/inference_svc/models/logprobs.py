"""What is told about chosen tokens: their probability, and who else was likely."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from inference_svc.engine.runner import SampledToken
from inference_svc.models.transfer import sent

Told = tuple[float, tuple[tuple[int, float], ...]]
"""A token's logprob, and the likeliest `(token id, logprob)`, best first."""

_ROWS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class ReadTokens:
    """By row, on the host."""

    token_ids: list[int]
    finite: list[bool]
    settled: np.ndarray  # bool


def read_tokens(token_ids: torch.Tensor, finite: torch.Tensor, settled: torch.Tensor | None = None) -> ReadTokens:
    """One copy from the device, and so the moment at which the host waits for it."""
    if token_ids.device.type == "cpu":
        known = np.ones(len(token_ids), dtype=np.bool_) if settled is None else settled.numpy()
        return ReadTokens(token_ids.tolist(), finite.tolist(), known)
    flags = finite.long() if settled is None else finite.long() + 2 * settled
    read = torch.stack([token_ids, flags]).cpu().numpy()
    known = np.ones(len(token_ids), dtype=np.bool_) if settled is None else read[1] >= 2
    return ReadTokens(read[0].tolist(), (read[1] % 2 == 1).tolist(), known)


def describe(
    logits: torch.Tensor, token_ids: torch.Tensor, read: ReadTokens, top_counts: np.ndarray
) -> list[SampledToken]:
    """Rows of `logits` `(rows, vocabulary)` and the tokens taken from them; `top_counts` below 0 asks for nothing."""
    told: dict[int, Told] = {}
    asked = np.flatnonzero(top_counts >= 0)
    if len(asked):
        index = sent(asked, logits.device)
        told = dict(
            zip(asked.tolist(), logprobs_of(logits[index], token_ids[index], top_counts[asked].tolist()), strict=True)
        )
    return [
        SampledToken(token_id, ok, *told.get(row, (0.0, ())))
        for row, (token_id, ok) in enumerate(zip(read.token_ids, read.finite, strict=True))
    ]


def logprobs_of(logits: torch.Tensor, token_ids: torch.Tensor, top_counts: Sequence[int]) -> list[Told]:
    """Natural logarithms, by row. A few rows at a time: a long prompt times a large vocabulary is a lot of memory."""
    told: list[Told] = []
    for start in range(0, len(token_ids), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        told += _logprobs_of(logits[part], token_ids[part], top_counts[part])
    return told


def _logprobs_of(logits: torch.Tensor, token_ids: torch.Tensor, top_counts: Sequence[int]) -> list[Told]:
    logprobs = torch.log_softmax(logits, -1)
    own = logprobs.gather(1, token_ids[:, None])[:, 0].tolist()
    most = min(int(max(top_counts)), logits.shape[1])
    if most == 0:
        return [(value, ()) for value in own]
    values, indices = logprobs.topk(most)
    pairs = zip(indices.tolist(), values.tolist(), strict=True)
    best = [tuple(zip(ids, each, strict=True)) for ids, each in pairs]
    return [(value, top[:count]) for value, top, count in zip(own, best, top_counts, strict=True)]
