"""Gain: each token's outputs or inputs of a linear layer times the factors of its own adapter.

DoRA (arXiv 2402.09353): y = g * (x W^T + s (x A^T) B^T) + b. IA3 (arXiv 2205.05638):
y = g * (x W^T + b), or y = (g * x) W^T + b.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gossamer.kernels.gain import reference
from gossamer.kernels.gain.batch import GainBatch, GainTable, make_batch, stack_tables

__all__ = ["Gain", "GainBatch", "GainTable", "make_batch", "stack_tables"]


class Gain:
    """The operation for one group of modules that read the same input."""

    def __init__(
        self, pool: Tensor, modules: Sequence[int], widths: Sequence[int], bias: Tensor | None,
        backend: str,
    ) -> None:  # fmt: skip
        """pool: bytes of the block pool; modules: their ids; widths: h_out of each, in order;
        bias: of all modules, [sum of widths]."""
        self._pool = pool.view(torch.float32)
        self._modules = np.array(modules, dtype=np.int64)
        self._columns = np.array([0, *np.cumsum(widths)], dtype=np.int64)
        self._bias = torch.zeros(sum(widths)) if bias is None else bias
        self._backend = backend

    def scaled_inputs(self, x: Tensor, batch: GainBatch) -> Tensor:
        """x [T, h_in] where no adapter scales the group's inputs, else a copy that is scaled.

        Only for a group of one module: several would need an input each.
        """
        if len(self._modules) > 1 or not batch.tables.scales_input[:, self._modules[0]].any():
            return x
        x = x.clone()
        module = int(self._modules[0])
        if self._backend == "reference":
            reference.scale_inputs(batch, self._pool, module, x)
            return x
        from gossamer.kernels.gain import cpu

        chunks = batch.chunks
        cpu.scale_inputs(
            x.numpy(), self._pool.numpy(), batch.tables.offsets[:, module].copy(),
            batch.tables.scales_input[:, module].copy(), chunks.first, chunks.count, chunks.slot,
        )  # fmt: skip
        return x

    def scale_outputs_(self, y: Tensor, batch: GainBatch) -> None:
        """Scale y [T, sum of widths], bias included, in place."""
        if self._backend == "reference":
            reference.scale_outputs(
                batch, self._pool, self._modules.tolist(), self._columns.tolist(), self._bias, y
            )
            return
        # Imported late: Numba is slow to load and a process may never need it.
        from gossamer.kernels.gain import cpu

        tables, chunks = batch.tables, batch.chunks
        cpu.scale_outputs(
            y.numpy(), self._columns, self._modules, self._pool.numpy(), self._bias.numpy(),
            tables.offsets, tables.scales_input, tables.keeps_bias, chunks.first, chunks.count,
            chunks.slot,
        )  # fmt: skip
