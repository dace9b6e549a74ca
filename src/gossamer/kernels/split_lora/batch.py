"""What the halves of a divided low-rank adapter need to know of a step: plain arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gossamer.kernels.arena import TableArena
from gossamer.kernels.grouped_lora import RowFormat
from gossamer.kernels.grouped_lora.batch import chunk_length
from gossamer.kernels.runs import Chunks, Run, cut

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTable:
    """Places of one rank's share of a resident adapter's rows in the pool.

    A row is a vector of one factor: of A as wide as the rank's inputs, or of B transposed as wide
    as its outputs. The rows of module m are `offsets[first_row[m] :][: own[m] + rank[m]]`, first
    those of A. Ranks differ in `offsets` alone, and in the scales of rows.
    """

    first_row: LongArray
    """Shape [M]: index into `offsets` of each module's first row; M modules of the whole model."""
    own: IntArray
    """Shape [M]: rows of A that each rank has; those that make the shares equal are zero."""
    rank: IntArray
    """Shape [M]: rank of each module; 0: the adapter leaves the module alone."""
    scale: npt.NDArray[np.float32]
    """Shape [M]: factor of each module's product."""
    offsets: LongArray
    """Shape [rows]: offset in the pool of each row, in elements of its own width."""
    row_scale: npt.NDArray[np.float32]
    """Shape [rows]: what the elements of each row are multiplied by; 1 unless `format` is INT8."""
    format: RowFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTables:
    """The tables of U adapters, side by side."""

    first_row: LongArray  # [U, M] into offsets
    own: IntArray  # [U, M]
    rank: IntArray  # [U, M]
    scale: npt.NDArray[np.float32]  # [U, M]
    format: IntArray  # [U] values of RowFormat
    total_rank: LongArray  # [U] sum over the modules
    offsets: LongArray  # [all rows]
    row_scale: npt.NDArray[np.float32]  # [all rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitBatch:
    """Maps the tokens of a batch to their adapters.

    What travels has an entry for each token of each run, in the order of the runs, which is the
    same on all ranks; how runs are cut into chunks is each rank's own affair.
    """

    tables: SplitTables
    chunks: Chunks
    entry: IntArray
    """Shape [chunks]: the entry of each chunk's first token."""
    num_entries: int
    own: IntArray
    """Shape [M]: the most own rows that an adapter of the step has of each module."""

    def width(self, modules: Sequence[int] | LongArray) -> int:
        """Return the most own rows of a module of a group; 0: no adapter acts on it."""
        return int(self.own[modules].max())


def table_arena() -> TableArena[SplitTable, SplitTables]:
    """Make an empty arena for the tables of this operation."""
    return TableArena(
        SplitTables,
        modules=("first_row", "own", "rank", "scale"),
        numbers={
            "format": lambda table: np.int32(table.format),
            "total_rank": lambda table: table.rank.sum(dtype=np.int64),
        },
        rows=("offsets", "row_scale"),
        pointer="first_row",
    )


def stack_tables(adapters: Sequence[SplitTable]) -> SplitTables:
    """Put tables side by side, the slot of each being its place in `adapters`."""
    return table_arena().stack(adapters)


def make_batch(tables: SplitTables, runs: Sequence[Run], num_workers: int) -> SplitBatch:
    """Describe a step with these runs; runs over the same tokens follow each other."""
    slots = np.array([run.slot for run in runs], dtype=np.int32)
    first = np.array([run.first for run in runs], dtype=np.int32)
    sizes = np.array([run.size for run in runs], dtype=np.int32)

    def cost(number: int, count: int) -> float:
        # As of `grouped_lora`: reading the rows, and a tenth of that for each further token.
        return float(tables.total_rank[slots[number]]) * (9 + count)

    # Cut by the number of the run, so that each chunk is known to be a piece of it.
    numbered = [run._replace(slot=number) for number, run in enumerate(runs)]
    length = chunk_length(int(sizes.sum()), num_workers)
    cuts = cut(numbered, length, num_workers, cost)
    of_run = np.cumsum(sizes, dtype=np.int32) - sizes - first
    return SplitBatch(
        tables=tables,
        chunks=Chunks(
            first=cuts.first,
            count=cuts.count,
            slot=slots[cuts.slot],
            weight=cuts.weight,
            bounds=cuts.bounds,
        ),
        entry=of_run[cuts.slot] + cuts.first,
        num_entries=int(sizes.sum()),
        own=tables.own[slots].max(axis=0),
    )
