"""Telling a silent peer from a busy self."""

import re
from collections.abc import Iterable

BEATS_MISSED = 3  # in a row, before a peer may be taken for dead
_TOLD = re.compile(r"heartbeat-ms=(\d{1,5})")


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


def patience(wanted: float, capabilities: Iterable[str]) -> float:
    """Seconds of silence to bear: as wanted, but never less than a peer needs that told how seldom it beats
    (the capability "heartbeat-ms=N"; of more than a minute and a half, none is believed)."""
    told = (_TOLD.fullmatch(capability) for capability in capabilities)
    return max([wanted, *(BEATS_MISSED * int(match[1]) / 1000 for match in told if match)])
