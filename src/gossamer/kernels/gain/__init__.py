"""Gain: each token's outputs or inputs of a linear layer times the factors of its own adapter.

DoRA (arXiv 2402.09353): y = g * (x W^T + s (x A^T) B^T) + b. IA3 (arXiv 2205.05638):
y = g * (x W^T + b), or y = (g * x) W^T + b.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from gossamer.kernels.gain.batch import GainBatch, GainTable, make_batch, stack_tables, table_arena
from gossamer.kernels.gain.reference import ReferenceGain

__all__ = [
    "Gain",
    "GainBatch",
    "GainTable",
    "make_batch",
    "make_gain",
    "stack_tables",
    "table_arena",
]


class Gain(Protocol):
    """The operation for one group of modules that read the same input."""

    def scaled_inputs(self, x: Tensor, batch: GainBatch) -> Tensor:
        """x [T, h_in] where no adapter scales the group's inputs, else a copy that is scaled.

        Only for a group of one module: several would need an input each.
        """

    def scale_outputs_(self, y: Tensor, batch: GainBatch) -> None:
        """Scale y [T, sum of widths], bias included, in place."""


def make_gain(
    pool: Tensor, modules: Sequence[int], widths: Sequence[int], bias: Tensor | None, backend: str
) -> Gain:
    """Make the operation of `backend` over `pool`, the bytes of the block pool.

    modules: their ids; widths: h_out of each, in order; bias: of all modules, [sum of widths].
    """
    if backend == "reference":
        return ReferenceGain(pool, modules, widths, bias)
    # Imported late: Numba is slow to load and a process may never need it.
    from gossamer.kernels.gain.cpu import CpuGain

    return CpuGain(pool, modules, widths, bias)
