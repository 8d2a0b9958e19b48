"""How the rows of a step are laid end to end over a paged cache: single tokens first, then chunks."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from inference_svc.engine.runner import Row
from inference_svc.models.block_tables import BlockTables
from inference_svc.models.step_buffers import HostStep, Ints, Longs, StepShape


@dataclass(frozen=True, slots=True)
class Chunk:
    """Packed tokens `first` up to `last` are positions `start` and up of the sequence in row `row`."""

    first: int
    last: int
    row: int
    start: int


def _longs(count: int = 0) -> Longs:
    return np.zeros(count, dtype=np.int64)


@dataclass(slots=True)
class PagedPlan:
    """The first `singles` packed tokens are a row each. `row_ends` is by row as it came."""

    token_ids: Longs = field(default_factory=_longs)
    positions: Longs = field(default_factory=_longs)
    places: Longs = field(default_factory=_longs)
    table: Ints = field(default_factory=lambda: np.zeros((0, 1), dtype=np.int32))
    key_counts: Longs = field(default_factory=_longs)
    singles: int = 0
    chunks: list[Chunk] = field(default_factory=list)
    row_ends: list[int] = field(default_factory=list)

    @property
    def longest_chunk(self) -> int:
        return max((chunk.last - chunk.first for chunk in self.chunks), default=1)

    def shape(self, wanted: int) -> StepShape:
        """The smallest that holds it."""
        return StepShape(len(self.token_ids), len(self.key_counts), self.table.shape[1], max(1, wanted))

    def fill(self, host: HostStep, wanted: Sequence[int]) -> None:
        """Fill buffers of at least this plan's shape. The rest stays as it was: in a row of the table behind its keys,
        where nobody reads, and in rows behind the plan's, for which there is `fill_padding`."""
        tokens, (rows, blocks) = len(self.token_ids), self.table.shape
        host.token_ids[:tokens] = self.token_ids
        host.positions[:tokens] = self.positions
        host.places[:tokens] = self.places
        host.wanted[: len(wanted)] = wanted
        host.table[:rows, :blocks] = self.table
        host.key_counts[:rows] = self.key_counts
        lengths = [1] * self.singles + [chunk.last - chunk.first for chunk in self.chunks]
        for ends, counts in ((host.query_ends, lengths), (host.key_ends, self.key_counts)):
            fill_ends(ends[: rows + 2], counts, self.singles)


def plan_paged(rows: Sequence[Row], tables: BlockTables) -> PagedPlan:
    """Lay the rows out. Their slots' tables must reach as far as the rows do; the plan's has as many blocks a row as
    the longest of them needs."""
    singles = [index for index, row in enumerate(rows) if len(row.token_ids) == 1]
    others = [index for index, row in enumerate(rows) if len(row.token_ids) != 1]
    ordered = [rows[index] for index in (*singles, *others)]
    ends = np.array([row.start + len(row.token_ids) for row in ordered], dtype=np.int64)
    lengths = np.array([len(row.token_ids) for row in ordered], dtype=np.int64)
    packed_ends = np.cumsum(lengths)
    row_of = np.repeat(np.arange(len(ordered)), lengths)
    positions = np.arange(packed_ends[-1]) - (packed_ends - ends)[row_of]
    table = tables.rows[[row.slot for row in ordered], : -(-int(ends.max()) // tables.block_tokens)]
    places = table[row_of, positions // tables.block_tokens].astype(np.int64) * tables.block_tokens
    plan = PagedPlan(
        token_ids=np.fromiter((token for row in ordered for token in row.token_ids), np.int64, int(packed_ends[-1])),
        positions=positions,
        places=places + positions % tables.block_tokens,
        table=table,
        key_counts=ends,
        singles=len(singles),
        chunks=[
            Chunk(int(packed_ends[at] - lengths[at]), int(packed_ends[at]), at, ordered[at].start)
            for at in range(len(singles), len(ordered))
        ],
        row_ends=[0] * len(rows),
    )
    for at, index in enumerate((*singles, *others)):
        plan.row_ends[index] = int(packed_ends[at])
    return plan


def fill_ends(ends: Ints, counts: Sequence[int] | Longs, singles: int) -> None:
    """`(rows + 2,)` of the `counts` of each row: sums from 0 over the single ones, and from 0 again over the others."""
    ends[0] = ends[singles + 1] = 0
    ends[1 : singles + 1] = np.cumsum(counts[:singles])
    ends[singles + 2 :] = np.cumsum(counts[singles:])


def fill_padding(host: HostStep, first: int, scratch: int, block_tokens: int) -> None:
    """Lay single rows from number `first` on that write to the scratch block, see that alone, and are read by nobody.
    All rows of these buffers are single ones."""
    host.token_ids[first:] = 0
    host.positions[first:] = 0
    host.places[first:] = scratch * block_tokens
    host.table[first:] = scratch
    host.key_counts[first:] = 1
    host.wanted[:] = np.arange(len(host.wanted))
    host.query_ends[:] = np.arange(len(host.query_ends))
    host.key_ends[first + 1 :] = host.key_ends[first] + np.arange(1, len(host.key_ends) - first)
