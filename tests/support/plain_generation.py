"""What transformers' own `generate` answers alone, greedy or drawn by the rules that the sampler documents.

The rules are written here a second time, one row at a time in float64, from their description in `models.sampling`,
`models.drawing` and `models.noise`: nothing of theirs is used.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from inference_svc.requests import Generation
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

Floats = npt.NDArray[np.float64]

_WORD = 0xFFFFFFFF
_LONG = 0xFFFFFFFFFFFFFFFF
_WOBBLE = 1e-4  # what rounding may make of a logit


@dataclass(slots=True, eq=False)
class PlainAnswer:
    """`logits[i]` are the model's own where output token i was chosen, `(vocabulary,)`."""

    asked: Generation
    output_ids: list[int] = field(default_factory=list)
    logits: list[Floats] = field(default_factory=list)

    def is_near_tie(self, index: int) -> bool:
        """Whether rounding could have chosen another output token `index`."""
        noise = np.random.default_rng(index)
        before = self.output_ids[:index]
        return any(
            choose(self.logits[index] + noise.uniform(-_WOBBLE, _WOBBLE, len(self.logits[index])), self.asked, before)
            != self.output_ids[index]
            for _ in range(32)
        )


class _Choosing(LogitsProcessor):
    """Leaves `generate` only the token that the rules choose, and remembers the logits that it chose from."""

    def __init__(self, answer: PlainAnswer) -> None:
        self._answer = answer

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        logits = scores[0].double().numpy()
        self._answer.logits.append(logits)
        if self._answer.asked.sampling.temperature == 0:
            return scores
        output_ids = input_ids[0, len(self._answer.asked.prompt_ids) :].tolist()
        only = torch.full_like(scores, -torch.inf)
        only[0, choose(logits, self._answer.asked, output_ids)] = 0.0
        return only


def plain_answer(model: PreTrainedModel, asked: Generation) -> PlainAnswer:
    """`asked` without end tokens; greedy where it has no temperature, and then without penalties and bias."""
    answer = PlainAnswer(asked)
    ids = torch.tensor([asked.prompt_ids])
    with torch.inference_mode():
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=asked.max_output_tokens,
            do_sample=False,
            logits_processor=LogitsProcessorList([_Choosing(answer)]),
        )
    answer.output_ids = made[0, ids.shape[1] :].tolist()
    return answer


def choose(logits: Floats, asked: Generation, output_ids: list[int]) -> int:
    """The next token behind `output_ids`, by the documented rules in their documented order."""
    sampling = asked.sampling
    changed = logits.copy()
    for token, bias in sampling.logit_bias.items():
        changed[token] += bias
    if len(output_ids) < asked.min_output_tokens:
        changed[list(asked.end_token_ids)] = -math.inf
    for token in {*asked.prompt_ids, *output_ids}:
        worth = changed[token]
        changed[token] = worth / sampling.repetition_penalty if worth > 0 else worth * sampling.repetition_penalty
    for token in set(output_ids):
        changed[token] -= sampling.presence_penalty + sampling.frequency_penalty * output_ids.count(token)
    if sampling.temperature == 0:
        return int(changed.argmax())
    weights = np.exp((changed - changed.max()) / sampling.temperature)
    weights[~_left(weights, sampling.top_k, sampling.top_p, sampling.min_p)] = 0.0
    return int((weights / _exponential(sampling.seed or 0, len(output_ids), len(weights))).argmax())


def _left(weights: Floats, top_k: int, top_p: float, min_p: float) -> npt.NDArray[np.bool_]:
    """`weights` in units of the largest."""
    left = weights >= min_p
    if 0 < top_k < len(weights):
        left &= weights >= np.sort(np.where(left, weights, 0.0))[-top_k]
    if top_p < 1:
        order = np.argsort(np.where(left, -weights, 0.0), kind="stable")
        mass = np.where(left, weights, 0.0)[order]
        inside = mass.cumsum() - mass < top_p * mass.sum()
        left &= weights >= mass[inside].min()
    return left


def _exponential(seed: int, position: int, count: int) -> Floats:
    """One number for each of `count` tokens."""
    key = _mixed((_mixed((seed + 0x9E3779B97F4A7C15) & _LONG) + 0x9E3779B97F4A7C15 * (position + 1)) & _LONG)
    low, high = np.uint64(key & _WORD), np.uint64(key >> 32)
    word = (np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B1) + low) & np.uint64(_WORD)
    word ^= word >> np.uint64(16)
    word = (word * np.uint64(0x85EBCA6B)) & np.uint64(_WORD)
    word ^= high
    word ^= word >> np.uint64(13)
    word = (word * np.uint64(0xC2B2AE35)) & np.uint64(_WORD)
    word ^= word >> np.uint64(16)
    share = ((word & np.uint64(0x7FFFFFFF)).astype(np.float64) + 0.5) / 2**31
    return -np.log1p(-share)


def _mixed(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _LONG
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _LONG
    return value ^ (value >> 31)
