"""Computes what belongs together so that one bad part fails alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from inference_svc.engine.runner import DeviceLost, OutOfDeviceMemory
from inference_svc.errors import SeamError, StepFailed

Part = TypeVar("Part")
Result = TypeVar("Result")


@dataclass(slots=True)
class Isolation(Generic[Part, Result]):
    """`compute` gives a result a part, or raises. `size` weighs a part in tokens. `cut` halves one part into two that
    come one after the other, the second giving the result; None where it cannot be halved.
    `too_big` is the size of the smallest attempt that ran out of memory, None while none did."""

    compute: Callable[[Sequence[Part]], Sequence[Result]]
    size: Callable[[Part], int]
    cut: Callable[[Part], tuple[Part, Part] | None]
    too_big: int | None = None

    def run(self, parts: Sequence[Part]) -> list[Result | SeamError]:
        """What fails together is tried in halves, each of half the tokens, down to the part that fails by itself.
        Raises DeviceLost."""
        try:
            return list(self.compute(parts))
        except DeviceLost:
            raise
        except OutOfDeviceMemory as error:
            self.too_big = sum(map(self.size, parts))
            halves = self.cut(parts[0]) if len(parts) == 1 else None
            if halves is not None:
                return self._one_after_the_other(*halves)
            failure = _failed("the device has no memory for this request alone", error)
        except Exception as error:
            failure = _failed(f"the model's step failed for this request: {type(error).__name__}", error)
        if len(parts) == 1:
            return [failure]
        middle = self._middle(parts)
        return [*self.run(parts[:middle]), *self.run(parts[middle:])]

    def _one_after_the_other(self, first: Part, second: Part) -> list[Result | SeamError]:
        begun = self.run([first])
        return begun if isinstance(begun[0], SeamError) else self.run([second])

    def _middle(self, parts: Sequence[Part]) -> int:
        """Where half the tokens are reached, with at least one part on each side."""
        half, reached = sum(map(self.size, parts)) / 2, 0
        for position, part in enumerate(parts):
            reached += self.size(part)
            if reached >= half:
                return min(max(position, 1), len(parts) - 1)
        return len(parts) - 1


def _failed(message: str, cause: Exception) -> StepFailed:
    failure = StepFailed(message)
    failure.__cause__ = cause
    return failure
