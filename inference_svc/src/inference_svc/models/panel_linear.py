"""Linear layers whose float32 weights lie in panels for a kernel of our own."""

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
        self._weights = kernel.in_panels(weight.detach().t())
        self._bias = kernel.in_panels(
            (torch.zeros(self.out_features, dtype=weight.dtype) if bias is None else bias.detach())[None]
        )

    @property
    def checked_row_counts(self) -> tuple[int, ...]:
        return (1, 4, *super().checked_row_counts)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        kernel = _kernel()
        assert kernel is not None
        rows = features.reshape(-1, self.in_features).contiguous()
        result = kernel.product(rows, self._weights, self._bias)[:, : self.out_features].contiguous()
        return result.view(*features.shape[:-1], self.out_features)


class _Kernel:
    """The compiled work, and how it is parted."""

    def __init__(self) -> None:
        from inference_svc.models.panel_kernel import INPUTS_AT_ONCE, ORDER_SIZE, PANEL, compile_product

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

    def product(self, rows: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """`rows` `(rows, inputs)`; gives `(rows, panels * outputs of a panel)`."""
        row_count, input_count = rows.shape
        panel_count = len(weights)
        result = rows.new_empty(row_count, panel_count * self._panel)
        if not row_count:
            return result
        thread_count = torch.get_num_threads()
        if row_count * input_count * panel_count * self._panel < _WORTH_SHARING:
            thread_count = 1
        part_count = 1 if thread_count == 1 else thread_count * _PARTS_OF_A_THREAD
        panels_of_part = max(1, panel_count // part_count)
        row_parts = max(1, min(part_count // panel_count, row_count // _ROWS_OF_A_PART))
        order = order_of(
            self._order_size,
            address_of(weights, torch.float32, panel_count, input_count, self._panel),
            address_of(bias, torch.float32, panel_count, 1, self._panel),
            address_of(rows, torch.float32, row_count, input_count),
            address_of(result, torch.float32, row_count, panel_count * self._panel),
            row_count,
            input_count,
            panel_count,
            panels_of_part,
            -(-row_count // row_parts),
            row_parts,
            -(-panel_count // panels_of_part) * row_parts,
        )
        run(self._work, order, thread_count)
        return result


@cache
def _kernel() -> _Kernel | None:
    try:
        return _Kernel()
    except (ImportError, RuntimeError):
        return None
