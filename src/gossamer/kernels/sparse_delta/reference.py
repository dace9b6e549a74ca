"""Sparse changes in plain torch: states the operation; the oracle of the tests."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from gossamer.kernels.sparse_delta.batch import SparseBatch, SparseTables


class ReferenceSparseDelta:
    """See `SparseDelta`; any device and dtype."""

    def __init__(self, pool: Tensor, modules: Sequence[int], widths: Sequence[int]) -> None:
        self._pool = pool
        self._modules = list(modules)
        self._columns = [0, *accumulate(widths)]

    def add_(self, y: Tensor, x: Tensor, batch: SparseBatch) -> None:
        """See `SparseDelta.add_`."""
        add_sparse(batch, self._pool, self._modules, self._columns, x, y)


def add_sparse(
    batch: SparseBatch, pool: Tensor, modules: Sequence[int], columns: Sequence[int], x: Tensor,
    y: Tensor,
) -> None:  # fmt: skip
    """y[t, columns of m] += weight * S x[t] for each token t of a run, each module m.

    pool: the bytes of the block pool, uint8. columns: bounds of the modules in y [T, sum of h_out].
    """
    for chunks in (batch.short, batch.long):
        for first, count, slot, weight in zip(
            chunks.first, chunks.count, chunks.slot, chunks.weight, strict=True
        ):
            for m, module in enumerate(modules):
                delta = gather_delta(
                    batch.tables, pool, slot, module, columns[m + 1] - columns[m], x.shape[1]
                ).to(x.dtype)
                y_m = y[first : first + count, columns[m] : columns[m + 1]]
                y_m += float(weight) * (x[first : first + count] @ delta.T)


def gather_delta(
    tables: SparseTables, pool: Tensor, slot: int, module: int, h_out: int, h_in: int
) -> Tensor:
    """The change of one module as a dense [h_out, h_in], float32."""
    delta = torch.zeros(h_out, h_in)
    first = int(tables.first[slot, module])
    for segment in range(first, first + int(tables.count[slot, module])):
        length, offset = int(tables.length[segment]), int(tables.offset[segment])
        if tables.half[slot]:
            values = pool.view(torch.bfloat16)[2 * offset : 2 * offset + length].float()
            offset += -(-length // 2)
        else:
            values = pool.view(torch.float32)[offset : offset + length]
            offset += length
        column = int(tables.column[segment])
        if column >= 0:
            places = torch.arange(column, column + length)
        else:
            places = pool.view(torch.int32)[offset : offset + length].long()
        delta[int(tables.row[segment])].index_add_(0, places, values)
    return delta
