"""What the layers of a model of the usual form share: memory, one program of a whole step, and steps noted before.

A layer is compiled work, and Python that hands it over. Where all of a step is such work it is noted, and run in one go
when the last layer has had its turn. What was noted of a step of single tokens is kept: the next one of the same shape
copies what it is given to where the first had it, and runs the same work again without that Python.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from inference_svc.models.programs import Program, Recording

_KEPT_NUMBERS = 1 << 24
"""Of memory that stays between steps, 64 MiB: a longest step may be of any length, and none may follow it."""

_MOST_KEPT = 128
"""Steps that are remembered, those that came last: about 3 KiB a layer each."""

_FEWEST_TOKENS = 16  # that memory of steps which are run again is made for


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """What a layer computes from: `hidden` `(1, tokens, size)`, `cosines` and `sines` `(1, tokens, head size)`."""

    hidden: torch.Tensor
    cosines: torch.Tensor
    sines: torch.Tensor


Compute = Callable[[Given, torch.Tensor], None]
"""From what a layer is given to what it gives, in memory of the like of `hidden`."""


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """Numbers of a token in each of a layer's passes."""

    hidden: int
    heads: int
    """Of queries, keys and values side by side."""
    head: int
    head_count: int
    key_head_count: int
    gates: int
    """Of gates and their values side by side."""
    gated: int

    @property
    def numbers_of_a_token(self) -> int:
        placed = self.head * (self.head_count + 2 * self.key_head_count)
        return 2 * self.hidden + max(self.heads + placed, self.gates + self.gated)


class Rooms:
    """Where the passes of a layer leave what the next ones read: stretches of one piece of memory."""

    def __init__(self, memory: torch.Tensor, count: int, sizes: LayerSizes) -> None:
        """`memory` `(numbers,)`, enough for `count` tokens of these sizes."""
        self.count, self.sizes = count, sizes
        self._left = memory
        self.normed_at = self._take(sizes.hidden)
        self.result_at = self._take(sizes.hidden)
        shared = self._left  # a layer's heads are done with when its gates are computed
        self.gates_at = self._take(sizes.gates)
        self.gated_at = self._take(sizes.gated)
        self._left = shared
        self.heads_at = self._take(sizes.heads)
        self.query_at, self.query = self._take_heads(sizes.head_count)
        self.key_at, self.key = self._take_heads(sizes.key_head_count)
        self.value_at, self.value = self._take_heads(sizes.key_head_count)

    def _take(self, size: int) -> int:
        address = self._left.data_ptr()
        self._left = self._left[self.count * size :]
        return address

    def _take_heads(self, head_count: int) -> tuple[int, torch.Tensor]:
        """The address of `(tokens, heads, head)`, and the same memory as `(1, heads, tokens, head)`."""
        room = self._left[: self.count * head_count * self.sizes.head]
        heads = room.view(1, self.count, head_count, self.sizes.head).transpose(1, 2)
        return self._take(head_count * self.sizes.head), heads


class _Memory:
    """One piece that layers and steps use one after another."""

    def __init__(self) -> None:
        self.numbers = torch.empty(0)
        self._rooms: Rooms | None = None

    def grow(self, wanted: int) -> None:
        self.numbers, self._rooms = torch.empty(wanted, dtype=torch.float32), None

    def rooms(self, count: int, sizes: LayerSizes) -> Rooms:
        """For so many tokens; what was there may still be, or not."""
        if self._rooms is None or self._rooms.count != count or self._rooms.sizes != sizes:
            self._rooms = Rooms(self.numbers, count, sizes)
        return self._rooms


class _Frame:
    """Where a step that may be run again finds what it is given, and where its layers leave by turns what they give."""

    def __init__(self, memory: torch.Tensor, given: Given) -> None:
        """`memory` `(numbers,)`, enough for the like of what is given."""
        parts, first = [], 0
        for like in (given.hidden, given.cosines, given.sines, given.hidden, given.hidden):
            parts.append(memory[first : first + like.numel()].view(like.shape))
            first += like.numel()
        self.given, self.results = Given(*parts[:3]), parts[3:]

    @staticmethod
    def numbers_of_a_token(given: Given) -> int:
        return 3 * given.hidden.shape[2] + 2 * given.cosines.shape[2]

    def fill(self, given: Given) -> None:
        self.given.hidden.copy_(given.hidden)
        self.given.cosines.copy_(given.cosines)
        self.given.sines.copy_(given.sines)

    def other_result(self, hidden: torch.Tensor) -> torch.Tensor:
        """For what a layer makes of `hidden`."""
        return self.results[1] if hidden is self.results[0] else self.results[0]


@dataclass(slots=True, eq=False)
class _Noted:
    """A step that is being noted to be run again: what its first layer was given, and what its last one so far gave."""

    key: Hashable
    frame: _Frame
    given: Given
    last: torch.Tensor

    def goes_on_with(self, given: Given) -> bool:
        """Whether a layer is given what the one before gave, and the angles of the first."""
        same_angles = given.cosines is self.given.cosines and given.sines is self.given.sines
        return given.hidden is self.last and same_angles


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """A step that was noted whole."""

    recording: Recording
    frame: _Frame
    result: torch.Tensor


