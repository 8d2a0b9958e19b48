"""Attention proper: weights from products, softcapped or with sinks where a layer asks for it."""

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

_SHARED_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a layer turns products of queries and keys into weights. `sinks` is a logit that each head adds for attending
    to nothing: one a head, or None."""

    scaling: float | None
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    def sinks_as(self, *shape: int) -> "Scoring":
        """The same with the sinks laid out to match heads in a query of that shape."""
        if self.sinks is None:
            return self
        return Scoring(self.scaling, self.softcap, self.sinks.view(shape))


def weigh(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scoring: Scoring
) -> torch.Tensor:
    """`query` `(a, b, queries, dimension)`, `key` and `value` `(a, b, keys, dimension)`; `mask` is added to the
    products, and the sinks broadcast to `(a, b, queries, 1)`."""
    if scoring.softcap is None and scoring.sinks is None:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scoring.scaling)
    if key.stride(0) == 0 and len(query) > 1:
        return _weigh_shared(query, key, value, mask, scoring)
    return _weigh_plainly(query, key, value, mask, scoring)


def _weigh_shared(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scoring: Scoring
) -> torch.Tensor:
    """Queries of one sequence: a few at a time with keys of their own, so that the product has the memory layout, and
    therefore the bits, that each would have among the queries of other sequences."""
    parts = []
    for start in range(0, len(query), _SHARED_AT_ONCE):
        part = slice(start, start + _SHARED_AT_ONCE)
        keys, values = key[part].contiguous(), value[part].contiguous()
        parts.append(_weigh_plainly(query[part], keys, values, mask[part], scoring))
    return torch.cat(parts)


def _weigh_plainly(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scoring: Scoring
) -> torch.Tensor:
    scale = query.shape[-1] ** -0.5 if scoring.scaling is None else scoring.scaling
    products = query @ key.transpose(-2, -1) * scale
    if scoring.softcap is not None:
        products = torch.tanh(products / scoring.softcap) * scoring.softcap
    products = products + mask
    if scoring.sinks is None:
        return torch.softmax(products, -1, dtype=torch.float32).to(query.dtype) @ value
    sink = scoring.sinks.to(products.dtype).expand(*products.shape[:-1], 1)
    weights = torch.softmax(torch.cat([products, sink], -1), -1, dtype=torch.float32)
    return weights[..., :-1].to(query.dtype) @ value
