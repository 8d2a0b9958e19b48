"""Unix times in nanoseconds of moments of a monotonic clock, as spans want them."""

import time


class Moments:
    """Fixed once for a process: spans of it order as its clock does, whatever the wall clock is set to meanwhile."""

    __slots__ = ("_offset",)

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.monotonic_ns()

    def unix(self, moment: float) -> int:
        """`moment` of time.monotonic(), in seconds."""
        return self._offset + int(moment * 1e9)

    @staticmethod
    def now() -> float:
        return time.monotonic()
