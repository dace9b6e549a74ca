"""Sparse weight changes: many adapters in one batch, entries or blocks reached through tables.

y += weight * x S^T per token, with the sparse S of the token's own adapter: gather inputs,
multiply, add to outputs (SHiRA, arXiv 2406.13175; SMT, arXiv 2405.15525). Nothing is made dense or
padded.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gossamer.kernels.runs import Chunks
from gossamer.kernels.sparse_delta import reference
from gossamer.kernels.sparse_delta.batch import (
    SparseBatch,
    SparseTable,
    SparseTables,
    make_batch,
    stack_tables,
)

__all__ = ["SparseBatch", "SparseDelta", "SparseTable", "make_batch", "stack_tables"]


class SparseDelta:
    """The operation for one group of modules that read the same input."""

    def __init__(
        self, pool: Tensor, modules: Sequence[int], widths: Sequence[int], backend: str
    ) -> None:
        """pool: bytes of the block pool; modules: their ids; widths: h_out of each, in order."""
        self._pool = pool
        self._modules = np.array(modules, dtype=np.int64)
        self._columns = np.array([0, *np.cumsum(widths)], dtype=np.int64)
        self._backend = backend
        self._pool_float = pool.view(torch.float32).numpy()
        self._pool_half = pool.view(torch.int16).numpy().view(np.uint16)
        self._pool_int = pool.view(torch.int32).numpy().view(np.uint32)

    def add_(self, y: Tensor, x: Tensor, batch: SparseBatch) -> None:
        """Add to y [T, sum of widths], in place, what the adapters make of x [T, h_in]."""
        if self._backend == "reference":
            reference.add_sparse(
                batch, self._pool, self._modules.tolist(), self._columns.tolist(), x, y
            )
            return
        for chunks in (batch.short, batch.long):
            if len(chunks):
                self._add(y, x, batch.tables, chunks)

    def _add(self, y: Tensor, x: Tensor, tables: SparseTables, chunks: Chunks) -> None:
        # Imported late: Numba is slow to load and a process may never need it.
        from gossamer.kernels.sparse_delta import cpu

        cpu.add_sparse(
            x.numpy(), y.numpy(), self._columns, self._modules, self._pool_float, self._pool_half,
            self._pool_int, tables.first, tables.count, tables.half, tables.row, tables.column,
            tables.length, tables.offset, chunks.first, chunks.count, chunks.slot, chunks.weight,
            chunks.bounds,
        )  # fmt: skip
