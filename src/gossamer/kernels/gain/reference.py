"""Gain in plain torch: states the operation; the oracle of the tests."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from gossamer.kernels.gain.batch import GainBatch


class ReferenceGain:
    """See `Gain`; any device and dtype."""

    def __init__(
        self, pool: Tensor, modules: Sequence[int], widths: Sequence[int], bias: Tensor | None
    ) -> None:
        self._pool = pool.view(torch.float32)
        self._modules = list(modules)
        self._columns = [0, *accumulate(widths)]
        self._bias = torch.zeros(sum(widths)) if bias is None else bias

    def scaled_inputs(self, x: Tensor, batch: GainBatch) -> Tensor:
        """See `Gain.scaled_inputs`."""
        if not batch.scales_inputs_of(self._modules):
            return x
        x = x.clone()
        scale_inputs(batch, self._pool, self._modules[0], x)
        return x

    def scale_outputs_(self, y: Tensor, batch: GainBatch) -> None:
        """See `Gain.scale_outputs_`."""
        scale_outputs(batch, self._pool, self._modules, self._columns, self._bias, y)


def scale_outputs(
    batch: GainBatch, pool: Tensor, modules: Sequence[int], columns: Sequence[int], bias: Tensor,
    y: Tensor,
) -> None:  # fmt: skip
    """y[t, columns of m] *= g of the token's adapter; where it keeps the bias, without the bias.

    pool: the block pool as float32. columns: bounds of the modules in y [T, sum of h_out].
    """
    tables, chunks = batch.tables, batch.chunks
    for first, count, slot in zip(chunks.first, chunks.count, chunks.slot, strict=True):
        for m, module in enumerate(modules):
            low, high = columns[m], columns[m + 1]
            offset = int(tables.offsets[slot, module])
            if offset < 0 or tables.scales_input[slot, module]:
                continue
            gain = pool[offset : offset + high - low].to(y.dtype)
            y[first : first + count, low:high] *= gain
            if tables.keeps_bias[slot]:
                y[first : first + count, low:high] += (1 - gain) * bias[low:high]


def scale_inputs(batch: GainBatch, pool: Tensor, module: int, x: Tensor) -> None:
    """x[t] *= g of the token's adapter, where it scales the inputs of `module`."""
    tables, chunks = batch.tables, batch.chunks
    for first, count, slot in zip(chunks.first, chunks.count, chunks.slot, strict=True):
        offset = int(tables.offsets[slot, module])
        if offset >= 0 and tables.scales_input[slot, module]:
            x[first : first + count] *= pool[offset : offset + x.shape[1]].to(x.dtype)
