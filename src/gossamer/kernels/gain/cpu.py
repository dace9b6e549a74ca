"""Gain on processors, in Numba."""

import numpy as np
from numba import njit, prange

from gossamer.kernels.cpu import FAST


@njit(cache=True, nogil=True, fastmath=FAST)
def _scale(row, gain):
    for j in range(row.shape[0]):
        row[j] *= gain[j]


@njit(cache=True, nogil=True, fastmath=FAST)
def _scale_beside_bias(row, gain, bias):
    for j in range(row.shape[0]):
        row[j] = row[j] * gain[j] + bias[j] * (np.float32(1.0) - gain[j])


@njit(cache=True, parallel=True, nogil=True, fastmath=FAST)
def scale_outputs(
    y, columns, modules, pool, bias, offsets, scales_input, keeps_bias, chunk_first, chunk_count,
    chunk_slot,
):  # fmt: skip
    """y[t, columns[m] : columns[m + 1]] *= gain, without the bias where the adapter keeps it."""
    for chunk in prange(chunk_slot.shape[0]):
        slot = chunk_slot[chunk]
        for m in range(modules.shape[0]):
            offset = offsets[slot, modules[m]]
            if offset < 0 or scales_input[slot, modules[m]]:
                continue
            left, right = columns[m], columns[m + 1]
            gain = pool[offset : offset + right - left]
            for t in range(chunk_first[chunk], chunk_first[chunk] + chunk_count[chunk]):
                if keeps_bias[slot]:
                    _scale_beside_bias(y[t, left:right], gain, bias[left:right])
                else:
                    _scale(y[t, left:right], gain)


@njit(cache=True, parallel=True, nogil=True, fastmath=FAST)
def scale_inputs(x, pool, offsets, scales_input, chunk_first, chunk_count, chunk_slot):
    """x[t] *= gain, for adapters with one; offsets and scales_input of one module, [U]."""
    for chunk in prange(chunk_slot.shape[0]):
        slot = chunk_slot[chunk]
        if offsets[slot] >= 0 and scales_input[slot]:
            gain = pool[offsets[slot] : offsets[slot] + x.shape[1]]
            for t in range(chunk_first[chunk], chunk_first[chunk] + chunk_count[chunk]):
                _scale(x[t], gain)
