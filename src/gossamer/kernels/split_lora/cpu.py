"""The halves of divided low-rank adapters on processors, in Numba: those of grouped LoRA.

Work is divided by the caller into groups of equal cost, one per thread. The order of all sums is
the same for any number of tokens: a token's result does not depend on its neighbours.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from gossamer.kernels.cpu import largest
from gossamer.kernels.grouped_lora.cpu import expand, shrink
from gossamer.kernels.split_lora.batch import SplitBatch


@njit(cache=True, parallel=True, nogil=True)
def shrink_chunks(
    x, out, pool_float, pool_half, pool_int8, offsets, row_scales, first_rows, owns, formats,
    modules, chunk_first, chunk_count, chunk_slot, chunk_entry, bounds,
):  # fmt: skip
    """out[entry, m, j] = x[token] . row j of A of module m, by chunk; `out` begins as zeros."""
    longest = largest(chunk_count)
    for worker in prange(bounds.shape[0] - 1):
        v = np.empty((longest, out.shape[2]), dtype=np.float32)
        for chunk in range(bounds[worker], bounds[worker + 1]):
            slot, entry = chunk_slot[chunk], chunk_entry[chunk]
            low = chunk_first[chunk]
            high = low + chunk_count[chunk]
            for m in range(modules.shape[0]):
                own = owns[slot, modules[m]]
                if own == 0:
                    continue
                first = first_rows[slot, modules[m]]
                starts = offsets[first : first + own]
                if formats[slot] == 0:
                    shrink(x, low, high, pool_float, starts, v)
                elif formats[slot] == 1:
                    shrink(x, low, high, pool_half, starts, v)
                else:
                    shrink(x, low, high, pool_int8, starts, v)
                for t in range(high - low):
                    for j in range(own):
                        out[entry + t, m, j] = v[t, j] * row_scales[first + j]


@njit(cache=True, parallel=True, nogil=True)
def expand_chunks(
    found, y, columns, pool_float, pool_half, pool_int8, offsets, row_scales, first_rows, owns,
    ranks, scales, formats, modules, chunk_first, chunk_count, chunk_slot, chunk_weight,
    chunk_entry, bounds,
):  # fmt: skip
    """y[token, columns of m] += weight * scale * found[.., entry, m, ..] B^T, by chunk, module."""
    longest, widest = largest(chunk_count), found.shape[0] * found.shape[3]
    for worker in prange(bounds.shape[0] - 1):
        v = np.empty((longest, widest), dtype=np.float32)
        for chunk in range(bounds[worker], bounds[worker + 1]):
            slot, entry = chunk_slot[chunk], chunk_entry[chunk]
            low = chunk_first[chunk]
            high = low + chunk_count[chunk]
            for m in range(modules.shape[0]):
                module = modules[m]
                rank, own = ranks[slot, module], owns[slot, module]
                if rank == 0:
                    continue
                first = first_rows[slot, module] + own
                starts = offsets[first : first + rank]
                scale = scales[slot, module] * chunk_weight[chunk]
                for t in range(high - low):
                    for j in range(rank):
                        share = found[j // own, entry + t, m, j % own]
                        v[t, j] = share * scale * row_scales[first + j]
                left, right = columns[m, 0], columns[m, 1]
                if formats[slot] == 0:
                    expand(y, low, high, left, right, pool_float, starts, v)
                elif formats[slot] == 1:
                    expand(y, low, high, left, right, pool_half, starts, v)
                else:
                    expand(y, low, high, left, right, pool_int8, starts, v)


class CpuSplitLora:
    """See `SplitLora`; float32."""

    def __init__(
        self, pool: Tensor, modules: Sequence[int], columns: Sequence[tuple[int, int]]
    ) -> None:
        self._modules = np.array(modules, dtype=np.int64)
        self._columns = np.array(columns, dtype=np.int64)
        self._pools = (
            pool.view(torch.float32).numpy(),
            pool.view(torch.int16).numpy().view(np.uint16),
            pool.view(torch.int8).numpy(),
        )

    def shrink(self, x: Tensor, batch: SplitBatch) -> Tensor | None:
        """See `SplitLora.shrink`."""
        width = batch.width(self._modules)
        if not width:
            return None
        v = torch.zeros(batch.num_entries, len(self._modules), width)
        tables, chunks = batch.tables, batch.chunks
        shrink_chunks(
            x.numpy(), v.numpy(), *self._pools, tables.offsets, tables.row_scale,
            tables.first_row, tables.own, tables.format, self._modules, chunks.first,
            chunks.count, chunks.slot, batch.entry, chunks.bounds,
        )  # fmt: skip
        return v

    def expand_(self, y: Tensor, v: Tensor, batch: SplitBatch) -> None:
        """See `SplitLora.expand_`."""
        tables, chunks = batch.tables, batch.chunks
        expand_chunks(
            v.numpy(), y.numpy(), self._columns, *self._pools, tables.offsets, tables.row_scale,
            tables.first_row, tables.own, tables.rank, tables.scale, tables.format,
            self._modules, chunks.first, chunks.count, chunks.slot, chunks.weight, batch.entry,
            chunks.bounds,
        )  # fmt: skip
