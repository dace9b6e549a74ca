"""Sparse changes on processors, in Numba.

Few tokens: a dot product for each token and segment, so that a token's result does not depend on
its neighbours. Many tokens: inputs are transposed once for a chunk, and an entry is then one
multiply-add over the vector of tokens instead of a gather for each.
"""

import numpy as np
from numba import njit, prange

from gossamer.kernels.sparse_delta.batch import SHORT
from gossamer.kernels.vector.cpu import FAST, add_scaled, dot

_SHORT = SHORT


@njit(cache=True, nogil=True, fastmath=FAST)
def _widen(half, values):
    """values[:] = half, bfloat16 as uint16."""
    for k in range(half.shape[0]):
        values[k] = np.uint32(np.uint32(half[k]) << np.uint32(16)).view(np.float32)


@njit(cache=True, nogil=True, fastmath=FAST)
def _gather_dot(x, places, values):
    total = np.float32(0.0)
    for k in range(values.shape[0]):
        total += x[places[k]] * values[k]
    return total


@njit(cache=True, nogil=True, fastmath=FAST)
def _few_tokens(x, y, low, high, out, column, values, places, weight):
    for t in range(low, high):
        if column >= 0:
            total = dot(x[t, column : column + values.shape[0]], values)
        else:
            total = _gather_dot(x[t], places, values)
        y[t, out] += weight * total


@njit(cache=True, nogil=True, fastmath=FAST)
def _many_tokens(turned, y, low, high, out, column, values, places, weight, sums):
    """turned [h_in, >= tokens] and sums [>= tokens] are contiguous."""
    count = high - low
    sums[:count] = np.float32(0.0)
    for k in range(values.shape[0]):
        place = column + k if column >= 0 else places[k]
        add_scaled(sums[:count], values[k], turned[place, :count])
    for i in range(count):
        y[low + i, out] += weight * sums[i]


@njit(cache=True, nogil=True, fastmath=FAST)
def _turn(x, low, high, turned):
    for t in range(low, high):
        for d in range(x.shape[1]):
            turned[d, t - low] = x[t, d]


@njit(cache=True, parallel=True, nogil=True, fastmath=FAST)
def add_sparse(
    x, y, columns, modules, pool, pool_half, pool_int, firsts, counts, half, rows, seg_columns,
    lengths, offsets, chunk_first, chunk_count, chunk_slot, chunk_weight, bounds,
):  # fmt: skip
    """y[:, columns[m] : columns[m + 1]] += weight * (x S^T) for each chunk and module m."""
    longest = lengths.max() if lengths.shape[0] > 0 else 0
    many = chunk_count.max()
    for worker in prange(bounds.shape[0] - 1):
        widened = np.empty(longest, dtype=np.float32)
        turned = np.empty((x.shape[1] if many > _SHORT else 0, many), dtype=np.float32)
        sums = np.empty(many, dtype=np.float32)
        # Chunks over the same tokens follow each other: turned once for all of them.
        turned_first = -1
        for chunk in range(bounds[worker], bounds[worker + 1]):
            slot = chunk_slot[chunk]
            low = chunk_first[chunk]
            high = low + chunk_count[chunk]
            if chunk_count[chunk] > _SHORT and low != turned_first:
                _turn(x, low, high, turned)
                turned_first = low
            for m in range(modules.shape[0]):
                first = firsts[slot, modules[m]]
                for segment in range(first, first + counts[slot, modules[m]]):
                    length = lengths[segment]
                    offset = offsets[segment]
                    if half[slot]:
                        _widen(pool_half[2 * offset : 2 * offset + length], widened[:length])
                        values = widened[:length]
                        offset += (length + 1) // 2
                    else:
                        values = pool[offset : offset + length]
                        offset += length
                    places = pool_int[offset : offset + length]
                    out = columns[m] + rows[segment]
                    if chunk_count[chunk] > _SHORT:
                        _many_tokens(
                            turned, y, low, high, out, seg_columns[segment], values, places,
                            chunk_weight[chunk], sums,
                        )  # fmt: skip
                    else:
                        _few_tokens(
                            x, y, low, high, out, seg_columns[segment], values, places,
                            chunk_weight[chunk],
                        )  # fmt: skip
