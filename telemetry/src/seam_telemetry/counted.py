"""Counters that cost a dictionary's entry to count, read when somebody looks."""

from collections.abc import Iterable

from opentelemetry.metrics import CallbackOptions, Meter, Observation


class Counted:
    """Counts of one thread, by the values of its labels."""

    def __init__(self, meter: Meter, name: str, unit: str, says: str, *labels: str) -> None:
        self._labels = labels
        self._counts: dict[tuple[str, ...], float] = {}
        meter.create_observable_counter(name, [self._read], unit, says)

    def add(self, count: float, *values: str) -> None:
        """`values` in the order of the labels; 0 begins a series."""
        self._counts[values] = self._counts.get(values, 0) + count

    def _read(self, _: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(count, dict(zip(self._labels, values, strict=True)))
            for values, count in list(self._counts.items())
        ]
