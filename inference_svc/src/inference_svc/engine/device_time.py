"""Where the model thread's time goes: every moment is charged to one cause."""

from collections.abc import Mapping
from enum import Enum


class Cause(Enum):
    COMPUTING = "computing"
    NO_WORK = "no_work"
    WAITING_FOR_CREDITS = "waiting_for_credits"
    HOST = "host"  # planning, text, handing over
    LOADING = "loading"


class DeviceTime:
    """The model thread switches; anyone may read: what a reader sees is replaced whole."""

    def __init__(self, cause: Cause, now: float) -> None:
        self._state = (cause, now, dict.fromkeys(Cause, 0.0))

    def switch(self, cause: Cause, now: float) -> None:
        """From now on time is charged to `cause`."""
        before, since, totals = self._state
        self._state = (cause, now, {**totals, before: totals[before] + now - since})

    def read(self, now: float) -> Mapping[str, float]:
        """Seconds by cause; their sum is the time since the beginning."""
        cause, since, totals = self._state
        return {each.value: seconds + (now - since if each is cause else 0.0) for each, seconds in totals.items()}
