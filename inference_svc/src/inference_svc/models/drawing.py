"""Draw one token a row from what temperature, min-p, top-k and top-p leave of its distribution.

In this order: temperature, min-p, top-k, top-p, each on what the one before left, its mass counted anew (as vLLM does).
Whether a token is left depends on its probability alone: of equals at the edge all stay or none.
"""

from dataclasses import dataclass

import torch

from inference_svc.models.likeliest import likeliest, top
from inference_svc.models.noise import exponential

_FIRST_CANDIDATES = 64


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
    """What is left among each row's likeliest tokens.

    `token_ids`, `weights` and `kept` are `(rows, candidates)`; weights are probabilities in units of the likeliest
    token's. A row is `settled` if no token beyond its candidates is left.
    `least` is the smallest scaled logit that min-p and top-k leave, `total` the mass that they leave; `(rows, 1)`.
    """

    token_ids: torch.Tensor
    weights: torch.Tensor
    kept: torch.Tensor
    settled: torch.Tensor
    least: torch.Tensor
    total: torch.Tensor


def draw(logits: torch.Tensor, settings: DrawSettings) -> torch.Tensor:
    """`logits` `(rows, vocabulary) float32`, changed in place; gives token ids `(rows,)`."""
    scaled = logits.sub_(logits.amax(-1, keepdim=True)).div_(settings.temperature[:, None])
    limited = (settings.top_k > 0) | (settings.top_p < 1) | (settings.min_p > 0)
    token_ids = torch.empty_like(settings.top_k)
    for rows, draw_rows in ((limited.nonzero()[:, 0], _draw_limited), ((~limited).nonzero()[:, 0], _draw_any)):
        if len(rows) == len(scaled):
            return draw_rows(scaled, settings)
        if len(rows):
            token_ids[rows] = draw_rows(scaled[rows], settings.of(rows))
    return token_ids


def _draw_any(scaled: torch.Tensor, settings: DrawSettings) -> torch.Tensor:
    return likeliest(_scores(scaled, settings))[1]


def _scores(scaled: torch.Tensor, settings: DrawSettings) -> torch.Tensor:
    every = torch.arange(scaled.shape[1], dtype=torch.int32, device=scaled.device)[None]
    return scaled.exp().div_(exponential(settings.keys, every))


def _draw_limited(scaled: torch.Tensor, settings: DrawSettings) -> torch.Tensor:
    vocabulary = scaled.shape[1]
    count = min(vocabulary, max(_FIRST_CANDIDATES, int(settings.top_k.clamp(max=vocabulary).max()) + 1))
    left = survivors(scaled, settings, count)
    noise = exponential(settings.keys, left.token_ids.to(torch.int32))
    scores = (left.weights / noise).masked_fill_(~left.kept, -1.0)
    token_ids = left.token_ids.gather(1, scores.argmax(-1, keepdim=True))[:, 0]
    rows = (~left.settled).nonzero()[:, 0]
    if len(rows):
        token_ids[rows] = _draw_by_rejection(scaled[rows], left.least[rows], left.total[rows], settings.of(rows))
    return token_ids


def survivors(scaled: torch.Tensor, settings: DrawSettings, count: int) -> Survivors:
    """What is left among the `count` likeliest tokens, more than any top_k. `scaled` is zero at a row's likeliest."""
    values, token_ids = top(scaled, count)
    least = settings.min_p.log()[:, None]
    last_rank = (settings.top_k.clamp(1, count) - 1)[:, None]
    by_rank = torch.maximum(least, values.gather(1, last_rank))
    least = torch.where((settings.top_k > 0)[:, None], by_rank, least)
    total = _mass(scaled, least) if (settings.top_p < 1).any() else torch.ones_like(least, dtype=torch.float64)
    weights = values.exp()
    mass = weights.double()
    before = mass.cumsum(1) - mass
    in_p = (before < settings.top_p[:, None] * total) | (settings.top_p >= 1)[:, None]
    in_p[:, 0] = True
    edge = values.masked_fill(~(in_p & (values >= least)), torch.inf).amin(1, keepdim=True)
    settled = (
        (values[:, -1:] < edge) | (values[:, -1:] == -torch.inf)
        if count < scaled.shape[1]
        else torch.ones_like(edge, dtype=torch.bool)
    )
    return Survivors(token_ids, weights, values >= edge, settled[:, 0], least, total)


def _mass(scaled: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    """Of what min-p and top-k leave, in units of the likeliest token's: `(rows, 1) float64`."""
    weights = scaled.exp()
    if (least > -torch.inf).any():
        weights *= scaled >= least
    return weights.sum(-1, keepdim=True, dtype=torch.float64)


def _draw_by_rejection(
    scaled: torch.Tensor, least: torch.Tensor, total: torch.Tensor, settings: DrawSettings
) -> torch.Tensor:
    """The draw when many are left: take the best score of all; if top-p leaves it out, it leaves out whatever is no
    likelier too, so take the best of the rest. Each round drops more than the mass it looked at in vain."""
    scores = _scores(scaled, settings).masked_fill_(scaled < least, -1.0)
    token_ids = likeliest(scores)[1]
    rows = (settings.top_p < 1).nonzero()[:, 0]
    while len(rows):
        own = scaled[rows].gather(1, token_ids[rows, None])
        likelier = scaled[rows] > own
        before = (scaled[rows].exp_() * likelier).sum(-1, dtype=torch.float64)
        left_out = (before >= settings.top_p[rows] * total[rows, 0]) & likelier.any(-1)
        rows = rows[left_out]
        if len(rows):
            token_ids[rows] = likeliest(scores[rows].masked_fill_(~likelier[left_out], -1.0))[1]
    return token_ids
