"""Grouped LoRA: many adapters of any rank in one batch, rows reached through an offset table.

y += scale * (x A^T) B^T per token, with the factors of the token's own adapter (S-LoRA,
arXiv 2311.03285, "heterogeneous batching"; no padding of memory, bytes or arithmetic).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gossamer.kernels.grouped_lora import reference
from gossamer.kernels.grouped_lora.batch import (
    LoraBatch,
    LoraTable,
    RowFormat,
    make_batch,
    stack_tables,
)

__all__ = ["GroupedLora", "LoraBatch", "LoraTable", "RowFormat", "make_batch", "stack_tables"]


class GroupedLora:
    """The operation for one group of modules that read the same input (q, k, v; gate, up; ...)."""

    def __init__(
        self, pool: Tensor, modules: Sequence[int], widths: Sequence[int], backend: str
    ) -> None:
        """pool: bytes of the block pool; modules: their ids; widths: h_out of each, in order."""
        self._pool = pool
        self._modules = list(modules)
        self._columns = [0, *np.cumsum(widths).tolist()]
        self._backend = backend
        self._modules_array = np.array(self._modules, dtype=np.int64)
        self._columns_array = np.array(self._columns, dtype=np.int64)
        self._pool_float = pool.view(torch.float32).numpy()
        self._pool_half = pool.view(torch.int16).numpy().view(np.uint16)
        self._pool_int8 = pool.view(torch.int8).numpy()

    def add_(self, y: Tensor, x: Tensor, batch: LoraBatch) -> None:
        """Add to y [T, sum of widths], in place, what the adapters make of x [T, h_in]."""
        if self._backend == "reference":
            reference.add_lora(batch, self._pool, self._modules, self._columns, x, y)
            return
        if not len(batch.chunks):
            return
        # Imported late: Numba is slow to load and a process may never need it.
        from gossamer.kernels.grouped_lora import cpu

        tables, chunks = batch.tables, batch.chunks
        cpu.add_lora(
            x.numpy(), y.numpy(), self._columns_array, self._pool_float, self._pool_half,
            self._pool_int8, tables.offsets, tables.row_scale, tables.first_row, tables.rank,
            tables.scale, tables.format, self._modules_array, chunks.first, chunks.count,
            chunks.slot, chunks.weight, chunks.bounds,
        )  # fmt: skip
