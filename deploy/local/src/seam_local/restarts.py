"""When a replica that died is started again."""

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
STEADY_SECONDS = 60.0


class Backoff:
    """Twice the delay at each death, from FIRST to LONGEST; one that served for STEADY_SECONDS begins anew."""

    def __init__(self) -> None:
        self._delay = FIRST_DELAY_SECONDS

    def delay_after(self, lived: float) -> float:
        """Seconds to wait before the next start, after a life of `lived` seconds."""
        if lived >= STEADY_SECONDS:
            self._delay = FIRST_DELAY_SECONDS
        delay = self._delay
        self._delay = min(2 * delay, LONGEST_DELAY_SECONDS)
        return delay
