"""How far a generation may run ahead of its reader. A plain counter."""

WINDOW = 256  # tokens that wait to be put in a frame, whatever the reader promised to take


class Allowance:
    """What the reader can take is handed to the engine in parts, so that no more than a window of it waits on this
    side: a reader that grants without end, or counts no credits, and then does not read holds little memory.

    Laws: handed over and not yet in a frame <= window; handed over <= the reader's credits; where the reader has more
    and all that was handed over is in frames, more is handed over.
    """

    __slots__ = ("_ahead", "_left", "_window")

    def __init__(self, credits: int | None, window: int = WINDOW) -> None:
        """`credits` as the reader began with; None where it counts none."""
        self._left = credits  # the reader's, not handed over
        self._window = window
        self._ahead = 0  # handed over, not in a frame

    def hand_over(self) -> int:
        """Tokens that the engine may compute, beside those it was given before."""
        room = self._window - self._ahead
        granted = room if self._left is None else min(room, self._left)
        if self._left is not None:
            self._left -= granted
        self._ahead += granted
        return granted

    def granted(self, credits: int) -> int:
        """The reader can take so many more. Returns what to hand over."""
        if self._left is not None:
            self._left += credits
        return self.hand_over()

    def written(self, tokens: int) -> int:
        """So many went into a frame. Returns what to hand over: nothing, or at least half a window."""
        self._ahead -= tokens
        if self._left == 0 or 2 * self._ahead > self._window:
            return 0
        return self.hand_over()


def window_for(top_logprob_count: int) -> int:
    """Tokens with their likeliest alternatives weigh more."""
    return max(8, WINDOW // (1 + top_logprob_count))
