"""What trained parts add to linear layers of the same input, after all else."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from gossamer.kernels.trained_parts.bottleneck import add_network_
from gossamer.kernels.trained_parts.shift import add_vectors_
from gossamer.serving.runner.lowering.part_batch import PartBatch


class LinearParts:
    """The biases and bottlenecks of a group of layers whose outputs lie side by side."""

    def __init__(
        self, pool: Tensor, modules: Sequence[int], vectors: Sequence[int], widths: Sequence[int]
    ) -> None:
        """modules: the layers' numbers; vectors: those of their biases; widths: their outputs."""
        self._pool = pool.view(torch.float32)
        columns = pairwise(accumulate(widths, initial=0))
        self._layers = list(zip(modules, vectors, columns, strict=True))

    def add_(self, y: Tensor, batch: PartBatch) -> None:
        """Add to y [T, sum of widths], in place."""
        for module, vector, (low, high) in self._layers:
            if batch.shifts is not None and batch.shifts.used[vector]:
                add_vectors_(y[:, None, low:high], self._pool, vector, batch.shifts)
            for first, count, table in batch.bottlenecks:
                if (network := table.modules.get(module)) is not None:
                    add_network_(y[first : first + count, low:high], self._pool, network)
