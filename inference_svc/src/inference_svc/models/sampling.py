"""The next token of each row: a pure function of its logits, its request's settings, its seed and its output position.

In this order: what the answer's format forbids is taken out, logit bias, end tokens held back until the smallest
length, penalties, then temperature, min-p, top-k and top-p as `drawing` has them. At temperature 0 the likeliest token
is taken. Logprobs are of the model's own distribution, before any of that.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from inference_svc.engine.runner import Row, SampledToken
from inference_svc.models.drawing import Draw, DrawSettings, begin_draw
from inference_svc.models.format_masks import FormatMasks
from inference_svc.models.likeliest import likeliest
from inference_svc.models.logprobs import ReadTokens, describe, read_tokens
from inference_svc.models.noise import draw_keys
from inference_svc.models.penalties import Penalties, is_penalised
from inference_svc.models.transfer import sent
from inference_svc.requests import Generation


@dataclass(frozen=True, slots=True)
class SlotTokens:
    """Tokens that a request names, on the device: those it biases, by how much, and those that end it."""

    biased: torch.Tensor
    bias: torch.Tensor
    ends: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Chosen:
    """`draw` is of the rows `drawn` among those that were chosen from."""

    token_ids: torch.Tensor
    drawn: np.ndarray
    draw: Draw | None


class Sampler:
    """Settings of every slot, in arrays filled when a sequence opens; a step takes its rows of them."""

    def __init__(self, slot_count: int, device: torch.device) -> None:
        self._device = device
        self._penalties = Penalties(device)
        self._formats = FormatMasks(slot_count, device)
        self._named: dict[int, SlotTokens] = {}
        self._temperature = np.zeros(slot_count, dtype=np.float32)
        self._top_k = np.zeros(slot_count, dtype=np.int64)
        self._top_p = np.ones(slot_count, dtype=np.float32)
        self._min_p = np.zeros(slot_count, dtype=np.float32)
        self._seed = np.zeros(slot_count, dtype=np.uint64)
        self._min_outputs = np.zeros(slot_count, dtype=np.int64)
        self._is_biased = np.zeros(slot_count, dtype=np.bool_)
        self._is_penalised = np.zeros(slot_count, dtype=np.bool_)
        self._top_logprobs = np.full(
            slot_count, -1, dtype=np.int64
        )  # below 0: none asked for, not even the token's own

    def open(self, slot: int, generation: Generation) -> None:
        sampling, detail = generation.sampling, generation.detail
        self._temperature[slot] = sampling.temperature
        self._top_k[slot] = sampling.top_k
        self._top_p[slot] = sampling.top_p
        self._min_p[slot] = sampling.min_p
        self._seed[slot] = (sampling.seed or 0) % 2**64
        self._min_outputs[slot] = generation.min_output_tokens
        self._is_biased[slot] = bool(sampling.logit_bias)
        self._is_penalised[slot] = is_penalised(sampling)
        self._top_logprobs[slot] = detail.top_logprob_count if detail.logprobs else -1
        self._named[slot] = self._slot_tokens(generation)
        if self._is_penalised[slot]:
            self._penalties.open(slot, generation)
        self._formats.open(slot, generation)

    def close(self, slot: int) -> None:
        self._penalties.close(slot)
        self._formats.close(slot)
        self._named.pop(slot, None)

    def note_fed(self, rows: Sequence[Row]) -> None:
        """Rows, sampling or not, are computed: penalties count the answer's tokens among theirs."""
        self._penalties.note_fed(rows)

    def sample(self, logits: torch.Tensor, rows: Sequence[Row]) -> list[SampledToken]:
        """`logits` `(rows, vocabulary) float32`."""
        slots = np.array([row.slot for row in rows])
        positions = np.array([row.output_index for row in rows])
        best, token_ids = likeliest(logits)
        finite = best.isfinite()
        changed = (self._temperature[slots] > 0) | (positions < self._min_outputs[slots])
        changed |= self._is_biased[slots] | self._is_penalised[slots] | self._formats.concern(slots)
        which = np.flatnonzero(changed)
        chosen = self._choose(logits, finite, which, slots[which], positions[which]) if len(which) else None
        if chosen is not None:
            token_ids = token_ids.clone().index_copy_(0, self._tensor(which), chosen.token_ids)
        token_ids, read = self._read(token_ids, finite, which, chosen)
        return self._formats.note_drawn(rows, describe(logits, token_ids, read, self._top_logprobs[slots]))

    def _read(
        self, token_ids: torch.Tensor, finite: torch.Tensor, which: np.ndarray, chosen: _Chosen | None
    ) -> tuple[torch.Tensor, ReadTokens]:
        """What the host must know of a step, in one copy; in a second one if draws could not be settled without it."""
        if chosen is None or chosen.draw is None:
            return token_ids, read_tokens(token_ids, finite)
        settled = torch.ones_like(finite)
        settled[self._tensor(which[chosen.drawn])] = chosen.draw.settled
        read = read_tokens(token_ids, finite, settled)
        if read.settled.all():
            return token_ids, read
        drawn = chosen.draw.finish(read.settled[which[chosen.drawn]])
        token_ids[self._tensor(which[chosen.drawn])] = drawn
        return token_ids, read_tokens(token_ids, finite)

    def _choose(
        self, logits: torch.Tensor, finite: torch.Tensor, which: np.ndarray, slots: np.ndarray, positions: np.ndarray
    ) -> _Chosen:
        """From these rows, whose slots and positions they are."""
        logits = logits[self._tensor(which)]
        if logits.device.type != "cpu" or not finite.all():  # elsewhere it costs less than to look
            logits.nan_to_num_(nan=0.0, neginf=-torch.inf)
        may_go_on = self._formats.apply(logits, slots, positions)
        self._add_bias(logits, slots)
        self._hold_ends_back(logits, slots, may_go_on & (positions < self._min_outputs[slots]))
        penalised = np.flatnonzero(self._is_penalised[slots])
        if len(penalised):
            self._penalties.apply(logits, penalised.tolist(), slots[penalised].tolist())
        token_ids = likeliest(logits)[1]
        drawn = np.flatnonzero(self._temperature[slots] > 0)
        if not len(drawn):
            return _Chosen(token_ids, drawn, None)
        index = self._tensor(drawn)
        draw = begin_draw(logits[index], self._draw_settings(slots[drawn], positions[drawn]))
        token_ids[index] = draw.token_ids
        return _Chosen(token_ids, drawn, draw)

    def _draw_settings(self, slots: np.ndarray, positions: np.ndarray) -> DrawSettings:
        keys = draw_keys(self._seed[slots], positions.astype(np.uint64))
        return DrawSettings(self._temperature[slots], self._top_k[slots], self._top_p[slots], self._min_p[slots], keys)

    def _add_bias(self, logits: torch.Tensor, slots: np.ndarray) -> None:
        biased = np.flatnonzero(self._is_biased[slots])
        if len(biased):
            named = [self._named[slot] for slot in slots[biased]]
            index = self._row_index(biased, [len(each.biased) for each in named])
            where = (index, torch.cat([each.biased for each in named]))
            logits.index_put_(where, torch.cat([each.bias for each in named]), accumulate=True)

    def _hold_ends_back(self, logits: torch.Tensor, slots: np.ndarray, is_early: np.ndarray) -> None:
        early = np.flatnonzero(is_early)
        if len(early):
            named = [self._named[slot] for slot in slots[early]]
            index = self._row_index(early, [len(each.ends) for each in named])
            logits[index, torch.cat([each.ends for each in named])] = -torch.inf

    def _row_index(self, rows: np.ndarray, counts: list[int]) -> torch.Tensor:
        return self._tensor(np.repeat(rows, counts))

    def _slot_tokens(self, generation: Generation) -> SlotTokens:
        bias = generation.sampling.logit_bias
        return SlotTokens(
            self._tensor(np.array(list(bias.keys()), dtype=np.int64)),
            self._tensor(np.array(list(bias.values()), dtype=np.float32)),
            self._tensor(np.array(sorted(generation.end_token_ids), dtype=np.int64)),
        )

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return sent(array, self._device)
