"""Grouped LoRA in two halves, between which the ranks of a divided model say what each has found.

The halves are those of `grouped_lora`: v = x A^T, then y += scale * v B^T. A rank has a share of
the rows of A, or of their columns, and a share of the outputs of B (S-LoRA, arXiv 2311.03285,
section 6). What travels between the halves is one dense buffer for all modules of a group.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from gossamer.kernels.split_lora.batch import (
    SplitBatch,
    SplitTable,
    make_batch,
    stack_tables,
    table_arena,
)
from gossamer.kernels.split_lora.reference import ReferenceSplitLora

__all__ = [
    "SplitBatch",
    "SplitLora",
    "SplitTable",
    "make_batch",
    "make_split_lora",
    "stack_tables",
    "table_arena",
]


class SplitLora(Protocol):
    """The two halves for one group of modules that read the same input (q, k, v; gate, up; ...)."""

    def shrink(self, x: Tensor, batch: SplitBatch) -> Tensor | None:
        """Return v [entries, modules, width]: the rank's own rows of A times x [T, h_in].

        width: the most own rows of a module that the step's adapters have; the rest is zero. None
        if no adapter of the step acts on the group: that is so on all ranks.
        """

    def expand_(self, y: Tensor, v: Tensor, batch: SplitBatch) -> None:
        """Add to the columns of y [T, all outputs] what B makes of v, in place.

        v: [parts, entries, modules, width]; row j of a module is the own row j modulo their number
        of the part that the quotient tells.
        """


def make_split_lora(
    pool: Tensor, modules: Sequence[int], columns: Sequence[tuple[int, int]], backend: str
) -> SplitLora:
    """Make the operation of `backend` over `pool`, the bytes of the block pool.

    modules: their ids; columns: the outputs in y, from and to, that each has rows of B for.
    """
    if backend == "reference":
        return ReferenceSplitLora(pool, modules, columns)
    # Imported late: Numba is slow to load and a process may never need it.
    from gossamer.kernels.split_lora.cpu import CpuSplitLora

    return CpuSplitLora(pool, modules, columns)
