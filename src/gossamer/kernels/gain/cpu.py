"""Gain on processors, in Numba."""

from collections.abc import Sequence

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from gossamer.kernels.cpu import FAST
from gossamer.kernels.gain.batch import GainBatch


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


class CpuGain:
    """See `Gain`; float32."""

    def __init__(
        self, pool: Tensor, modules: Sequence[int], widths: Sequence[int], bias: Tensor | None
    ) -> None:
        self._pool = pool.view(torch.float32).numpy()
        self._modules = np.array(modules, dtype=np.int64)
        self._columns = np.array([0, *np.cumsum(widths)], dtype=np.int64)
        self._bias = (torch.zeros(sum(widths)) if bias is None else bias).numpy()

    def scaled_inputs(self, x: Tensor, batch: GainBatch) -> Tensor:
        """See `Gain.scaled_inputs`."""
        if not batch.scales_inputs_of(self._modules):
            return x
        x = x.clone()
        module, tables, chunks = self._modules[0], batch.tables, batch.chunks
        scale_inputs(
            x.numpy(), self._pool, tables.offsets[:, module].copy(),
            tables.scales_input[:, module].copy(), chunks.first, chunks.count, chunks.slot,
        )  # fmt: skip
        return x

    def scale_outputs_(self, y: Tensor, batch: GainBatch) -> None:
        """See `Gain.scale_outputs_`."""
        tables, chunks = batch.tables, batch.chunks
        scale_outputs(
            y.numpy(), self._columns, self._modules, self._pool, self._bias, tables.offsets,
            tables.scales_input, tables.keeps_bias, chunks.first, chunks.count, chunks.slot,
        )  # fmt: skip
