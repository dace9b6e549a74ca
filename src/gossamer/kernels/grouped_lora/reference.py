"""Grouped LoRA in plain torch: states the operation; the oracle of the tests."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from gossamer.kernels.grouped_lora.batch import LoraBatch, LoraTables, RowFormat


class ReferenceGroupedLora:
    """See `GroupedLora`; any device and dtype."""

    def __init__(self, pool: Tensor, modules: Sequence[int], widths: Sequence[int]) -> None:
        self._pool = pool
        self._modules = list(modules)
        self._columns = [0, *accumulate(widths)]

    def add_(self, y: Tensor, x: Tensor, batch: LoraBatch) -> None:
        """See `GroupedLora.add_`."""
        add_lora(batch, self._pool, self._modules, self._columns, x, y)


def add_lora(
    batch: LoraBatch, pool: Tensor, modules: Sequence[int], columns: Sequence[int], x: Tensor,
    y: Tensor,
) -> None:  # fmt: skip
    """y[t, columns of m] += weight * scale * B (A x[t]) for each token t of a run, module m.

    pool: the bytes of the block pool, uint8. modules: ids of modules that read the same x
    [T, h_in]; columns: their bounds in y [T, sum of h_out], one more than modules.
    """
    chunks = batch.chunks
    for first, count, slot, weight in zip(
        chunks.first, chunks.count, chunks.slot, chunks.weight, strict=True
    ):
        for m, module in enumerate(modules):
            if batch.tables.rank[slot, module]:
                y_m = y[first : first + count, columns[m] : columns[m + 1]]
                a, b_t = gather_factors(batch.tables, pool, slot, module, x.shape[1], y_m.shape[1])
                scale = float(weight) * float(batch.tables.scale[slot, module])
                y_m += (scale * (x[first : first + count] @ a.to(x.dtype).T)) @ b_t.to(x.dtype)


def gather_factors(
    tables: LoraTables, pool: Tensor, slot: int, module: int, h_in: int, h_out: int
) -> tuple[Tensor, Tensor]:
    """A [rank, h_in] and B transposed [rank, h_out] of one module, copied from the pool."""
    rank = int(tables.rank[slot, module])
    first = int(tables.first_row[slot, module])
    rows = slice(first, first + 2 * rank)
    row_format = RowFormat(int(tables.format[slot]))
    elements = pool.view(row_format.dtype)
    low = torch.from_numpy(tables.offsets[rows])[:, None]
    a = elements[low[:rank] + torch.arange(h_in)]
    b_t = elements[low[rank:] + torch.arange(h_out)]
    if row_format is RowFormat.INT8:
        row_scale = torch.from_numpy(tables.row_scale[rows])[:, None]
        return a * row_scale[:rank], b_t * row_scale[rank:]
    return a, b_t
