"""How many tokens a reader can still take, seen from the reader's side of one request."""


class CreditsOverdrawn(Exception):
    """The peer sent more tokens than it was granted."""


class Credits:
    """`window` tokens may be on the way or unread; what the reader takes is granted back, half a window at a time.

    Laws: outstanding is never negative; outstanding + unread never exceeds the window; a reader that has taken
    everything always has credits outstanding, so nobody waits for the other.
    """

    __slots__ = ("_batch", "_taken", "outstanding", "unread", "window")

    def __init__(self, window: int) -> None:
        if window < 1:
            raise ValueError(f"a window of {window} tokens lets nothing through")
        self.window = window
        self.outstanding = window
        self.unread = 0
        self._taken = 0
        self._batch = max(1, window // 2)

    def received(self, count: int) -> None:
        if count > self.outstanding:
            raise CreditsOverdrawn(f"{count} tokens came where {self.outstanding} were granted")
        self.outstanding -= count
        self.unread += count

    def taken(self, count: int) -> int:
        """The reader took `count` tokens. Returns what to grant now, 0 for nothing yet."""
        self.unread -= count
        self._taken += count
        if self._taken < self._batch:
            return 0
        grant, self._taken = self._taken, 0
        self.outstanding += grant
        return grant
