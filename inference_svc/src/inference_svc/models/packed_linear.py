"""A linear layer whose weight is laid out for a matrix kernel, and what must hold before it takes a layer's place."""

import torch
from torch import nn
from torch.nn.functional import linear


class PackedLinear(nn.Module):
    """Takes `(..., inputs)`, gives `(..., outputs)`."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """`weight` `(outputs, inputs)`, `bias` `(outputs,)`. Raises AttributeError or RuntimeError where this kind
        takes no such weight, or is not to be had."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype

    def agrees_with(self, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
        """Whether it computes what the plain layer does."""
        features = _noise(3, self.in_features, weight.dtype)
        expected = linear(features, weight, bias).float()
        difference = (self(features).float() - expected).abs().max()
        tolerance = 1e-4 if weight.dtype == torch.float32 else 2e-2
        return bool(difference <= tolerance * expected.abs().max().clamp(min=1e-6))

    @property
    def checked_row_counts(self) -> tuple[int, ...]:
        return (2, 3, 5, 16, 31, 64, 200)

    def rows_are_independent(self) -> bool:
        """Whether a row comes out in the same bits whatever the number of its neighbours: of those checked."""
        features = _noise(max(self.checked_row_counts), self.in_features, self.dtype)
        expected = self(features)
        return all(torch.equal(self(features[:count]), expected[:count]) for count in self.checked_row_counts)


def _noise(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows * columns)
    return torch.randn(rows, columns, generator=generator).to(dtype)
