"""Grouped LoRA: many adapters of any rank in one batch, rows reached through an offset table.

y += scale * (x A^T) B^T per token, with the factors of the token's own adapter (S-LoRA,
arXiv 2311.03285, "heterogeneous batching"; no padding of memory, bytes or arithmetic).
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from gossamer.kernels.grouped_lora.batch import (
    LoraBatch,
    LoraTable,
    RowFormat,
    make_batch,
    stack_tables,
    table_arena,
)
from gossamer.kernels.grouped_lora.reference import ReferenceGroupedLora

__all__ = [
    "GroupedLora",
    "LoraBatch",
    "LoraTable",
    "RowFormat",
    "make_batch",
    "make_grouped_lora",
    "stack_tables",
    "table_arena",
]


class GroupedLora(Protocol):
    """The operation for one group of modules that read the same input (q, k, v; gate, up; ...)."""

    def add_(self, y: Tensor, x: Tensor, batch: LoraBatch) -> None:
        """Add to y [T, sum of widths], in place, what the adapters make of x [T, h_in]."""


def make_grouped_lora(
    pool: Tensor, modules: Sequence[int], widths: Sequence[int], backend: str
) -> GroupedLora:
    """Make the operation of `backend` over `pool`, the bytes of the block pool.

    modules: their ids; widths: h_out of each, in order.
    """
    if backend == "reference":
        return ReferenceGroupedLora(pool, modules, widths)
    # Imported late: Numba is slow to load and a process may never need it.
    from gossamer.kernels.grouped_lora.cpu import CpuGroupedLora

    return CpuGroupedLora(pool, modules, widths)
