"""What sparse changes need to know of a step: plain arrays of fixed layout, built once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gossamer.kernels.arena import TableArena
from gossamer.kernels.runs import Chunks, IntArray, Run, cut

LongArray = npt.NDArray[np.int64]

SHORT = 8
"""The most tokens in a chunk of an ordinary run: few, so that threads can share a run."""

LONG_RUN = 64
"""Runs from this number of tokens on are cut into chunks of LONG: entries are read less often."""

LONG = 64
"""The most tokens in a chunk of a long run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseTable:
    """Places of one resident adapter's entries, as segments: entries of one output row.

    A segment is contiguous in the pool: its values, then (unless its columns are consecutive) its
    columns as int32. Values are float32, or bfloat16 padded to whole 4 bytes.
    """

    first: LongArray  # [M] first segment of each module; M modules of the whole model
    count: LongArray  # [M] its segments
    row: IntArray  # [S] output of the module
    column: IntArray  # [S] first input if the columns are consecutive, else -1
    length: IntArray  # [S] entries
    offset: LongArray  # [S] place in the pool, in 4-byte elements
    half: bool
    """Whether values are bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseTables:
    """The tables of U adapters, side by side."""

    first: LongArray  # [U, M]
    count: LongArray  # [U, M]
    half: npt.NDArray[np.bool_]  # [U]
    row: IntArray  # [all S]
    column: IntArray
    length: IntArray
    offset: LongArray
    entries: LongArray  # [U] of each adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseBatch:
    """Maps the tokens of a batch to the adapters whose changes they meet."""

    tables: SparseTables
    short: Chunks
    long: Chunks


def table_arena() -> TableArena[SparseTable, SparseTables]:
    """Make an empty arena for the tables of this operation."""
    return TableArena(
        SparseTables,
        modules=("first", "count"),
        numbers={
            "half": lambda table: np.bool_(table.half),
            "entries": lambda table: table.length.sum(dtype=np.int64),
        },
        rows=("row", "column", "length", "offset"),
        pointer="first",
    )


def stack_tables(adapters: Sequence[SparseTable]) -> SparseTables:
    """Put tables side by side, the slot of each being its place in `adapters`."""
    return table_arena().stack(adapters)


def make_batch(tables: SparseTables, runs: Sequence[Run], num_workers: int) -> SparseBatch:
    """Describe a step with these runs; runs over the same tokens follow each other."""

    def cost(slot: int, count: int) -> float:
        return float(tables.entries[slot]) * count

    return SparseBatch(
        tables=tables,
        short=cut([r for r in runs if r.size < LONG_RUN], SHORT, num_workers, cost),
        long=cut([r for r in runs if r.size >= LONG_RUN], LONG, num_workers, cost),
    )
