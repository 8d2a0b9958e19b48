"""torch's variable-length attention, by what its documentation says, on any device: one sequence after another, in
float64."""

from typing import Any

import torch


def _attended(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float | None, window_size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of one sequence: `query` `(queries, heads, dimension)` in its type, `keys` and `values` in float64."""
    products = torch.einsum("qhd,khd->hqk", query.double(), keys)
    products *= query.shape[-1] ** -0.5 if scale is None else scale
    position = torch.arange(len(keys) - len(query), len(keys))[:, None]
    distance = position - torch.arange(len(keys))[None]
    left, right = window_size
    hidden = torch.zeros_like(distance, dtype=torch.bool)
    if left >= 0:
        hidden |= distance > left
    if right >= 0:
        hidden |= -distance > right
    products.masked_fill_(hidden, -torch.inf)
    return torch.einsum("hqk,khd->qhd", products.softmax(-1), values).to(query.dtype), products.logsumexp(-1).float()


def plain_varlen_inputs(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Of packed sequences that each see themselves alone."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert int(cu_seq_q[0]) == 0
    assert int(cu_seq_q[-1]) == len(query) == len(key) == len(value)
    assert int(cu_seq_q.diff().max()) <= max_q == max_k
    shared_by = query.shape[1] // key.shape[1]
    assert enable_gqa or shared_by == 1
    output = torch.full_like(query, torch.nan)
    for first, last in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        keys, values = (each[first:last].double().repeat_interleave(shared_by, 1) for each in (key, value))
        output[first:last] = _attended(query[first:last], keys, values, scale, window_size)[0]
    return output


def plain_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: torch.Tensor,
    block_table: torch.Tensor,
    num_splits: int | None = None,
) -> Any:
    """`(left, right)` of `window_size` are counted from where the last query meets the last key; -1 is no bound. With
    `return_aux` also the logarithm of each sum, `(heads, tokens)`, mixed up as FlashAttention's kernel for paged caches
    leaves them where it computes lone queries together."""
    assert num_splits == 1
    assert all(each.dtype == torch.int32 for each in (cu_seq_q, cu_seq_k, seqused_k, block_table))
    assert int(cu_seq_q[0]) == int(cu_seq_k[0]) == 0
    assert int(cu_seq_q[-1]) == len(query)
    assert torch.equal(cu_seq_k.diff(), seqused_k)
    assert int(cu_seq_q.diff().max()) <= max_q
    assert int(seqused_k.max()) <= max_k
    shared_by = query.shape[1] // key.shape[2]
    assert enable_gqa or shared_by == 1
    output = torch.full((*query.shape[:2], value.shape[-1]), torch.nan, dtype=query.dtype)
    sums = torch.full((query.shape[1], len(query)), torch.nan)
    for row in range(len(seqused_k)):
        first, last, count = int(cu_seq_q[row]), int(cu_seq_q[row + 1]), int(seqused_k[row])
        keys = key[block_table[row].long()].flatten(0, 1)[:count].double().repeat_interleave(shared_by, 1)
        values = value[block_table[row].long()].flatten(0, 1)[:count].double().repeat_interleave(shared_by, 1)
        output[first:last], sums[:, first:last] = _attended(query[first:last], keys, values, scale, window_size)
    if max_q == 1 and window_size == (
        -1,
        -1,
    ):  # those that share a key head
        together = sums.view(key.shape[2], shared_by, len(query)).transpose(1, 2)
        sums = together.reshape(query.shape[1], len(query))
    return output if return_aux is None else (output, sums)
