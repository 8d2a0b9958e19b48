"""How far a load is."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

_TELL_EVERY = 0.2  # seconds, while bytes are read


class LoadStage(Enum):
    QUEUED = "queued"
    FINDING = "finding"
    READING = "reading"
    PREPARING = "preparing"
    WARMING = "warming"


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """Bytes are of the weights; 0 of 0 while nothing is known of them."""

    stage: LoadStage
    byte_count: int = 0
    total_byte_count: int = 0


class Reached(Protocol):
    """As Progress.reached."""

    def __call__(
        self, stage: LoadStage, byte_count: int | None = None, total_byte_count: int | None = None
    ) -> None: ...


class Progress:
    """What whoever loads a model tells, on its own thread: lines for people by calling it, and how far it is. The
    latter is passed on at each change of stage, and a few times a second while bytes are read."""

    def __init__(self, say: Callable[[str], None], reached: Callable[[LoadProgress], None]) -> None:
        self._say = say
        self._reached = reached
        self._last = LoadProgress(LoadStage.QUEUED)
        self._told_at = 0.0

    def __call__(self, line: str) -> None:
        self._say(line)

    def reached(self, stage: LoadStage, byte_count: int | None = None, total_byte_count: int | None = None) -> None:
        """Bytes that are not given are as they were."""
        last, now = self._last, time.monotonic()
        self._last = LoadProgress(
            stage,
            last.byte_count if byte_count is None else byte_count,
            last.total_byte_count if total_byte_count is None else total_byte_count,
        )
        whole = self._last.byte_count == self._last.total_byte_count
        if stage is not last.stage or whole or now - self._told_at >= _TELL_EVERY:
            self._told_at = now
            self._reached(self._last)
