"""Telling a silent peer from a busy self."""


class Silence:
    """Measures how long the peer has been silent while we were able to listen.

    Every `tick` seconds `waited` says how long it really was since the last time. A tick that came late means that our
    own loop was busy, and frames may lie unread: such a tick counts for no more than a punctual one.
    """

    def __init__(self, tick: float, limit: float) -> None:
        self.tick = tick
        self._limit = limit
        self._silent = 0.0

    def heard(self) -> None:
        self._silent = 0.0

    def waited(self, seconds: float) -> bool:
        """Returns whether the peer must be taken for dead."""
        self._silent += min(seconds, self.tick)
        return self._silent >= self._limit
