"""How big a step may be after one was too big for the device's memory."""

_CLEAN_STEPS = 64  # without trouble, before the budget doubles again


class StepBudget:
    def __init__(self, most: int) -> None:
        self._most = max(2, most)
        self._clean = 0
        self.tokens = self._most

    def stepped(self, too_big: int | None) -> int:
        """After a step, of which an attempt of `too_big` tokens ran out of memory. Returns the tokens to plan with."""
        if too_big is not None:
            self.tokens = max(2, min(self.tokens, too_big - 1))
            self._clean = 0
        elif self.tokens < self._most:
            self._clean += 1
            if self._clean >= _CLEAN_STEPS:
                self.tokens, self._clean = min(self._most, 2 * self.tokens), 0
        return self.tokens
