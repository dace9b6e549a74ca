"""The halves of divided low-rank adapters in plain torch: states them; the oracle of the tests."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gossamer.kernels.grouped_lora import RowFormat
from gossamer.kernels.split_lora.batch import SplitBatch, SplitTables


class ReferenceSplitLora:
    """See `SplitLora`; any device and dtype."""

    def __init__(
        self, pool: Tensor, modules: Sequence[int], columns: Sequence[tuple[int, int]]
    ) -> None:
        self._pool = pool
        self._modules = list(modules)
        self._columns = list(columns)

    def shrink(self, x: Tensor, batch: SplitBatch) -> Tensor | None:
        """See `SplitLora.shrink`."""
        width = batch.width(self._modules)
        if not width:
            return None
        v = x.new_zeros(batch.num_entries, len(self._modules), width)
        for tokens, entries, slot, _ in _pieces(batch):
            for m, module in enumerate(self._modules):
                own = int(batch.tables.own[slot, module])
                if own:
                    a = gather_rows(batch.tables, self._pool, slot, module, 0, own, x.shape[1])
                    v[entries, m, :own] = x[tokens] @ a.to(x.dtype).T
        return v

    def expand_(self, y: Tensor, v: Tensor, batch: SplitBatch) -> None:
        """See `SplitLora.expand_`."""
        tables = batch.tables
        for tokens, entries, slot, weight in _pieces(batch):
            for m, module in enumerate(self._modules):
                own, rank = int(tables.own[slot, module]), int(tables.rank[slot, module])
                if rank:
                    low, high = self._columns[m]
                    b_t = gather_rows(tables, self._pool, slot, module, own, rank, high - low)
                    parts = v[:, entries, m, :own].transpose(0, 1)
                    found = parts.reshape(len(parts), -1)[:, :rank]
                    scale = weight * float(tables.scale[slot, module])
                    y[tokens, low:high] += (scale * found) @ b_t.to(y.dtype)


def _pieces(batch: SplitBatch) -> Iterator[tuple[slice, slice, int, float]]:
    """Yield (tokens, entries, slot, weight) of each chunk."""
    chunks = batch.chunks
    for first, entry, count, slot, weight in zip(
        chunks.first, batch.entry, chunks.count, chunks.slot, chunks.weight, strict=True
    ):
        tokens, entries = slice(first, first + count), slice(entry, entry + count)
        yield tokens, entries, int(slot), float(weight)


def gather_rows(
    tables: SplitTables, pool: Tensor, slot: int, module: int, skipped: int, count: int, width: int
) -> Tensor:
    """Copy `count` rows [count, width] of a module from the pool, after the first `skipped`."""
    first = int(tables.first_row[slot, module]) + skipped
    rows = slice(first, first + count)
    row_format = RowFormat(int(tables.format[slot]))
    low = torch.from_numpy(tables.offsets[rows])[:, None]
    found = pool.view(row_format.dtype)[low + torch.arange(width)]
    if row_format is RowFormat.INT8:
        return found * torch.from_numpy(tables.row_scale[rows])[:, None]
    return found
