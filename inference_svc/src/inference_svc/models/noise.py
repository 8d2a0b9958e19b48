"""Randomness without a generator: a number for every (seed, output position, token id).

A draw is then a pure function of the request: it does not depend on who else is in the batch, on preemption, or on the
replica that goes on with the answer. The mixing steps are those of SplitMix64 (Steele, Lea, Flood 2014) for the key of
a draw and of MurmurHash3's 32-bit finalizer for its tokens.
"""

import numpy as np
import numpy.typing as npt
import torch

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SMALLEST_DOUBT = 1.0 - 2.0**-24  # the largest float32 below one


def draw_keys(seeds: npt.NDArray[np.uint64], positions: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
    """One key a draw, `(draws, 2)`."""
    with np.errstate(over="ignore"):
        mixed = _mix(_mix(seeds + _GOLDEN) + _GOLDEN * (positions + np.uint64(1)))
    return mixed.view(np.int32).reshape(-1, 2)


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def exponential(keys: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Exponentially distributed float32 of rate one, `(draws, tokens)`.

    `keys` is `(draws, 2) int32`, `token_ids` `(draws or 1, tokens) int32`. The largest of p / E over tokens is a draw
    from p: the Gumbel-max trick with one logarithm less.
    """
    word = token_ids * _signed(0x9E3779B1) + keys[:, :1]
    word ^= _shifted(word, 16)
    word *= _signed(0x85EBCA6B)
    word ^= keys[:, 1:]
    word ^= _shifted(word, 13)
    word *= _signed(0xC2B2AE35)
    word ^= _shifted(word, 16)
    # 31 bits, scaled so that small numbers, which decide, keep their precision.
    share = (word & 0x7FFFFFFF).to(torch.float32).add_(0.5).mul_(2.0**-31).clamp_(max=_SMALLEST_DOUBT)
    return share.neg_().log1p_().neg_()


def _shifted(word: torch.Tensor, by: int) -> torch.Tensor:
    """Right shift without sign."""
    return (word >> by) & ((1 << (32 - by)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 32) if word >= 1 << 31 else word
