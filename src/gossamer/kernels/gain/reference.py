"""Gain in plain torch: states the operation; the oracle of the tests."""

from collections.abc import Sequence

from torch import Tensor

from gossamer.kernels.gain.batch import GainBatch


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
