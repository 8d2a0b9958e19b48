"""Replicas that fail more than they should stand aside for a while and come back gradually."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OutlierSettings:
    """After `failures` in a row a replica is out for `first_pause` seconds, twice as long each time up to
    `longest_pause`; afterwards its share of requests grows from a tenth to all of them within `return_time`."""

    failures: int = 5
    first_pause: float = 1.0
    longest_pause: float = 60.0
    return_time: float = 10.0


@dataclass(slots=True)
class _Record:
    failures_in_a_row: int = 0
    ejections: int = 0
    out_until: float = float("-inf")


class Outliers:
    def __init__(self, settings: OutlierSettings) -> None:
        self._settings = settings
        self._records: dict[str, _Record] = {}

    def succeeded(self, address: str, now: float) -> None:
        record = self._records.get(address)
        if record is None:
            return
        record.failures_in_a_row = 0
        if now >= record.out_until + self._settings.return_time:
            del self._records[address]

    def failed(self, address: str, now: float) -> None:
        record = self._records.setdefault(address, _Record())
        record.failures_in_a_row += 1
        if record.failures_in_a_row < self._settings.failures or now < record.out_until:
            return
        pause = min(self._settings.longest_pause, self._settings.first_pause * 2**record.ejections)
        record.out_until = now + pause
        record.ejections += 1
        record.failures_in_a_row = 0

    def share(self, address: str, now: float) -> float:
        """Of the requests that it would get otherwise: 0 while it is out, 1 when nothing is held against it."""
        record = self._records.get(address)
        if record is None or record.ejections == 0:
            return 1.0
        if now < record.out_until:
            return 0.0
        return min(1.0, 0.1 + 0.9 * (now - record.out_until) / self._settings.return_time)

    def forget(self, address: str) -> None:
        self._records.pop(address, None)
