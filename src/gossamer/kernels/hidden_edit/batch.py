"""What edits need to know of a step: plain arrays of fixed layout, built once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gossamer.kernels.arena import TableArena

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]

FIRST, LAST = 0, 1
"""The two groups of positions that are edited: a prompt's first tokens and its last ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditTable:
    """Places of one resident adapter's edits, float32; L decoder blocks of the whole model.

    The rows of an edit are `offsets[first_row[l, group] :][: 2 * rank + 1]`: those of A [rank, d],
    those of R [rank, d], and b [rank].
    """

    first_row: LongArray
    """Shape [L, 2]: index into `offsets` of an edit's first row."""
    rank: IntArray
    """Shape [L, 2]: rank of each edit; 0: no edit."""
    offsets: LongArray
    """Shape [rows]: place of each row in the pool, in elements."""
    first_positions: int
    """How many tokens at the start of a prompt are edited."""
    last_positions: int
    """How many tokens at the end of a prompt are edited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditTables:
    """The tables of U adapters, side by side."""

    first_row: LongArray  # [U, L, 2]
    rank: IntArray  # [U, L, 2]
    offsets: LongArray  # [all rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class EditBatch:
    """The E tokens of a batch that are edited, each with its edit."""

    tables: EditTables
    token: IntArray  # [E] place in the batch
    slot: IntArray  # [E] which adapter of `tables`
    group: IntArray  # [E] FIRST or LAST

    edited: npt.NDArray[np.bool_]
    """Shape [L]: whether any adapter of the step edits the output of the decoder block."""

    def has_edits_after(self, layer: int) -> bool:
        """Whether any adapter of the step edits the output of decoder block `layer`."""
        return bool(self.edited[layer])


def table_arena() -> TableArena[EditTable, EditTables]:
    """Make an empty arena for the tables of this operation."""
    return TableArena(
        EditTables,
        modules=("first_row", "rank"),
        numbers={},
        rows=("offsets",),
        pointer="first_row",
    )


def stack_tables(adapters: Sequence[EditTable]) -> EditTables:
    """Put tables side by side, the slot of each being its place in `adapters`."""
    return table_arena().stack(adapters)


def make_batch(tables: EditTables, edits: Sequence[tuple[int, int, int]]) -> EditBatch:
    """Describe a step whose `edits` are (token, slot, group); each token once at most."""
    columns = np.array(edits, dtype=np.int32).reshape(-1, 3)
    token, slot, group = np.ascontiguousarray(columns.T)
    edited = (tables.rank[np.unique(slot)] > 0).any(axis=(0, 2))
    return EditBatch(tables=tables, token=token, slot=slot, group=group, edited=edited)
