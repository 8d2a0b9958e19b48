"""What a step costs, learnt from the steps that were taken. Recent ones count most."""

_DECAY = 0.9  # of what was known, with each new step


class StepCosts:
    """Seconds are of the whole turn: with other models' steps in between where the thread is shared."""

    def __init__(self) -> None:
        self.step_seconds = 0.0  # a recent step, by itself
        self._decode_seconds: float | None = None
        self._prompt_seconds = 0.0
        self._prompt_tokens = 0.0
        self._stay_seconds: float | None = None
        self._stay_tokens: float | None = None
        self._stay_deviation = 0.0  # of the tokens, in the mean

    @property
    def seconds_per_prompt_token(self) -> float:
        """0 while nothing is known."""
        return self._prompt_seconds / self._prompt_tokens if self._prompt_tokens else 0.0

    @property
    def seconds_per_decode_step(self) -> float:
        """0 while nothing is known."""
        return self._decode_seconds or 0.0

    @property
    def seconds_in_slot(self) -> float:
        """How long a sequence keeps its slot; 0 while nothing is known."""
        return self._stay_seconds or 0.0

    def stepped(self, prompt_tokens: int, decode_rows: int, step_seconds: float, turn_seconds: float) -> None:
        self.step_seconds = _mixed(self.step_seconds or None, step_seconds)
        if not prompt_tokens:
            self._decode_seconds = _mixed(self._decode_seconds, turn_seconds)
            return
        own = turn_seconds - (self.seconds_per_decode_step if decode_rows else 0.0)
        self._prompt_seconds = self._prompt_seconds * _DECAY + max(0.0, own)
        self._prompt_tokens = self._prompt_tokens * _DECAY + prompt_tokens

    def left_slot(self, seconds: float, tokens: int) -> None:
        """A sequence finished that held its slot this long and was given so many tokens in it."""
        if self._stay_tokens is not None:
            self._stay_deviation = _mixed(self._stay_deviation, abs(tokens - self._stay_tokens))
        self._stay_seconds = _mixed(self._stay_seconds, seconds)
        self._stay_tokens = _mixed(self._stay_tokens, tokens)

    def seconds_of_answer(self, most_tokens: int, deviations: float = 0.0) -> float:
        """From its slot to its end, of an answer that has at most so many tokens and else as many as recent ones had,
        by so many mean deviations more (or less, below 0); 0 while nothing is known."""
        if not self._stay_seconds or not self._stay_tokens:
            return 0.0
        likely = max(0.0, self._stay_tokens + deviations * self._stay_deviation)
        return self._stay_seconds / self._stay_tokens * min(most_tokens, likely)


def _mixed(known: float | None, new: float) -> float:
    return new if known is None else known * _DECAY + new * (1 - _DECAY)
