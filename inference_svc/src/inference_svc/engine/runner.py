"""What the engine asks of whatever computes. The model rooms implement these with torch, tests without.

Every method but the properties is called on the engine's one model thread. A runner keeps no queue and decides nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from inference_svc.requests import EncodedInput, Generation


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence's part of a packed step.

    `slot` names the sequence's cache; `start` is the position of the first of `token_ids`, whose keys and values the
    step writes behind the `start` positions already there. When `samples`, the last token's logits give the next token,
    which is output number `output_index` (0 for the first; resumed ids counted).
    """

    slot: int
    start: int
    token_ids: Sequence[int]
    samples: bool
    output_index: int


@dataclass(frozen=True, slots=True)
class SampledToken:
    """What a sampling row gave. `logprob`, `top` are filled where the generation asked for logprobs: natural
    logarithms of the model's own distribution, before penalties, bias, temperature and truncation.
    `prompt_logprobs[i]` tells of prompt token i + 1; only with a first token and where asked for.
    With a format: `completes` says that nothing can follow this token; `fault` is why the sequence must fail, no token
    being allowed."""

    token_id: int
    finite: bool = True  # False: the logits held NaN, the sequence must fail
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()  # (token id, logprob), best first
    prompt_logprobs: tuple[tuple[float, tuple[tuple[int, float], ...]], ...] = ()
    completes: bool = False
    fault: str = ""


class GenerationRunner(Protocol):
    """A causal language model with a cache of `slot_count` sequences of up to `max_context_tokens` each."""

    @property
    def slot_count(self) -> int: ...

    @property
    def max_context_tokens(self) -> int: ...

    def open(self, slot: int, generation: Generation) -> int | None:
        """Take a free slot for a sequence: its sampling settings and the ids that penalties look at are known from
        here on. Raises for a generation that this runner cannot serve; the slot is then free.

        A sequence that was put off comes back with the tokens it has generated so far among its `resumed_ids`.
        Returns how many leading tokens of prompt and resumed ids the slot holds already (a prefix cache), fewer than
        there are; None or 0 where there are none."""

    def look_again(self, slot: int) -> int:
        """How many leading tokens the slot holds by now: more than were computed in it where another sequence has
        computed the same beginning since it was opened. Asked between steps while more than one is to be computed;
        fewer than there are."""

    def step(self, rows: Sequence[Row]) -> list[SampledToken | None]:
        """Compute all rows in one packed forward; one entry a row, None where the row does not sample.

        Raises OutOfDeviceMemory when the step was too big, DeviceLost when no step will succeed again, any other
        exception when it failed otherwise. A step that raises has changed nothing that the same rows would not write
        again: they may come again, in smaller steps."""

    def close(self, slot: int) -> None:
        """The sequence is over or put off; its slot is free. Frees nothing else."""


@runtime_checkable
class SharedCache(Protocol):
    """What a GenerationRunner also has when its slots share one cache smaller than all of them full."""

    @property
    def cache_token_count(self) -> int:
        """Tokens that all slots together can hold."""
        ...


class Sharing(Protocol):
    """Facts of a cache whose blocks may have several holders; they are true while every slot that was left is closed
    and nothing was opened since."""

    @property
    def tokens_held_again(self) -> int:
        """Tokens of blocks, once for each holder after the first."""
        ...

    def tokens_held_with_others(self, slot: int) -> int:
        """Tokens of blocks that stay held when this slot is closed."""
        ...

    def tokens_to_share(self, generation: Generation) -> int:
        """Tokens of held blocks that a slot would hold too if it were opened for this now."""
        ...


@runtime_checkable
class BlockCache(SharedCache, Sharing, Protocol):
    """What a SharedCache also has when it is given out in blocks, which sequences may hold together."""

    @property
    def cache_block_tokens(self) -> int:
        """`cache_token_count` is a multiple of it."""
        ...


class EncoderRunner(Protocol):
    """An encoder: embeds or scores whole inputs, packed."""

    def encode(self, inputs: Sequence[EncodedInput]) -> npt.NDArray[np.float32]:
        """One packed pass. Returns float32 `(inputs, dimension)` pooled vectors, not normalised, or `(inputs, labels)`
        logits. Raises as GenerationRunner.step does."""


class TextDecoder(Protocol):
    """The part of a tokenizer that the engine needs."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of the ids, special tokens skipped; an unfinished character at either end shows as U+FFFD."""

    def token_text(self, token_id: int) -> str:
        """One token's own text, special tokens shown, for logprobs."""


class OutOfDeviceMemory(Exception):
    """A step needed more memory than the device has left."""


class DeviceLost(Exception):
    """The device, or this process's hold on it, is gone: every later step would fail too."""
