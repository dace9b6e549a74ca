"""Edits on processors, in Numba. Tokens are independent: each takes a worker's turn."""

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from gossamer.kernels.cpu import FAST, add_scaled, dot
from gossamer.kernels.hidden_edit.batch import EditBatch


@njit(cache=True, parallel=True, nogil=True, fastmath=FAST)
def edit(hidden, pool, offsets, first_rows, ranks, tokens, slots, groups):
    """hidden[t] += R^T (A hidden[t] + b); first_rows, ranks [U, 2] are those of one block."""
    width = hidden.shape[1]
    for item in prange(tokens.shape[0]):
        rank = ranks[slots[item], groups[item]]
        first = first_rows[slots[item], groups[item]]
        h = hidden[tokens[item]]
        v = np.empty(rank, dtype=np.float32)
        for j in range(rank):
            low = offsets[first + j]
            v[j] = dot(h, pool[low : low + width]) + pool[offsets[first + 2 * rank] + j]
        for j in range(rank):
            low = offsets[first + rank + j]
            add_scaled(h, v[j], pool[low : low + width])


class CpuHiddenEdit:
    """See `HiddenEdit`; float32."""

    def __init__(self, pool: Tensor) -> None:
        self._pool = pool.view(torch.float32).numpy()

    def edit_(self, hidden: Tensor, layer: int, batch: EditBatch) -> None:
        """See `HiddenEdit.edit_`."""
        tables = batch.tables
        if batch.has_edits_after(layer):
            edit(
                hidden.numpy(), self._pool, tables.offsets,
                np.ascontiguousarray(tables.first_row[:, layer]),
                np.ascontiguousarray(tables.rank[:, layer]), batch.token, batch.slot, batch.group,
            )  # fmt: skip
