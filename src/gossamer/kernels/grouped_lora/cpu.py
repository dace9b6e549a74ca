"""Grouped LoRA on processors, in Numba: for decoding, where each adapter has a few tokens.

With one token per adapter, time is the reading of adapter rows, once per step and adapter; so rows
may rest as bfloat16 or int8 and are widened in registers. With many tokens per adapter it is
arithmetic, done in tiles of four tokens. Work is divided by the caller into groups of equal cost,
one per thread. The order of all sums is the same for any number of tokens: a token's result does
not depend on its neighbours.
"""

import numpy as np
from numba import njit, prange

from gossamer.kernels.tiles.cpu import make_expand, make_shrink

_TOKENS = 4
_shrink_1x1 = make_shrink(1, 1)
_shrink_1x4 = make_shrink(1, 4)
_shrink_4x1 = make_shrink(_TOKENS, 1)
_shrink_4x2 = make_shrink(_TOKENS, 2)
_expand_1x1 = make_expand(1, 1)
_expand_1x4 = make_expand(1, 4)
_expand_4x1 = make_expand(_TOKENS, 1)
_expand_4x4 = make_expand(_TOKENS, 4)


@njit(cache=True, nogil=True)
def _shrink(x, low, high, pool, starts, v):
    """v[t, j] = x[low + t] . row j, for tokens [low, high) and the rows at `starts`."""
    width, rank, stride = x.shape[1], starts.shape[0], v.shape[1]
    t = low
    while t + _TOKENS <= high:
        j = 0
        while j + 2 <= rank:
            pair = (starts[j], starts[j + 1])
            _shrink_4x2(x, t * width, width, pool, pair, width, v, (t - low) * stride + j, stride)
            j += 2
        if j < rank:
            one = (starts[j],)
            _shrink_4x1(x, t * width, width, pool, one, width, v, (t - low) * stride + j, stride)
        t += _TOKENS
    while t < high:
        j = 0
        while j + 4 <= rank:
            four = (starts[j], starts[j + 1], starts[j + 2], starts[j + 3])
            _shrink_1x4(x, t * width, width, pool, four, width, v, (t - low) * stride + j, stride)
            j += 4
        while j < rank:
            one = (starts[j],)
            _shrink_1x1(x, t * width, width, pool, one, width, v, (t - low) * stride + j, stride)
            j += 1
        t += 1


@njit(cache=True, nogil=True)
def _expand(y, low, high, left, right, pool, starts, v):
    """y[low + t, left:right] += sum over j of v[t, j] * row j."""
    width, rank, step, stride = right - left, starts.shape[0], y.shape[1], v.shape[1]
    t = low
    while t < high:
        whole = t + _TOKENS <= high
        place, weight = t * step + left, (t - low) * stride
        j = 0
        while j + 4 <= rank:
            four = (starts[j], starts[j + 1], starts[j + 2], starts[j + 3])
            if whole:
                _expand_4x4(y, place, step, pool, four, width, v, weight + j, stride)
            else:
                _expand_1x4(y, place, step, pool, four, width, v, weight + j, stride)
            j += 4
        while j < rank:
            one = (starts[j],)
            if whole:
                _expand_4x1(y, place, step, pool, one, width, v, weight + j, stride)
            else:
                _expand_1x1(y, place, step, pool, one, width, v, weight + j, stride)
            j += 1
        t += _TOKENS if whole else 1


@njit(cache=True, nogil=True)
def _run_chunk(x, y, low, high, left, right, pool, starts, row_scale, scale, v):
    """y[low:high, left:right] += scale * (x[low:high] A^T) B^T; v [chunk, >= rank] is scratch."""
    rank = starts.shape[0] // 2
    _shrink(x, low, high, pool, starts[:rank], v)
    for t in range(high - low):
        for j in range(rank):
            v[t, j] *= scale * row_scale[j] * row_scale[rank + j]
    _expand(y, low, high, left, right, pool, starts[rank:], v)


@njit(cache=True, parallel=True, nogil=True)
def add_lora(
    x, y, columns, pool_float, pool_half, pool_int8, offsets, row_scales, first_rows, ranks, scales,
    formats, modules, chunk_first, chunk_count, chunk_slot, chunk_weight, bounds,
):  # fmt: skip
    """y[:, columns[m] : columns[m + 1]] += weight * scale * (x A^T) B^T, by chunk, module m."""
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
                first = first_rows[slot, module]
                starts = offsets[first : first + 2 * rank]
                row_scale = row_scales[first : first + 2 * rank]
                scale = scales[slot, module] * chunk_weight[chunk]
                left, right = columns[m], columns[m + 1]
                if formats[slot] == 0:
                    _run_chunk(
                        x, y, low, high, left, right, pool_float, starts, row_scale, scale, v
                    )
                elif formats[slot] == 1:
                    _run_chunk(x, y, low, high, left, right, pool_half, starts, row_scale, scale, v)
                else:
                    _run_chunk(x, y, low, high, left, right, pool_int8, starts, row_scale, scale, v)
