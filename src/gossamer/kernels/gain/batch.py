"""What the gain needs to know of a step: plain arrays of fixed layout, built once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gossamer.kernels.runs import Chunks, Run, cut

LongArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

CHUNK = 8
"""Tokens of a unit of work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GainTable:
    """Where the factors of one resident adapter lie, float32; M modules of the whole model."""

    offsets: LongArray
    """[M] offset in the pool in elements; -1: the module has none."""
    scales_input: BoolArray
    """[M] the factors are of the module's inputs."""
    keeps_bias: bool
    """Factors of outputs do not scale the bias (DoRA)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GainTables:
    """The tables of the adapters of a step, U of them, side by side."""

    offsets: LongArray  # [U, M]
    scales_input: BoolArray  # [U, M]
    keeps_bias: BoolArray  # [U]


@dataclass(frozen=True, slots=True, kw_only=True)
class GainBatch:
    """Which tokens of the batch meet which adapter."""

    tables: GainTables
    chunks: Chunks


def stack_tables(adapters: Sequence[GainTable]) -> GainTables:
    """Put the tables of the adapters of a step side by side."""
    return GainTables(
        offsets=np.stack([a.offsets for a in adapters]),
        scales_input=np.stack([a.scales_input for a in adapters]),
        keeps_bias=np.array([a.keeps_bias for a in adapters]),
    )


def make_batch(tables: GainTables, runs: Sequence[Run], num_workers: int) -> GainBatch:
    """Describe a step with these runs; each token is in one run at most."""
    return GainBatch(tables=tables, chunks=cut(runs, CHUNK, num_workers, lambda slot, count: count))
