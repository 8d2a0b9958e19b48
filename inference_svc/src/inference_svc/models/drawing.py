"""Draw one token a row from what temperature, min-p, top-k and top-p leave of its distribution.

In this order: temperature, min-p, top-k, top-p, each on what the one before left, its mass counted anew (as vLLM does).
Whether a token is left depends on its probability alone: of equals at the edge all stay or none.
"""

from dataclasses import dataclass

import numpy as np
import torch

from inference_svc.models.likeliest import likeliest, top
from inference_svc.models.noise import exponential
from inference_svc.models.transfer import sent

_FIRST_CANDIDATES = 64


@dataclass(frozen=True, slots=True)
class DrawSettings:
    """By row, `(rows,)`, on the host: temperature is over 0; top_k 0, top_p 1 and min_p 0 leave all. `keys` is
    `(rows, 2)`."""

    temperature: np.ndarray  # float32
    top_k: np.ndarray  # int64
    top_p: np.ndarray  # float32
    min_p: np.ndarray  # float32
    keys: np.ndarray  # int32

    def of(self, rows: np.ndarray) -> "DrawSettings":
        return DrawSettings(
            self.temperature[rows], self.top_k[rows], self.top_p[rows], self.min_p[rows], self.keys[rows]
        )

    def on(self, device: torch.device) -> "DeviceSettings":
        arrays = (self.temperature, self.top_k, self.top_p, self.min_p, self.keys)
        return DeviceSettings(*(sent(array, device) for array in arrays))


@dataclass(frozen=True, slots=True)
class DeviceSettings:
    """The same where the logits are."""

    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    keys: torch.Tensor

    def of(self, rows: torch.Tensor) -> "DeviceSettings":
        return DeviceSettings(
            self.temperature[rows], self.top_k[rows], self.top_p[rows], self.min_p[rows], self.keys[rows]
        )


@dataclass(slots=True)
class Draw:
    """`token_ids` `(rows,)` are drawn where `settled` `(rows,) bool` says so, both on the device. Where not, `finish`
    draws: that takes looks at the device, and is needed rarely."""

    token_ids: torch.Tensor
    settled: torch.Tensor
    _left: "_Undecided | None" = None

    def finish(self, settled: np.ndarray) -> torch.Tensor:
        """`settled` as it was read on the host. Gives the token ids of all rows."""
        if self._left is not None:
            rows = np.flatnonzero(~settled[self._left.rows])
            if len(rows):
                index = sent(self._left.rows[rows], self.token_ids.device)
                self.token_ids[index] = self._left.draw(rows)
        return self.token_ids


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


@dataclass(frozen=True, slots=True)
class _Undecided:
    """Limited rows, at `rows` of all: what is known of them when the likeliest tokens alone were looked at."""

    rows: np.ndarray
    scaled: torch.Tensor
    left: Survivors
    settings: DrawSettings

    def draw(self, which: np.ndarray) -> torch.Tensor:
        """Of these among them."""
        index = sent(which, self.scaled.device)
        left = self.left
        return _draw_by_rejection(self.scaled[index], left.least[index], left.total[index], self.settings.of(which))


def draw(logits: torch.Tensor, settings: DrawSettings) -> torch.Tensor:
    """`logits` `(rows, vocabulary) float32`, changed in place; gives token ids `(rows,)`."""
    begun = begin_draw(logits, settings)
    return begun.finish(begun.settled.cpu().numpy())


def begin_draw(logits: torch.Tensor, settings: DrawSettings) -> Draw:
    """As `draw`, with nothing read from the device. `logits` must stay as they are until the draw is finished."""
    here = settings.on(logits.device)
    scaled = logits.sub_(logits.amax(-1, keepdim=True)).div_(here.temperature[:, None])
    limited = (settings.top_k > 0) | (settings.top_p < 1) | (settings.min_p > 0)
    if not limited.any():
        return Draw(_draw_any(scaled, here), torch.ones_like(here.top_k, dtype=torch.bool))
    if limited.all():
        rows = np.arange(len(limited))
        token_ids, left = _draw_limited(scaled, settings, here)
        return Draw(token_ids, left.settled, _Undecided(rows, scaled, left, settings))
    token_ids, settled = torch.empty_like(here.top_k), torch.ones_like(here.top_k, dtype=torch.bool)
    free = sent(np.flatnonzero(~limited), logits.device)
    token_ids[free] = _draw_any(scaled[free], here.of(free))
    rows = np.flatnonzero(limited)
    index = sent(rows, logits.device)
    some, of_rows = scaled[index], settings.of(rows)
    token_ids[index], left = _draw_limited(some, of_rows, here.of(index))
    settled[index] = left.settled
    return Draw(token_ids, settled, _Undecided(rows, some, left, of_rows))


