"""Edits of hidden states at chosen tokens, after a decoder block (ReFT, arXiv 2404.03592).

h += R^T (A h + b), with the edit of the token's own adapter and group of positions. LoReFT is
A = W - R, the other variants A = W.
"""

import numpy as np
import torch
from torch import Tensor

from gossamer.kernels.hidden_edit import reference
from gossamer.kernels.hidden_edit.batch import EditBatch, EditTable, make_batch, stack_tables

__all__ = ["EditBatch", "EditTable", "HiddenEdit", "make_batch", "stack_tables"]


class HiddenEdit:
    """The operation for all decoder blocks of a model."""

    def __init__(self, pool: Tensor, backend: str) -> None:
        """pool: bytes of the block pool."""
        self._pool = pool.view(torch.float32)
        self._backend = backend

    def edit_(self, hidden: Tensor, layer: int, batch: EditBatch) -> None:
        """Edit hidden [T, d], the output of decoder block `layer`, in place."""
        tables = batch.tables
        if not tables.rank[:, layer].any():
            return
        if self._backend == "reference":
            reference.edit(batch, self._pool, layer, hidden)
            return
        # Imported late: Numba is slow to load and a process may never need it.
        from gossamer.kernels.hidden_edit import cpu

        cpu.edit(
            hidden.numpy(), self._pool.numpy(), tables.offsets,
            np.ascontiguousarray(tables.first_row[:, layer]),
            np.ascontiguousarray(tables.rank[:, layer]), batch.token, batch.slot, batch.group,
        )  # fmt: skip
