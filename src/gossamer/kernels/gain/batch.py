"""What the gain needs to know of a step: plain arrays of fixed layout, built once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gossamer.kernels.arena import TableArena
from gossamer.kernels.runs import Chunks, Run, cut

LongArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

CHUNK = 8
"""The number of tokens of one unit of work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GainTable:
    """Places of one resident adapter's factors, float32; M modules of the whole model."""

    offsets: LongArray
    """Shape [M]: offset in the pool in elements; -1: the module has none."""
    scales_input: BoolArray
    """Shape [M]: whether the factors scale the module's inputs, not its outputs."""
    keeps_bias: bool
    """Whether factors of outputs leave the bias as it is (DoRA)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GainTables:
    """The tables of U adapters, side by side."""

    offsets: LongArray  # [U, M]
    scales_input: BoolArray  # [U, M]
    keeps_bias: BoolArray  # [U]


@dataclass(frozen=True, slots=True, kw_only=True)
class GainBatch:
    """Maps the tokens of a batch to the adapters whose factors scale them."""

    tables: GainTables
    chunks: Chunks
    scaled_inputs: BoolArray
    """Shape [M]: whether any adapter of the step scales the module's inputs."""

    def scales_inputs_of(self, modules: Sequence[int] | LongArray) -> bool:
        """Whether any adapter scales the inputs of a group: one of a single module."""
        return len(modules) == 1 and bool(self.scaled_inputs[modules[0]])


def table_arena() -> TableArena[GainTable, GainTables]:
    """Make an empty arena for the tables of this operation."""
    return TableArena(
        GainTables,
        modules=("offsets", "scales_input"),
        numbers={"keeps_bias": lambda table: np.bool_(table.keeps_bias)},
    )


def stack_tables(adapters: Sequence[GainTable]) -> GainTables:
    """Put tables side by side, the slot of each being its place in `adapters`."""
    return table_arena().stack(adapters)


def make_batch(tables: GainTables, runs: Sequence[Run], num_workers: int) -> GainBatch:
    """Describe a step with these runs; each token is in one run at most."""
    used = sorted({run.slot for run in runs})
    return GainBatch(
        tables=tables,
        chunks=cut(runs, CHUNK, num_workers, lambda slot, count: count),
        scaled_inputs=np.asarray(tables.scales_input[used].any(axis=0)),
    )