def _draw_any(scaled: torch.Tensor, settings: DeviceSettings) -> torch.Tensor:
    return likeliest(_scores(scaled, settings))[1]


def _scores(scaled: torch.Tensor, settings: DeviceSettings) -> torch.Tensor:
    every = torch.arange(scaled.shape[1], dtype=torch.int32, device=scaled.device)[None]
    return scaled.exp().div_(exponential(settings.keys, every))


def _draw_limited(scaled: torch.Tensor, settings: DrawSettings, here: DeviceSettings) -> tuple[torch.Tensor, Survivors]:
    vocabulary = scaled.shape[1]
    count = min(vocabulary, max(_FIRST_CANDIDATES, int(settings.top_k.clip(max=vocabulary).max()) + 1))
    left = survivors(scaled, settings, count, here)
    noise = exponential(here.keys, left.token_ids.to(torch.int32))
    scores = (left.weights / noise).masked_fill_(~left.kept, -1.0)
    return left.token_ids.gather(1, scores.argmax(-1, keepdim=True))[:, 0], left


def survivors(
    scaled: torch.Tensor, settings: DrawSettings, count: int, here: DeviceSettings | None = None
) -> Survivors:
    """What is left among the `count` likeliest tokens, more than any top_k. `scaled` is zero at a row's likeliest;
    `here` are the same settings on its device, where they are there already."""
    here = here or settings.on(scaled.device)
    values, token_ids = top(scaled, count)
    least = here.min_p.log()[:, None]
    is_bounded = bool((settings.min_p > 0).any() or (settings.top_k > 0).any())
    last_rank = (here.top_k.clamp(1, count) - 1)[:, None]
    by_rank = torch.maximum(least, values.gather(1, last_rank))
    least = torch.where((here.top_k > 0)[:, None], by_rank, least)
    has_top_p = bool((settings.top_p < 1).any())
    total = _mass(scaled, least, is_bounded) if has_top_p else torch.ones_like(least, dtype=torch.float64)
    weights = values.exp()
    mass = weights.double()
    before = mass.cumsum(1) - mass
    in_p = (before < here.top_p[:, None] * total) | (here.top_p >= 1)[:, None]
    in_p[:, 0] = True
    edge = values.masked_fill(~(in_p & (values >= least)), torch.inf).amin(1, keepdim=True)
    settled = (
        (values[:, -1:] < edge) | (values[:, -1:] == -torch.inf)
        if count < scaled.shape[1]
        else torch.ones_like(edge, dtype=torch.bool)
    )
    return Survivors(token_ids, weights, values >= edge, settled[:, 0], least, total)


def _mass(scaled: torch.Tensor, least: torch.Tensor, is_bounded: bool) -> torch.Tensor:
    """Of what min-p and top-k leave, in units of the likeliest token's: `(rows, 1) float64`. `is_bounded` where they
    leave anything out."""
    weights = scaled.exp()
    if is_bounded:
        weights *= scaled >= least
    return weights.sum(-1, keepdim=True, dtype=torch.float64)


def _draw_by_rejection(
    scaled: torch.Tensor, least: torch.Tensor, total: torch.Tensor, settings: DrawSettings
) -> torch.Tensor:
    """The draw when many are left: take the best score of all; if top-p leaves it out, it leaves out whatever is no
    likelier too, so take the best of the rest. Each round drops more than the mass it looked at in vain."""
    here = settings.on(scaled.device)
    scores = _scores(scaled, here).masked_fill_(scaled < least, -1.0)
    token_ids = likeliest(scores)[1]
    rows = (here.top_p < 1).nonzero()[:, 0]
    while len(rows):
        own = scaled[rows].gather(1, token_ids[rows, None])
        likelier = scaled[rows] > own
        before = (scaled[rows].exp_() * likelier).sum(-1, dtype=torch.float64)
        left_out = (before >= here.top_p[rows] * total[rows, 0]) & likelier.any(-1)
        rows = rows[left_out]
        if len(rows):
            token_ids[rows] = likeliest(scores[rows].masked_fill_(~likelier[left_out], -1.0))[1]
    return token_ids
