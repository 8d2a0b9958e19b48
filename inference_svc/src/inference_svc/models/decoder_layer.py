"""A decoder layer of the usual form as nine passes over memory and attention, without a module and an operator for
every step.

The usual form: norm, queries keys and values (with norms of their own or none), rotated or not, attention, what it
gives added; norm, gates times values, what they give added. Which layers of a model are such: see `usual_layers`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from inference_svc.models.elementwise import Heads, Scale, add, gate, normalise, place
from inference_svc.models.layer_stack import Given, LayerSizes, LayerStack, Rooms
from inference_svc.models.orders import address_of
from inference_svc.models.panel_linear import PanelLinear, Panels

_FLOAT_BYTES = 4

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

    def __call__(self, given: Given, attend: Attend, found: torch.Tensor) -> None:
        """Fills `found`, the like of what is given."""
        hidden, count = given.hidden, given.hidden.shape[1]
        parts, sizes = self._parts, self._sizes
        rooms = self._stack.rooms(count, sizes)
        hidden_at = address_of(hidden, torch.float32, 1, count, sizes.hidden)
        normalise(hidden_at, count, parts.first_norm, rooms.normed_at)
        self._heads.multiply(rooms.normed_at, count, rooms.heads_at)
        self._place(rooms, given.cosines, given.sines)
        attended = attend(rooms.query, rooms.key, rooms.value).reshape(count, -1).contiguous()
        self._stack.hold(attended)
        attended_at = address_of(attended, torch.float32, count, parts.output.in_features)
        parts.output.panels.multiply(attended_at, count, rooms.result_at)

        found_at = address_of(found, torch.float32, 1, count, sizes.hidden)
        normalise(hidden_at, count, parts.second_norm, rooms.normed_at, others_at=rooms.result_at, sums_at=found_at)
        self._gates.multiply(rooms.normed_at, count, rooms.gates_at)
        values_at = rooms.gates_at + parts.gates.out_features * _FLOAT_BYTES
        gate(rooms.gates_at, values_at, sizes.gates, count, sizes.gated, parts.curve, rooms.gated_at)
        parts.down.panels.multiply(rooms.gated_at, count, rooms.result_at)
        add(found_at, rooms.result_at, found.numel())

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
