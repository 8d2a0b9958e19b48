"""Linear layers whose float32 weights lie in panels for a kernel of our own."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import nn

from inference_svc.models.orders import address_of, order_of
from inference_svc.models.packed_linear import PackedLinear
from inference_svc.models.torch_threads import Work, run, sharing

_WORTH_SHARING = 200_000
"""Multiplications below which another thread is not worth asking."""

_PARTS_OF_A_THREAD = 4  # so that one who comes late leaves little to wait for
_ROWS_OF_A_PART = 48  # at least, where rows are parted: a panel is read again for every part


class PanelLinear(PackedLinear):
    """`nn.Linear`; a row has the same bits among any number of others, and alone."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight, bias)
        kernel = _kernel()
        if kernel is None or not kernel.takes(weight):
            raise RuntimeError("there is no kernel for such a weight, or none on this machine")
        shifts = torch.zeros(self.out_features, dtype=weight.dtype) if bias is None else bias.detach()
        self.panels = Panels(kernel, kernel.in_panels(weight.detach().t()), kernel.in_panels(shifts[None]))

    @property
    def is_whole(self) -> bool:
        """Whether its outputs fill their panels, so that rows of results are its own."""
        return self.panels.column_count == self.out_features

    @property
    def checked_row_counts(self) -> tuple[int, ...]:
        return (1, 4, *super().checked_row_counts)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        rows = features.reshape(-1, self.in_features).contiguous()
        result = rows.new_empty(len(rows), self.panels.column_count)
        self.panels.multiply(
            address_of(rows, torch.float32, len(rows), self.in_features),
            len(rows),
            address_of(result, torch.float32, len(rows), self.panels.column_count),
        )
        return result[:, : self.out_features].contiguous().view(*features.shape[:-1], self.out_features)


class Panels:
    """A weight in panels, and what is added to its products."""

    def __init__(self, kernel: "_Kernel", weights: torch.Tensor, shifts: torch.Tensor) -> None:
        """`weights` `(panels, inputs, outputs of a panel)`, `shifts` `(panels, 1, outputs of a panel)`."""
        self._kernel, self._weights, self._shifts = kernel, weights, shifts
        panel_count, self.input_count, panel = weights.shape
        self.column_count = panel_count * panel
        """Columns of a result: a multiple of a panel's, the last ones nobody's."""
        self._addresses = (
            address_of(weights, torch.float32, panel_count, self.input_count, panel),
            address_of(shifts, torch.float32, panel_count, 1, panel),
        )

    def multiply(self, rows_at: int, row_count: int, result_at: int) -> None:
        """From rows of `input_count` numbers at an address to rows of `column_count` numbers at another."""
        if row_count:
            self._kernel.multiply(self._addresses, rows_at, row_count, result_at, self.input_count, self.column_count)

    @staticmethod
    def joined(layers: Sequence[PanelLinear]) -> "Panels":
        """Those of layers that are given the same rows, whose results come side by side. The layers go on with the same
        memory."""
        kernel = layers[0].panels._kernel
        whole = Panels(
            kernel,
            torch.cat([layer.panels._weights for layer in layers]),
            torch.cat([layer.panels._shifts for layer in layers]),
        )
        first = 0
        for layer in layers:
            last = first + len(layer.panels._weights)
            layer.panels = Panels(kernel, whole._weights[first:last], whole._shifts[first:last])
            first = last
        return whole


class _Kernel:
    """The compiled work, and how it is parted."""

    def __init__(self) -> None:
        from inference_svc.models.panel_kernel import ORDER_SIZE, compile_product
        from inference_svc.models.tile_kernel import INPUTS_AT_ONCE, PANEL

        if sharing() is None:
            raise RuntimeError("torch's threads are not of a known library")
        self._panel, self._inputs_at_once, self._order_size = PANEL, INPUTS_AT_ONCE, ORDER_SIZE
        self._work: Work = compile_product()

    def takes(self, weight: torch.Tensor) -> bool:
        return weight.dtype == torch.float32 and weight.shape[1] % self._inputs_at_once == 0

    def in_panels(self, columns: torch.Tensor) -> torch.Tensor:
        """`(rows, columns)` as `(panels, rows, columns of a panel)`, the last filled up with zeros."""
        filled: torch.Tensor = nn.functional.pad(columns, (0, -columns.shape[1] % self._panel))
        return filled.reshape(len(columns), -1, self._panel).transpose(0, 1).contiguous()

    def multiply(
        self, weights_at: tuple[int, int], rows_at: int, row_count: int, result_at: int, inputs: int, columns: int
    ) -> None:
        thread_count = torch.get_num_threads()
        if row_count * inputs * columns < _WORTH_SHARING:
            thread_count = 1
        panel_count = columns // self._panel
        part_count = 1 if thread_count == 1 else thread_count * _PARTS_OF_A_THREAD
        panels_of_part = max(1, panel_count // part_count)
        row_parts = max(1, min(part_count // panel_count, row_count // _ROWS_OF_A_PART))
        order = order_of(
            self._order_size,
            *weights_at,
            rows_at,
            result_at,
            row_count,
            inputs,
            panel_count,
            panels_of_part,
            -(-row_count // row_parts),
            row_parts,
            -(-panel_count // panels_of_part) * row_parts,
        )
        run(self._work, order, thread_count)


@cache
def _kernel() -> _Kernel | None:
    try:
        return _Kernel()
    except (ImportError, RuntimeError):
        return None
