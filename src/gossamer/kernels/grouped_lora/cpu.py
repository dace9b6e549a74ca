"""Grouped LoRA on processors, in Numba: for decoding, where each adapter has a few tokens.

Time is the reading of adapter rows, once per step and adapter; so rows may rest as bfloat16 and are
widened in registers. Work is divided by the caller into groups of equal cost, one per thread.
The order of all sums is the same for any number of tokens: a token's result does not depend on its
neighbours.
"""

import numpy as np
from numba import njit, prange

from gossamer.kernels.vector.cpu import FAST, add_scaled, dot


@njit(cache=True, nogil=True, fastmath=FAST)
def _dot_half(x, row):
    total = np.float32(0.0)
    for d in range(x.shape[0]):
        total += x[d] * np.uint32(np.uint32(row[d]) << np.uint32(16)).view(np.float32)
    return total


@njit(cache=True, nogil=True, fastmath=FAST)
def _add_scaled_half(y, weight, row):
    for d in range(y.shape[0]):
        y[d] += weight * np.uint32(np.uint32(row[d]) << np.uint32(16)).view(np.float32)


@njit(cache=True, nogil=True, fastmath=FAST)
def _run_chunk(
    x, y, low, high, left, right, pool, pool_half, offsets, first_row, rank, scale, half, v
):  # fmt: skip
    """y[low:high, left:right] += scale * (x[low:high] A^T) B^T; v [chunk, >= rank] is scratch.

    Rows are sliced from the whole arrays: Numba then knows that they are contiguous.
    """
    h_in = x.shape[1]
    width = right - left
    for j in range(rank):
        start = offsets[first_row + j]
        for t in range(low, high):
            if half:
                v[t - low, j] = _dot_half(x[t], pool_half[start : start + h_in]) * scale
            else:
                v[t - low, j] = dot(x[t], pool[start : start + h_in]) * scale
    for j in range(rank):
        start = offsets[first_row + rank + j]
        for t in range(low, high):
            if half:
                row = pool_half[start : start + width]
                _add_scaled_half(y[t, left:right], v[t - low, j], row)
            else:
                add_scaled(y[t, left:right], v[t - low, j], pool[start : start + width])


@njit(cache=True, parallel=True, nogil=True, fastmath=FAST)
def add_lora(
    x, y, columns, pool, pool_half, offsets, first_rows, ranks, scales, half, modules,
    chunk_first, chunk_count, chunk_slot, bounds,
):  # fmt: skip
    """y[:, columns[m] : columns[m + 1]] += scale * (x A^T) B^T for each chunk and module m."""
    widest = 0
    for chunk in range(chunk_slot.shape[0]):
        for m in range(modules.shape[0]):
            widest = max(widest, ranks[chunk_slot[chunk], modules[m]])
    longest = chunk_count.max()
    for worker in prange(bounds.shape[0] - 1):
        v = np.empty((longest, widest), dtype=np.float32)
        for chunk in range(bounds[worker], bounds[worker + 1]):
            slot = chunk_slot[chunk]
            low = chunk_first[chunk]
            high = low + chunk_count[chunk]
            for m in range(modules.shape[0]):
                module = modules[m]
                rank = ranks[slot, module]
                if rank == 0:
                    continue
                _run_chunk(
                    x, y, low, high, columns[m], columns[m + 1], pool, pool_half, offsets,
                    first_rows[slot, module], rank, scales[slot, module], half[slot], v,
                )  # fmt: skip
