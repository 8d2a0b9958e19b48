"""Draw one token a row from what temperature, min-p, top-k and top-p leave of its distribution.

In this order: temperature, min-p, top-k, top-p, each on what the one before left, its mass counted anew (as vLLM does).
Whether a token is left depends on its probability alone: of equals at the edge all stay or none.
"""

from dataclasses import dataclass

import torch

from inference_svc.models.noise import exponential

_FIRST_CANDIDATES = 64
_MORE_CANDIDATES = 16


@dataclass(frozen=True, slots=True)
class DrawSettings:
    """By row, `(rows,)`: temperature is over 0; top_k 0, top_p 1 and min_p 0 leave all. `keys` is `(rows, 2)`."""

    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    keys: torch.Tensor

    def of(self, rows: torch.Tensor) -> "DrawSettings":
        return DrawSettings(
            self.temperature[rows], self.top_k[rows], self.top_p[rows], self.min_p[rows], self.keys[rows]
        )


@dataclass(frozen=True, slots=True)
class Survivors:
    """`token_ids` and `kept` are `(rows, candidates)`; a row is `settled` if no token beyond its candidates is left."""

    token_ids: torch.Tensor
    kept: torch.Tensor
    settled: torch.Tensor


def draw(logits: torch.Tensor, settings: DrawSettings) -> torch.Tensor:
    """`logits` `(rows, vocabulary) float32`, changed in place; gives token ids `(rows,)`."""
    scaled = logits.sub_(logits.amax(-1, keepdim=True)).div_(settings.temperature[:, None])
    probabilities = torch.softmax(scaled, -1)
    limited = (settings.top_k > 0) | (settings.top_p < 1) | (settings.min_p > 0)
    token_ids = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    for rows, is_limited in ((limited.nonzero()[:, 0], True), ((~limited).nonzero()[:, 0], False)):
        if len(rows) == len(logits):
            return _draw_limited(scaled, probabilities, settings) if is_limited else _draw_any(probabilities, settings)
        if len(rows) and is_limited:
            token_ids[rows] = _draw_limited(scaled[rows], probabilities[rows], settings.of(rows))
        elif len(rows):
            token_ids[rows] = _draw_any(probabilities[rows], settings.of(rows))
    return token_ids


def _draw_any(probabilities: torch.Tensor, settings: DrawSettings) -> torch.Tensor:
    every = torch.arange(probabilities.shape[1], dtype=torch.int32, device=probabilities.device)[None]
    return (probabilities / exponential(settings.keys, every)).argmax(-1)


def _draw_limited(scaled: torch.Tensor, probabilities: torch.Tensor, settings: DrawSettings) -> torch.Tensor:
    vocabulary = scaled.shape[1]
    count = min(vocabulary, max(_FIRST_CANDIDATES, int(settings.top_k.clamp(max=vocabulary).max()) + 1))
    left = survivors(scaled, probabilities, settings, count)
    token_ids = _draw_of(left, probabilities, settings)
    rows = (~left.settled).nonzero()[:, 0]
    while len(rows):
        count = min(vocabulary, count * _MORE_CANDIDATES)
        part = settings.of(rows)
        left = survivors(scaled[rows], probabilities[rows], part, count)
        token_ids[rows] = _draw_of(left, probabilities[rows], part)
        rows = rows[~left.settled]
    return token_ids


def _draw_of(left: Survivors, probabilities: torch.Tensor, settings: DrawSettings) -> torch.Tensor:
    noise = exponential(settings.keys, left.token_ids.to(torch.int32))
    scores = (probabilities.gather(1, left.token_ids) / noise).masked_fill_(~left.kept, -1.0)
    return left.token_ids.gather(1, scores.argmax(-1, keepdim=True))[:, 0]


def survivors(scaled: torch.Tensor, probabilities: torch.Tensor, settings: DrawSettings, count: int) -> Survivors:
    """What is left among the `count` likeliest tokens. `scaled` is zero at a row's likeliest token."""
    vocabulary = scaled.shape[1]
    values, token_ids = scaled.topk(count)
    mass = probabilities.gather(1, token_ids).double()
    least = settings.min_p.log()[:, None]
    has_k = (settings.top_k > 0)[:, None]
    last_rank = (settings.top_k.clamp(1, count) - 1)[:, None]
    least = torch.where(has_k, torch.maximum(least, values.gather(1, last_rank)), least)
    kept = values >= least
    running = (mass * kept).cumsum(1)
    # Without min-p and top-k the whole mass is one, and its tail need not be seen.
    total = torch.where(least == -torch.inf, torch.ones_like(running[:, -1:]), running[:, -1:])
    in_p = (running - mass < settings.top_p[:, None] * total) | (settings.top_p >= 1)[:, None]
    in_p[:, 0] = True
    edge = torch.where(kept & in_p, values, torch.inf).amin(1, keepdim=True)
    if count == vocabulary:
        settled = torch.ones_like(has_k[:, 0])
    else:
        settled = values[:, -1] < torch.where(least == -torch.inf, edge, least)[:, 0]
    return Survivors(token_ids, values >= edge, settled)
