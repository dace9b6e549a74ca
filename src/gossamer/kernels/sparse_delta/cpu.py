"""Sparse changes on processors, in Numba.

Entries: the tokens of a chunk are laid side by side at each input, so that an entry is one
multiply-add over a vector of tokens instead of a gather for each. Blocks: dot products. The order
of all sums is the same for any number of tokens: a token's result does not depend on its
neighbours.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from gossamer.kernels.cpu import FAST, largest
from gossamer.kernels.runs import Chunks
from gossamer.kernels.sparse_delta.batch import SparseBatch, SparseTables
from gossamer.kernels.tiles.gather import make_gather
from gossamer.kernels.tiles.shrink import make_shrink

_FEW, _MANY = 8, 16
_TOKENS = 4
_gather_1 = make_gather(1)
_gather_few = make_gather(_FEW)
_gather_many = make_gather(_MANY)
_shrink_1 = make_shrink(1, 1, fetches=True)
_shrink_4 = make_shrink(_TOKENS, 1)


@njit(cache=True, nogil=True, fastmath=FAST)
def _widen(half, values):
    """values[:] = half, bfloat16 as uint16."""
    for k in range(half.shape[0]):
        values[k] = np.uint32(np.uint32(half[k]) << np.uint32(16)).view(np.float32)


@njit(cache=True, nogil=True)
def _stride(count):
    """Tokens side by side, with those that only fill a vector."""
    if count == 1:
        return 1
    return _FEW if count <= _FEW else (count + _MANY - 1) // _MANY * _MANY


@njit(cache=True, nogil=True)
def _turn(x, low, high, turned):
    """turned [h_in * stride]: tokens [low, high) of x side by side, the rest of a vector 0."""
    stride = _stride(high - low)
    for d in range(x.shape[1]):
        for t in range(low, high):
            turned[d * stride + t - low] = x[t, d]
        for t in range(high - low, stride):
            turned[d * stride + t] = np.float32(0.0)


@njit(cache=True, nogil=True)
def _entries(turned, stride, places, places_start, values, values_start, length, sums):
    """sums[t] = sum over entries of value * input, for the tokens of a chunk."""
    if stride == 1:
        _gather_1(
            turned, 0, stride, places, places_start, values, values_start, length, sums, 0
        )  # fmt: skip
    elif stride == _FEW:
        _gather_few(
            turned, 0, stride, places, places_start, values, values_start, length, sums, 0
        )  # fmt: skip
    else:
        for first in range(0, stride, _MANY):
            _gather_many(
                turned, first, stride, places, places_start, values, values_start, length, sums,
                first,
            )  # fmt: skip


@njit(cache=True, nogil=True)
def _block_row(x, low, high, column, pool, offset, length, sums):
    """sums[t] = the dot product of `length` inputs from `column` on with values in the pool."""
    width = x.shape[1]
    t = low
    while t < high:
        start = t * width + column
        if t + _TOKENS <= high:
            _shrink_4(x, start, width, pool, (offset,), length, sums, t - low, 1)
            t += _TOKENS
        else:
            _shrink_1(x, start, width, pool, (offset,), length, sums, t - low, 1)
            t += 1


@njit(cache=True, parallel=True, nogil=True)
def add_sparse(
    x, y, columns, modules, pool, pool_half, pool_int, firsts, counts, half, rows, seg_columns,
    lengths, offsets, chunk_first, chunk_count, chunk_slot, chunk_weight, bounds,
):  # fmt: skip
    """y[:, columns[m] : columns[m + 1]] += weight * (x S^T) for each chunk and module m."""
    longest = largest(lengths)
    widest = _stride(largest(chunk_count))
    for worker in prange(bounds.shape[0] - 1):
        widened = np.empty(longest, dtype=np.float32)
        turned = np.empty(x.shape[1] * widest, dtype=np.float32)
        sums = np.empty(widest, dtype=np.float32)
        # Chunks over the same tokens follow each other: turned once for all of them.
        turned_first = -1
        for chunk in range(bounds[worker], bounds[worker + 1]):
            slot = chunk_slot[chunk]
            low = chunk_first[chunk]
            high = low + chunk_count[chunk]
            stride = _stride(chunk_count[chunk])
            for m in range(modules.shape[0]):
                first = firsts[slot, modules[m]]
                for segment in range(first, first + counts[slot, modules[m]]):
                    length = np.int64(lengths[segment])
                    offset = offsets[segment]
                    column = np.int64(seg_columns[segment])
                    if column >= 0 and half[slot]:
                        _block_row(x, low, high, column, pool_half, 2 * offset, length, sums)
                    elif column >= 0:
                        _block_row(x, low, high, column, pool, offset, length, sums)
                    else:
                        if low != turned_first:
                            _turn(x, low, high, turned)
                            turned_first = low
                        if half[slot]:
                            _widen(pool_half[2 * offset : 2 * offset + length], widened[:length])
                            places = offset + (length + 1) // 2
                            _entries(
                                turned, stride, pool_int, places, widened, 0, length, sums
                            )  # fmt: skip
                        else:
                            places = offset + length
                            _entries(
                                turned, stride, pool_int, places, pool, offset, length, sums
                            )  # fmt: skip
                    out = columns[m] + rows[segment]
                    for t in range(low, high):
                        y[t, out] += chunk_weight[chunk] * sums[t - low]


class CpuSparseDelta:
    """See `SparseDelta`; float32."""

    def __init__(self, pool: Tensor, modules: Sequence[int], widths: Sequence[int]) -> None:
        self._modules = np.array(modules, dtype=np.int64)
        self._columns = np.array([0, *np.cumsum(widths)], dtype=np.int64)
        self._pool_float = pool.view(torch.float32).numpy()
        self._pool_half = pool.view(torch.int16).numpy().view(np.uint16)
        self._pool_int = pool.view(torch.int32).numpy().view(np.uint32)

    def add_(self, y: Tensor, x: Tensor, batch: SparseBatch) -> None:
        """See `SparseDelta.add_`."""
        for chunks in (batch.short, batch.long):
            if len(chunks):
                self._add(y, x, batch.tables, chunks)

    def _add(self, y: Tensor, x: Tensor, tables: SparseTables, chunks: Chunks) -> None:
        add_sparse(
            x.numpy(), y.numpy(), self._columns, self._modules, self._pool_float, self._pool_half,
            self._pool_int, tables.first, tables.count, tables.half, tables.row, tables.column,
            tables.length, tables.offset, chunks.first, chunks.count, chunks.slot, chunks.weight,
            chunks.bounds,
        )  # fmt: skip
