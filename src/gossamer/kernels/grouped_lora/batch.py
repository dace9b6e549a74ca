"""What grouped LoRA needs to know of a step: plain arrays of fixed layout, built once."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import torch

from gossamer.kernels.arena import TableArena
from gossamer.kernels.runs import Chunks, Run, cut

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]

SHORTEST_CHUNK, LONGEST_CHUNK = 8, 32
"""The bounds of the tokens in a chunk of a run: short ones where there are few tokens, so that all
threads have a share, and long ones where there are many, so that rows are read once for more."""
_CHUNKS_PER_WORKER = 8


class RowFormat(IntEnum):
    """The format of an adapter's rows in the pool."""

    FLOAT32 = 0
    BFLOAT16 = 1
    INT8 = 2
    """Whole numbers from -127 to 127, times the row's own scale."""
    FLOAT16 = 3
    """For kernels of GPUs and plain torch alone."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of a row's elements."""
        return (torch.float32, torch.bfloat16, torch.int8, torch.float16)[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraTable:
    """Places of one resident adapter's rows in the pool.

    A row is a vector of one factor: row j of A (width h_in) or row j of B transposed (width h_out).
    The rows of module m are `offsets[first_row[m] :][: 2 * rank[m]]`, first those of A.
    """

    first_row: LongArray
    """Shape [M]: index into `offsets` of each module's first row; M modules of the whole model."""
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
class LoraTables:
    """The tables of U adapters, side by side."""

    first_row: LongArray  # [U, M] into offsets
    rank: IntArray  # [U, M]
    scale: npt.NDArray[np.float32]  # [U, M]
    format: IntArray  # [U] values of RowFormat
    total_rank: LongArray  # [U] sum over the modules
    offsets: LongArray  # [all rows]
    row_scale: npt.NDArray[np.float32]  # [all rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraBatch:
    """Maps the tokens of a batch to their adapters; tokens of one adapter are contiguous."""

    tables: LoraTables
    chunks: Chunks


def table_arena() -> TableArena[LoraTable, LoraTables]:
    """Make an empty arena for the tables of this operation."""
    return TableArena(
        LoraTables,
        modules=("first_row", "rank", "scale"),
        numbers={
            "format": lambda table: np.int32(table.format),
            "total_rank": lambda table: table.rank.sum(dtype=np.int64),
        },
        rows=("offsets", "row_scale"),
        pointer="first_row",
    )


def stack_tables(adapters: Sequence[LoraTable]) -> LoraTables:
    """Put tables side by side, the slot of each being its place in `adapters`."""
    return table_arena().stack(adapters)


def make_batch(tables: LoraTables, runs: Sequence[Run], num_workers: int) -> LoraBatch:
    """Describe a step with these runs; runs over the same tokens follow each other."""

    total_ranks = tables.total_rank.tolist()

    def cost(slot: int, count: int) -> int:
        # Reading the rows is the cost of a chunk; each further token of it adds about a tenth.
        return total_ranks[slot] * (9 + count)

    num_tokens = sum(run.size for run in runs)
    return LoraBatch(
        tables=tables, chunks=cut(runs, chunk_length(num_tokens, num_workers), num_workers, cost)
    )


def chunk_length(num_tokens: int, num_workers: int) -> int:
    """The tokens of a chunk, chosen so that each worker gets several chunks; a multiple of what the
    kernel takes at a time."""
    fair = num_tokens // (_CHUNKS_PER_WORKER * num_workers) // 4 * 4
    return min(max(fair, SHORTEST_CHUNK), LONGEST_CHUNK)
