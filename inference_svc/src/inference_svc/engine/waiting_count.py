"""How many wait, by priority: sequences and the tokens to compute for them."""

from dataclasses import dataclass

from inference_svc.requests import Priority


@dataclass(frozen=True, slots=True)
class Waiting:
    """Indexed by priority."""

    sequences: tuple[int, ...] = (0,) * len(Priority)
    tokens: tuple[int, ...] = (0,) * len(Priority)


class WaitingCount:
    def __init__(self) -> None:
        self._sequences = [0] * len(Priority)
        self._tokens = [0] * len(Priority)

    @property
    def sequences(self) -> int:
        return sum(self._sequences)

    @property
    def tokens(self) -> int:
        return sum(self._tokens)

    def add(self, priority: Priority, tokens: int, sequences: int = 1) -> None:
        self._sequences[priority] += sequences
        self._tokens[priority] += tokens

    def drop(self, priority: Priority, tokens: int) -> None:
        self._sequences[priority] -= 1
        self._tokens[priority] -= tokens

    def at_least(self, priority: Priority) -> tuple[int, int]:
        """Sequences and tokens of this priority and those above."""
        return sum(self._sequences[priority:]), sum(self._tokens[priority:])

    def snapshot(self) -> Waiting:
        return Waiting(tuple(self._sequences), tuple(self._tokens))

    def set(self, waiting: Waiting) -> None:
        self._sequences = list(waiting.sequences)
        self._tokens = list(waiting.tokens)

    def include(self, other: Waiting) -> None:
        for priority in Priority:
            self.add(priority, other.tokens[priority], other.sequences[priority])
