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

    def left_slot(self, seconds: float) -> None:
        """A sequence is over that held its slot this long."""
        self._stay_seconds = _mixed(self._stay_seconds, seconds)


def _mixed(known: float | None, new: float) -> float:
    return new if known is None else known * _DECAY + new * (1 - _DECAY)
