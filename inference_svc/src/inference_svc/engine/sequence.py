"""One generation as the scheduler holds it, and what a new token means for it."""

from collections.abc import Sequence as Many
from dataclasses import replace
from enum import Enum, auto

from inference_svc.engine.runner import SampledToken, TextDecoder
from inference_svc.engine.text_assembler import SilentTokens, TextAssembler
from inference_svc.requests import (
    Finished,
    FinishReason,
    Generation,
    PositionLogprobs,
    Timings,
    TokenLogprob,
    Tokens,
    Usage,
)


class Phase(Enum):
    """WAITING holds no slot and may get one; STALLED holds none and has no credits; PLACED holds a slot."""

    WAITING = auto()
    STALLED = auto()
    PLACED = auto()
    OVER = auto()


class Sequence:
    """`ids` are prompt, resumed and generated tokens; the cache in `slot` holds the first `cached` of them."""

    def __init__(
        self, key: int, generation: Generation, decoder: TextDecoder, silent: SilentTokens, order: int, now: float
    ) -> None:
        self.key = key
        self.generation = generation
        self.ids = [*generation.prompt_ids, *generation.resumed_ids]
        self.cached = 0
        self.slot: int | None = None
        self.phase = Phase.WAITING
        self.credits = generation.credits
        self.arrived = now
        self.first_computed: float | None = None
        self.first_token: float | None = None
        self.reused_tokens = 0
        self.placed_class = 0  # the class it had in the line when it got its slot
        self.placed_at = now
        self.placed_outputs = 0
        self.order = order  # of arrival, kept when it is put off
        self.served_step = 0  # the step that last computed something for it
        self._tells_logprobs = generation.detail.logprobs or generation.detail.prompt_logprobs
        self._decoder = decoder
        self._text = TextAssembler(decoder, silent, generation.stop_strings)

    @property
    def output_count(self) -> int:
        """Resumed ids counted."""
        return len(self.ids) - len(self.generation.prompt_ids)

    @property
    def pending(self) -> int:
        """Tokens to compute before the next one can be sampled: 1 when decoding."""
        return len(self.ids) - self.cached

    @property
    def is_decoding(self) -> bool:
        return 0 < self.cached == len(self.ids) - 1

    @property
    def has_credit(self) -> bool:
        return self.credits is None or self.credits > 0

    @property
    def deadline(self) -> float | None:
        """The next moment by which something must have come."""
        context = self.generation.context
        moments = [context.deadline]
        if self.first_token is None:
            moments.append(context.first_token_deadline)
        return min((moment for moment in moments if moment is not None), default=None)

    def generation_so_far(self) -> Generation:
        """What a runner is given when the sequence takes a slot, for the first time or again."""
        resumed = tuple(self.ids[len(self.generation.prompt_ids) :])
        if len(resumed) == len(self.generation.resumed_ids):
            return self.generation
        return replace(self.generation, resumed_ids=resumed)

    def replay_resumed(self, now: float) -> Finished | None:
        """Bring text and stop strings to where the reader is. Returns the end if the ids given are a whole answer."""
        last = len(self.generation.resumed_ids) - 1 if self.generation.resumed_is_whole else None
        for index, token_id in enumerate(self.generation.resumed_ids):
            reason, _ = self._read(token_id, index, completes=index == last)
            if reason is not None:
                return self._finished(reason, now)
        return None

    def take(self, sampled: SampledToken, now: float) -> tuple[Tokens, Finished | None]:
        """A new token: the news of it, and the end if it is the last."""
        if self.first_token is None:
            self.first_token = now
        if self.credits is not None:
            self.credits -= 1
        self.ids.append(sampled.token_id)
        reason, text = self._read(sampled.token_id, self.output_count - 1, completes=sampled.completes)
        if self._tells_logprobs:
            tokens = Tokens((sampled.token_id,), text, self._logprobs(sampled), self._prompt_logprobs(sampled))
        else:
            tokens = Tokens((sampled.token_id,), text)
        return tokens, None if reason is None else self._finished(reason, now)

    def _read(self, token_id: int, index: int, *, completes: bool) -> tuple[FinishReason | None, str]:
        """Output token number `index`: whether the answer ends with it, and the text that it makes certain. An answer
        that completes its format ends however short it is: it could not go on."""
        guarded = index < self.generation.min_output_tokens
        if token_id in self.generation.end_token_ids and not guarded:
            return self._ending(FinishReason.STOP, "", guarded)
        text = self._text.take(token_id, guarded=guarded)
        if self._text.stop_string is not None:
            return FinishReason.STOP_STRING, text
        if completes:
            return self._ending(FinishReason.STOP, text, guarded)
        if index + 1 >= self.generation.max_output_tokens:
            return self._ending(FinishReason.LENGTH, text, guarded)
        return None, text

    def _ending(self, reason: FinishReason, text: str, guarded: bool) -> tuple[FinishReason, str]:
        text += self._text.finish(guarded=guarded)
        return (reason if self._text.stop_string is None else FinishReason.STOP_STRING), text

    def _finished(self, reason: FinishReason, now: float) -> Finished:
        stop_string = self._text.stop_string if reason is FinishReason.STOP_STRING else None
        usage = Usage(
            input_token_count=len(self.generation.prompt_ids),
            output_token_count=self.output_count - len(self.generation.resumed_ids),
            cached_token_count=min(self.reused_tokens, len(self.generation.prompt_ids)),
        )
        return Finished(reason, usage, self._timings(now), stop_string or "")

    def _timings(self, now: float) -> Timings:
        started = now if self.first_computed is None else self.first_computed
        first = now if self.first_token is None else self.first_token
        return Timings(queue=started - self.arrived, prefill=first - started, decode=now - first)

    def _logprobs(self, sampled: SampledToken) -> tuple[PositionLogprobs, ...]:
        if not self.generation.detail.logprobs:
            return ()
        return (self._position(sampled.token_id, sampled.logprob, sampled.top),)

    def _prompt_logprobs(self, sampled: SampledToken) -> tuple[PositionLogprobs, ...]:
        if self.output_count > 1:
            return ()  # a runner tells them again when a sequence was put off and comes back
        pairs = zip(self.generation.prompt_ids[1:], sampled.prompt_logprobs, strict=False)
        return tuple(self._position(token_id, logprob, top) for token_id, (logprob, top) in pairs)

    def _position(self, token_id: int, logprob: float, top: Many[tuple[int, float]]) -> PositionLogprobs:
        return PositionLogprobs(self._token(token_id, logprob), tuple(self._token(each, value) for each, value in top))

    def _token(self, token_id: int, logprob: float) -> TokenLogprob:
        return TokenLogprob(token_id, logprob, self._decoder.token_text(token_id))