class LayerStack:
    """Takes the layers' turns, first to last, step after step."""

    def __init__(self) -> None:
        self.is_whole = False
        """Whether they are all that a model has, so that nobody else reads what one gives."""
        self.count = 0
        self._program = Program()
        self._next: int | None = None  # of the layers that put their work off; none while nobody does
        self._memory = _Memory()
        self._noted: _Noted | None = None
        self._kept: dict[Hashable, _Kept] = {}
        self._kept_memory, self._frames = _Memory(), torch.empty(0)  # of those steps alone
        self._most_kept_tokens = 0
        self._repeated: torch.Tensor | None = None  # what all layers gave in a step that was run again

    @property
    def memory_byte_count(self) -> int:
        return self._memory.numbers.nbytes + self._kept_memory.numbers.nbytes + self._frames.nbytes

    @property
    def kept_count(self) -> int:
        """Steps that can be run again."""
        return len(self._kept)

    def has_given(self, index: int, hidden: torch.Tensor) -> bool:
        """Whether that is what the whole stack gave in a step that was run again: a later layer has nothing to add."""
        found = index > 0 and hidden is self._repeated
        if found and index + 1 == self.count:
            self._repeated = None
        return found

    def layer(
        self, index: int, given: Given, compute: Compute, *, may_wait: bool, shape: Hashable | None = None
    ) -> torch.Tensor:
        """What a layer gives; where all of a step may wait, only when the last one has had its turn. Steps of equal
        shape hand over the same work, of which nothing but what the first layer is given and what the shape's owner
        fills in differs; none where that is not known."""
        if index == 0:
            self._begin(may_wait=may_wait)
            if shape is not None and self._next == 0 and (repeated := self._repeat(given, shape)) is not None:
                return repeated
        if self._next == index:
            with self._noting():
                result = self._note(given, compute)
            self._next = index + 1
        else:
            self.catch_up()
            result = torch.empty_like(given.hidden)
            compute(given, result)
        if index + 1 == self.count:
            self._end(result)
        return result

    def rooms(self, count: int, sizes: LayerSizes) -> Rooms:
        """Memory for the layer whose turn it is. Nothing of it is kept for the next."""
        is_kept = self._noted is not None
        memory, tokens = (self._kept_memory, self._most_kept_tokens) if is_kept else (self._memory, count)
        wanted = tokens * sizes.numbers_of_a_token
        if memory.numbers.numel() < wanted:
            memory.grow(wanted)
            if is_kept:
                self._kept.clear()  # or each would hold memory that none of the others uses
        self.hold(memory.numbers)
        return memory.rooms(count, sizes)

    def hold(self, *memory: torch.Tensor) -> None:
        """Work that is put off may still read it or write there."""
        if self._next is not None:
            self._program.hold(*memory)

    def catch_up(self) -> None:
        """Nothing is put off any longer."""
        if self._next is not None:
            self._next = self._noted = None
            self._program.run()

    def _begin(self, *, may_wait: bool) -> None:
        self._program.drop()  # of a step that failed on its way
        self._noted = self._repeated = None
        self._next = 0 if may_wait and self.is_whole else None

    def _end(self, result: torch.Tensor) -> None:
        if self._noted is not None:
            key, frame = self._noted.key, self._noted.frame
            self._next = self._noted = None
            self._kept[key] = _Kept(self._program.recorded(), frame, result)
            if len(self._kept) > _MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key].recording.run()
        self.catch_up()
        if self._memory.numbers.numel() > _KEPT_NUMBERS:
            self._memory = _Memory()

    def _repeat(self, given: Given, shape: Hashable) -> torch.Tensor | None:
        """What all layers give, where the step is known; else it is noted to be known."""
        key = (shape, given.hidden.shape[1], torch.get_num_threads())
        known = self._kept.pop(key, None)
        if known is None:
            self._noted = _Noted(key, self._frame(given), given, given.hidden)
            return None
        self._kept[key] = known  # behind those that came longer ago
        known.frame.fill(given)
        self._next = None
        known.recording.run()
        self._repeated = known.result
        return known.result

    def _frame(self, given: Given) -> _Frame:
        """Filled, in memory that grows by the double; what was kept goes with the old."""
        count = given.hidden.shape[1]
        if count > self._most_kept_tokens:
            most = max(_FEWEST_TOKENS, 1 << (count - 1).bit_length())
            self._frames = torch.empty(most * _Frame.numbers_of_a_token(given), dtype=torch.float32)
            self._most_kept_tokens, self._kept_memory = most, _Memory()
            self._kept.clear()
        frame = _Frame(self._frames, given)
        frame.fill(given)
        return frame

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            with self._program.noting():
                yield
        except BaseException:
            self._next = self._noted = None
            self._program.drop()
            raise

    def _note(self, given: Given, compute: Compute) -> torch.Tensor:
        noted = self._noted
        if noted is not None and noted.goes_on_with(given):
            frame = noted.frame
            hidden = frame.given.hidden if self._next == 0 else noted.last
            noted.last = frame.other_result(hidden)
            compute(Given(hidden, frame.given.cosines, frame.given.sines), noted.last)
            return noted.last
        self._noted = None  # something else happens between its layers: it is run this once
        result = torch.empty_like(given.hidden)
        self.hold(given.hidden, given.cosines, given.sines, result)
        compute(given, result)
        return result
