"""Which model takes the next step where several share a thread. Pure."""

import math
from collections.abc import Mapping


class DeviceShare:
    """Models with work share the device's time, each by a weight that grows with the logarithm of what it has to do:
    a model with much work gets more, and one with little still its turn soon."""

    def __init__(self) -> None:
        self._used: dict[str, float] = {}  # seconds over weight
        self._active: frozenset[str] = frozenset()

    def next(self, work: Mapping[str, int]) -> str | None:
        """`work` maps each model that could take a step to how many sequences it has."""
        if not work:
            self._active = frozenset()
            return None
        floor = min((self._used[name] for name in self._active if name in work), default=None)
        for name in work.keys() - self._active:
            self._used[name] = max(self._used.get(name, 0.0), floor or 0.0) if floor is not None else 0.0
        if floor is None:
            self._used = dict.fromkeys(work, 0.0)
        self._active = frozenset(work)
        return min(work, key=lambda name: self._used[name])

    def used(self, name: str, seconds: float, sequences: int) -> None:
        self._used[name] = self._used.get(name, 0.0) + seconds / (1.0 + math.log2(1 + sequences))

    def forget(self, name: str) -> None:
        self._used.pop(name, None)
        self._active -= {name}
