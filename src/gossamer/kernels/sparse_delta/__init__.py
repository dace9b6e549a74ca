"""Sparse weight changes: many adapters in one batch, entries or blocks reached through tables.

y += weight * x S^T per token, with the sparse S of the token's own adapter: gather inputs,
multiply, add to outputs (SHiRA, arXiv 2406.13175; SMT, arXiv 2405.15525). Nothing is made dense or
padded.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from gossamer.kernels.sparse_delta.batch import (
    SparseBatch,
    SparseTable,
    SparseTables,
    make_batch,
    stack_tables,
    table_arena,
)
from gossamer.kernels.sparse_delta.reference import ReferenceSparseDelta

__all__ = [
    "SparseBatch",
    "SparseDelta",
    "SparseTable",
    "SparseTables",
    "make_batch",
    "make_sparse_delta",
    "stack_tables",
    "table_arena",
]


class SparseDelta(Protocol):
    """The operation for one group of modules that read the same input."""

    def add_(self, y: Tensor, x: Tensor, batch: SparseBatch) -> None:
        """Add to y [T, sum of widths], in place, what the adapters make of x [T, h_in]."""


def make_sparse_delta(
    pool: Tensor, modules: Sequence[int], widths: Sequence[int], backend: str
) -> SparseDelta:
    """Make the operation of `backend` over `pool`, the bytes of the block pool.

    modules: their ids; widths: h_out of each, in order.
    """
    if backend == "reference":
        return ReferenceSparseDelta(pool, modules, widths)
    # Imported late: Numba is slow to load and a process may never need it.
    from gossamer.kernels.sparse_delta.cpu import CpuSparseDelta

    return CpuSparseDelta(pool, modules, widths)
