"""A decoder layer of the usual form as nine passes over memory and attention, without a module and an operator for
every step.

The usual form: norm, queries keys and values (with norms of their own or none), rotated or not, attention, what it
gives added; norm, gates times values, what they give added. Which layers of a model are such: see `usual_layers`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from inference_svc.models.elementwise import Heads, Scale, add, gate, normalise, place
from inference_svc.models.orders import address_of
from inference_svc.models.panel_linear import PanelLinear, Panels
from inference_svc.models.programs import Program

_FLOAT_BYTES = 4
_KEPT_NUMBERS = 1 << 24
"""Of memory that stays between steps, 64 MiB: a longest step may be of any length, and none may follow it."""

Curve = tuple[int, int]
"""Of an activation, as the bits of its two numbers: see `elementwise.gate`."""


@dataclass(frozen=True, slots=True)
class LayerParts:
    """What a layer of the usual form consists of."""

    first_norm: Scale
    query_norm: Scale | None
    key_norm: Scale | None
    second_norm: Scale
    queries: PanelLinear
    keys: PanelLinear
    values: PanelLinear
    output: PanelLinear
    gates: PanelLinear
    gate_values: PanelLinear
    down: PanelLinear
    curve: Curve


Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""From query `(1, heads, tokens, head size)`, key and value with key heads, to `(1, tokens, heads, head size)`."""


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
    """Where the passes of a step leave what the next ones read: stretches of one piece of memory."""

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


class LayerStack:
    """What the layers of a model share: memory that they fill one after another and, in steps where all they do is
    compiled work, one program of it all, which runs when the last has had its turn."""

    def __init__(self) -> None:
        self.is_whole = False
        """Whether they are all that a model has, so that nobody else reads what one gives."""
        self.count = 0
        self._memory = torch.empty(0)
        self._rooms: Rooms | None = None
        self._program = Program()
        self._next: int | None = None  # of the layers that put their work off; none while nobody does

    def rooms(self, count: int, sizes: LayerSizes) -> Rooms:
        """For so many tokens; what was there may still be, or not."""
        if self._rooms is not None and self._rooms.count == count and self._rooms.sizes == sizes:
            return self._rooms
        wanted = count * sizes.numbers_of_a_token
        if self._memory.numel() < wanted:
            self.hold(self._memory)
            self._memory = torch.empty(wanted, dtype=torch.float32)
        self._rooms = Rooms(self._memory, count, sizes)
        return self._rooms

    @property
    def memory_byte_count(self) -> int:
        return self._memory.nbytes

    def hold(self, *memory: torch.Tensor) -> None:
        """Work that is put off may still read it or write there."""
        if self._next is not None:
            self._program.hold(*memory)

    @contextmanager
    def turn(self, index: int, *, may_wait: bool) -> Iterator[None]:
        """That of one layer."""
        if index == 0:
            self._program.drop()  # of a step that failed on its way
            self._next = 0 if may_wait and self.is_whole else None
        if self._next != index:
            self.catch_up()
            yield
        else:
            with self._noting():
                yield
            self._next = index + 1
        if index + 1 == self.count:
            self.catch_up()
            if self._memory.numel() > _KEPT_NUMBERS:
                self._memory, self._rooms = torch.empty(0), None

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            with self._program.noting():
                yield
        except BaseException:
            self._next = None
            self._program.drop()
            raise

    def catch_up(self) -> None:
        """Nothing is put off any longer."""
        if self._next is not None:
            self._next = None
            self._program.run()


class DecoderPasses:
    """What one layer computes."""

    def __init__(
        self, parts: LayerParts, stack: LayerStack, head_counts: tuple[int, int], head_size: int, *, is_rotated: bool
    ) -> None:
        """`head_counts` of queries, and of keys and values. Of the parts' linear layers those that are given the same
        rows are joined, and go on in the joined memory."""
        self._parts, self._stack, self._is_rotated = parts, stack, is_rotated
        self._heads = Panels.joined([parts.queries, parts.keys, parts.values])
        self._gates = Panels.joined([parts.gates, parts.gate_values])
        self._sizes = LayerSizes(
            hidden=parts.first_norm.size,
            heads=self._heads.column_count,
            head=head_size,
            head_count=head_counts[0],
            key_head_count=head_counts[1],
            gates=self._gates.column_count,
            gated=parts.down.in_features,
        )

    def take(self, hidden: torch.Tensor, angles: Any) -> bool:
        """Whether they are made for these: one stretch of tokens, whole heads to rotate."""
        if hidden.dim() != 3 or len(hidden) != 1 or hidden.dtype != torch.float32 or not isinstance(angles, tuple):
            return False
        shape = (1, hidden.shape[1], self._sizes.head)
        return all(part.shape == shape and part.dtype == torch.float32 for part in angles)

    def __call__(
        self, hidden: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        """`hidden` `(1, tokens, size)`, `cosines` and `sines` `(1, tokens, head size)`; gives the like of `hidden`."""
        parts, sizes, count = self._parts, self._sizes, hidden.shape[1]
        rooms = self._stack.rooms(count, sizes)
        hidden_at = address_of(hidden, torch.float32, 1, count, sizes.hidden)
        normalise(hidden_at, count, parts.first_norm, rooms.normed_at)
        self._heads.multiply(rooms.normed_at, count, rooms.heads_at)
        self._place(rooms, cosines, sines)
        attended = attend(rooms.query, rooms.key, rooms.value).reshape(count, -1).contiguous()
        self._stack.hold(attended)
        attended_at = address_of(attended, torch.float32, count, parts.output.in_features)
        parts.output.panels.multiply(attended_at, count, rooms.result_at)

        found = torch.empty_like(hidden)
        self._stack.hold(found)
        found_at = found.data_ptr()
        normalise(hidden_at, count, parts.second_norm, rooms.normed_at, others_at=rooms.result_at, sums_at=found_at)
        self._gates.multiply(rooms.normed_at, count, rooms.gates_at)
        values_at = rooms.gates_at + parts.gates.out_features * _FLOAT_BYTES
        gate(rooms.gates_at, values_at, sizes.gates, count, sizes.gated, parts.curve, rooms.gated_at)
        parts.down.panels.multiply(rooms.gated_at, count, rooms.result_at)
        add(found_at, rooms.result_at, found.numel())
        return found

    def _place(self, rooms: Rooms, cosines: torch.Tensor, sines: torch.Tensor) -> None:
        parts, sizes, count = self._parts, self._sizes, rooms.count
        angles_at = (0, 0)
        if self._is_rotated:
            shape = (1, count, sizes.head)
            angles_at = (address_of(cosines, torch.float32, *shape), address_of(sines, torch.float32, *shape))
        key_offset = parts.queries.out_features
        place(
            rooms.heads_at,
            sizes.heads,
            count,
            sizes.head,
            angles_at,
            Heads(0, sizes.head_count, rooms.query_at, parts.query_norm),
            Heads(key_offset, sizes.key_head_count, rooms.key_at, parts.key_norm),
            Heads(key_offset + parts.keys.out_features, sizes.key_head_count, rooms.value_at),
        )
