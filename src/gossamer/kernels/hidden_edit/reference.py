"""Edits in plain torch: states the operation; the oracle of the tests."""

import torch
from torch import Tensor

from gossamer.kernels.hidden_edit.batch import EditBatch


class ReferenceHiddenEdit:
    """See `HiddenEdit`; any device and dtype."""

    def __init__(self, pool: Tensor) -> None:
        self._pool = pool.view(torch.float32)

    def edit_(self, hidden: Tensor, layer: int, batch: EditBatch) -> None:
        """See `HiddenEdit.edit_`."""
        if batch.has_edits_after(layer):
            edit(batch, self._pool, layer, hidden)


def edit(batch: EditBatch, pool: Tensor, layer: int, hidden: Tensor) -> None:
    """hidden[t] += R^T (A hidden[t] + b) for each edited token t of hidden [T, d].

    pool: the block pool as float32.
    """
    tables = batch.tables
    for token, slot, group in zip(batch.token, batch.slot, batch.group, strict=True):
        rank = int(tables.rank[slot, layer, group])
        if rank == 0:
            continue
        first = int(tables.first_row[slot, layer, group])
        offsets = torch.from_numpy(tables.offsets[first : first + 2 * rank + 1])
        rows = pool[offsets[:-1, None] + torch.arange(hidden.shape[1])].to(hidden.dtype)
        bias = pool[offsets[-1] : offsets[-1] + rank].to(hidden.dtype)
        hidden[token] += (rows[:rank] @ hidden[token] + bias) @ rows[rank:]
