"""Grouped LoRA on processors, in Numba.

With one token per adapter, as often in decoding, time is the reading of adapter rows, once per step
and adapter; so rows may rest as bfloat16 or int8 and are widened in registers. With many tokens per
adapter, as in prefill, it is arithmetic, done in tiles of a few tokens. Work is divided by the
caller into groups of equal cost, one per thread. The order of all sums is the same for any number
of tokens: a token's result does not depend on its neighbours.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from gossamer.kernels.cpu import largest
from gossamer.kernels.grouped_lora.batch import LoraBatch
from gossamer.kernels.tiles.expand import PANEL_LANES, make_expand, make_panel
from gossamer.kernels.tiles.shrink import make_shrink

# Tiles of two tokens and three rows, panels of four tokens and three vectors: twelve sums, which
# leaves four of AVX2's sixteen registers for what they are made of.
_shrink_1x1 = make_shrink(1, 1, fetches=True)
_shrink_1x4 = make_shrink(1, 4, fetches=True)
_shrink_2x2 = make_shrink(2, 2)
_shrink_2x3 = make_shrink(2, 3)
_first_2x3 = make_shrink(2, 3, fetches=True)
_expand_1 = make_expand(1)
_expand_4 = make_expand(4)
_PANEL_COLUMNS = 3 * PANEL_LANES
# Rows that go by at a time. Their starts lie a large power of two apart as often as not, so that of
# more rows the first would be gone from the cache before the next columns are read.
_PANEL_ROWS = 16
_panel_2x3 = make_panel(2, 3)
_panel_4x3 = make_panel(4, 3)


@njit(cache=True, nogil=True)
def shrink(x, low, high, pool, starts, v):
    """v[t, j] = x[low + t] . row j, for tokens [low, high) and the rows at `starts`."""
    paired = high - (high - low) % 2
    if low < paired:
        _shrink_pairs(x, low, paired, pool, starts, v)
    if paired < high:
        _shrink_one(x, paired, pool, starts, v, (paired - low) * v.shape[1])


@njit(cache=True, nogil=True)
def _shrink_pairs(x, low, high, pool, starts, v):
    """Rows come from memory with the first two tokens, and are at hand for the others."""
    width, rank, stride = x.shape[1], starts.shape[0], v.shape[1]
    j = 0
    while j < rank:
        left = rank - j
        place = low * width
        if left == 3 or left > 4:
            three = (starts[j], starts[j + 1], starts[j + 2])
            _first_2x3(x, place, width, pool, three, width, v, j, stride)
            for t in range(2, high - low, 2):
                at = t * stride + j
                _shrink_2x3(x, place + t * width, width, pool, three, width, v, at, stride)
            j += 3
        elif left > 1:
            two = (starts[j], starts[j + 1])
            for t in range(0, high - low, 2):
                at = t * stride + j
                _shrink_2x2(x, place + t * width, width, pool, two, width, v, at, stride)
            j += 2
        else:
            for t in range(high - low):
                at = t * stride + j
                _shrink_1x1(x, place + t * width, width, pool, (starts[j],), width, v, at, stride)
            j += 1


@njit(cache=True, nogil=True)
def _shrink_one(x, token, pool, starts, v, at):
    """Write the product of one row into v, from its element `at` on."""
    width, rank = x.shape[1], starts.shape[0]
    place = token * width
    j = 0
    while j + 4 <= rank:
        four = (starts[j], starts[j + 1], starts[j + 2], starts[j + 3])
        _shrink_1x4(x, place, width, pool, four, width, v, at + j, 0)
        j += 4
    while j < rank:
        _shrink_1x1(x, place, width, pool, (starts[j],), width, v, at + j, 0)
        j += 1


@njit(cache=True, nogil=True)
def expand(y, low, high, left, right, pool, starts, v):
    """y[low + t, left:right] += sum over j of v[t, j] * row j."""
    step, stride, rank = y.shape[1], v.shape[1], starts.shape[0]
    paired = high - (high - low) % 2
    for j in range(0, rank if low < paired else 0, _PANEL_ROWS):
        rows = starts[j : min(j + _PANEL_ROWS, rank)]
        t = low
        while t < paired:
            place, weight = t * step + left, (t - low) * stride + j
            tokens = 4 if t + 4 <= high else 2
            _expand_several(y, tokens, place, right - left, pool, rows, v, weight)
            t += tokens
    if paired < high:
        place, weight = paired * step + left, (paired - low) * stride
        _expand_one(y, place, 0, right - left, pool, starts, v, weight)


@njit(cache=True, nogil=True)
def _expand_several(y, tokens, place, width, pool, starts, v, weight):
    """Four tokens or two, from the element `place` of y and `weight` of v on."""
    step, stride, rank = y.shape[1], v.shape[1], starts.shape[0]
    whole = width - width % _PANEL_COLUMNS
    if tokens == 4:
        for c in range(0, whole, _PANEL_COLUMNS):
            _panel_4x3(y, place + c, step, pool, starts, c, v, weight, stride, rank)
    else:
        for c in range(0, whole, _PANEL_COLUMNS):
            _panel_2x3(y, place + c, step, pool, starts, c, v, weight, stride, rank)
    if whole < width:
        for t in range(tokens):
            _expand_one(y, place + t * step, whole, width, pool, starts, v, weight + t * stride)


@njit(cache=True, nogil=True)
def _expand_one(y, place, low, high, pool, starts, v, weight):
    """Columns [low, high) of one token."""
    rank, width = starts.shape[0], high - low
    place += low
    j = 0
    while j + 4 <= rank:
        four = (starts[j] + low, starts[j + 1] + low, starts[j + 2] + low, starts[j + 3] + low)
        _expand_4(y, place, pool, four, width, v, weight + j)
        j += 4
    while j < rank:
        _expand_1(y, place, pool, (starts[j] + low,), width, v, weight + j)
        j += 1


@njit(cache=True, nogil=True)
def _run_chunk(x, y, low, high, left, right, pool, starts, row_scale, scale, v):
    """y[low:high, left:right] += scale * (x[low:high] A^T) B^T; v [chunk, >= rank] is scratch."""
    rank = starts.shape[0] // 2
    shrink(x, low, high, pool, starts[:rank], v)
    for t in range(high - low):
        for j in range(rank):
            v[t, j] *= scale * row_scale[j] * row_scale[rank + j]
    expand(y, low, high, left, right, pool, starts[rank:], v)


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
    longest = largest(chunk_count)
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


class CpuGroupedLora:
    """See `GroupedLora`; float32."""

    def __init__(self, pool: Tensor, modules: Sequence[int], widths: Sequence[int]) -> None:
        self._modules = np.array(modules, dtype=np.int64)
        self._columns = np.array([0, *np.cumsum(widths)], dtype=np.int64)
        self._pool_float = pool.view(torch.float32).numpy()
        self._pool_half = pool.view(torch.int16).numpy().view(np.uint16)
        self._pool_int8 = pool.view(torch.int8).numpy()

    def add_(self, y: Tensor, x: Tensor, batch: LoraBatch) -> None:
        """See `GroupedLora.add_`."""
        tables, chunks = batch.tables, batch.chunks
        if not len(chunks):
            return
        add_lora(
            x.numpy(), y.numpy(), self._columns, self._pool_float, self._pool_half,
            self._pool_int8, tables.offsets, tables.row_scale, tables.first_row, tables.rank,
            tables.scale, tables.format, self._modules, chunks.first, chunks.count, chunks.slot,
            chunks.weight, chunks.bounds,
        )  # fmt: skip
