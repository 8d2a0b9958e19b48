"""What a step costs, learnt from the steps that were taken. Recent ones count most."""

_DECAY = 0.9  # of what was known, with each new step
_DOUBT = 1000.0  # tokens², by which the sizes of recent steps must vary before tokens are held to be what costs


class StepCosts:
    """Seconds are of the whole turn: with other models' steps in between where the thread is shared.

    A step with prompts costs something whatever its size, and something for each token: a line through recent steps, by
    ridge regression. What is not known of it is taken to be of the first kind, which is the hopeful guess: one small
    step that took long, as the first ones of a process do, must not make every prompt look hopeless.
    """

    def __init__(self, step_token_budget: int) -> None:
        """`step_token_budget` is the most prompt tokens that one step computes beside answers."""
        self.step_seconds = 0.0  # a recent step, by itself
        self._budget = step_token_budget
        self._decode_seconds: float | None = None
        self._weight = 0.0  # of the steps with prompts
        self._tokens = self._seconds = 0.0  # of such a step, in the mean
        self._tokens_spread = self._joint_spread = 0.0  # sums of squares and of products about these means
        self._stay_seconds: float | None = None
        self._stay_tokens: float | None = None
        self._stay_deviation = 0.0  # of the tokens, in the mean

    @property
    def seconds_per_decode_step(self) -> float:
        """0 while nothing is known."""
        return self._decode_seconds or 0.0

    @property
    def seconds_per_prompt_token(self) -> float:
        """Of many, in steps as large as they may be; 0 while nothing is known."""
        return self.seconds_of_prompts(self._budget) / self._budget

    def seconds_of_prompts(self, tokens: int) -> float:
        """Until so many are computed, in steps as large as they may be; 0 while nothing is known."""
        if not tokens:
            return 0.0
        by_token = max(0.0, self._joint_spread / (self._tokens_spread + _DOUBT))
        by_step = max(0.0, self._seconds - by_token * self._tokens)
        of_a_step = max(self._budget, self._tokens)  # where nothing runs beside them, prompts take more than the bound
        return by_step * max(1.0, tokens / of_a_step) + by_token * tokens

    @property
    def seconds_in_slot(self) -> float:
        """How long a sequence keeps its slot; 0 while nothing is known."""
        return self._stay_seconds or 0.0

    def stepped(self, prompt_tokens: int, step_seconds: float, turn_seconds: float) -> None:
        self.step_seconds = _mixed(self.step_seconds or None, step_seconds)
        if not prompt_tokens:
            self._decode_seconds = _mixed(self._decode_seconds, turn_seconds)
            return
        self._weight = self._weight * _DECAY + 1
        off_tokens, off_seconds = prompt_tokens - self._tokens, turn_seconds - self._seconds
        self._tokens += off_tokens / self._weight
        self._seconds += off_seconds / self._weight
        self._tokens_spread = self._tokens_spread * _DECAY + off_tokens * (prompt_tokens - self._tokens)
        self._joint_spread = self._joint_spread * _DECAY + off_tokens * (turn_seconds - self._seconds)

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
